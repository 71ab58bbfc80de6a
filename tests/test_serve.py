"""Serving a registered model: what names one, and the server's command line. The server itself is started by hand (docs/operations.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import engine, serve
from tasks.errors import PipelineError
from tasks.tracking import parse_model_uri


@pytest.mark.parametrize(
    ("uri", "parts"),
    [("models:/a-b.c@champion", ("a-b.c", "champion", "")), ("models:/x/12", ("x", "", "12"))],
)
def test_names_of_registered_models(uri: str, parts: tuple[str, str, str]) -> None:
    assert parse_model_uri(uri) == parts


@pytest.mark.parametrize("uri", ["a-b", "models:/x", "models:/x/latest", "runs:/1/adapter", "models:/x@"])
def test_other_names_are_refused(uri: str) -> None:
    with pytest.raises(PipelineError, match="names no registered model: write models:/NAME@champion"):
        parse_model_uri(uri)


def test_a_model_nobody_registered_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    assert serve.main(["--model", "models:/nobody@champion"]) == 2
    assert "error: serve: models:/nobody@champion is not in sqlite:" in capsys.readouterr().err


def test_the_cpu_serves_merged_weights_and_the_gpu_an_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.torch.cuda, "is_available", lambda: False)
    command, _ = engine.serve_command(tmp_path, "m", "127.0.0.1", 8000, 512, "float32", None, 16)
    assert "--enable-lora" not in command and command[command.index("--served-model-name") + 1] == "m" and "--enforce-eager" in command
    monkeypatch.setattr(engine.torch.cuda, "is_available", lambda: True)
    command, _ = engine.serve_command(tmp_path, "m", "127.0.0.1", 8000, 512, "float32", tmp_path / "adapter", 24)
    assert command[command.index("--lora-modules") + 1] == f"m={tmp_path / 'adapter'}" and command[command.index("--max-lora-rank") + 1] == "32"
    assert "--trust-remote-code" not in command and command[command.index("--load-format") + 1] == "safetensors"
