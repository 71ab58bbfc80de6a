"""What a training or an evaluation of ``bonito/`` is refused by before weights come: one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import yaml

from bonito.evaluate import stage as evaluate
from bonito.finetune import stage as finetune
from bonito.train_answering import stage as train_answering
from tasks.core.overlay import overlay
from tasks.core.parquet import write_table
from tasks.core.yaml_file import read_yaml
from tasks.lm import room
from tests.conftest import ROOT
from tests.lm.test_hub import Hub, own_hub  # noqa: F401 - a fixture

_STAGES: dict[str, Any] = {
    "finetune": finetune,
    "train_answering": train_answering,
    "evaluate": evaluate,
}
Refused = Callable[..., str]


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Return a function that starts a stage with a model, and returns its one line."""
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_table(Path("rows.parquet"), pa.table({"row_id": ["1"]}))

    def call(stage: str, model: str, **more: Any) -> str:
        of_model = {"generator": model} if stage == "evaluate" else {"model": model}
        section = "evaluate" if stage == "evaluate" else "finetune"
        plain = read_yaml(ROOT / "bonito/params.yaml")
        if stage == "train_answering":
            plain = read_yaml(ROOT / "bonito/answering/params.yaml")
            more.setdefault("start", str(ROOT / "supervision/none"))
        elif stage == "finetune":
            plain = overlay(plain, read_yaml(ROOT / "bonito/profiles/embedded.yaml"))
            more.setdefault("start", "")
        Path("params.yaml").write_text(
            yaml.safe_dump(overlay(plain, {section: {**of_model, **more}}))
        )
        capsys.readouterr()
        assert _STAGES[stage].main(["--rows", "rows.parquet", "--out", "out"]) == 2
        assert not Path("out").exists() and not Path("cache/merged").exists()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {stage}: ")
        return line.removeprefix(f"error: {stage}: ")

    return call


@pytest.mark.parametrize("stage", _STAGES)
def test_what_does_not_fit_is_refused_before_weights_come(
    stage: str,
    own_hub: Hub,  # noqa: F811
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_hub.gated = True
    setting = "evaluate.generator" if stage == "evaluate" else "finetune.model"
    line = refused(stage, "own/model")
    assert line.startswith(f"{setting}: ") and "is gated" in line
    own_hub.gated = False
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**4))
        line = refused(stage, "own/model")
        assert line.startswith("the run needs ") and "to download own/model in " in line
        assert ("for checkpoints and adapter of rank" in line) == (stage != "evaluate")
    with monkeypatch.context() as patch:
        patch.setattr(room, "card_bytes", lambda: 10**4)
        assert "of the GPU at least, which has" in refused(stage, "own/model")
    assert "model.safetensors" not in own_hub.fetched


@pytest.mark.parametrize("stage", ["finetune", "train_answering"])
def test_a_start_of_another_base_is_refused(stage: str, refused: Refused, tiny_model: Path) -> None:
    start = str(ROOT / "models/bonito-smollm2-135m")
    line = refused(stage, str(tiny_model), start=start)
    assert f"finetune.start = {start} was trained with model" in line


def test_the_judge_is_looked_at_too(refused: Refused, tiny_model: Path) -> None:
    line = refused("evaluate", str(tiny_model), judge="./absent")
    assert line.startswith("evaluate.judge: model './absent' is neither a folder here nor a hub")
