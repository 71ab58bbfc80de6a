"""Traps of the tools' defaults that no other test holds against; docs/traps.md lists them all."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.core.params import Params
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "reference",
    re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", (ROOT / "docs/traps.md").read_text()),
    ids="::".join,
)
def test_the_table_names_tests_that_exist(reference: tuple[str, str]) -> None:
    file, function = reference
    assert not function or f"def {function}(" in (ROOT / file).read_text()
    assert (ROOT / file).is_file()


def test_dvc_asks_nobody_and_hashes_what_it_fetches() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc/config")
    assert config["core"]["analytics"] == config["core"]["check_update"] == "false"
    remotes = [section for section in config.sections() if "remote" in section]
    assert remotes and all(config[remote]["verify"] == "true" for remote in remotes)


def test_prefect_stores_json_and_gives_up_on_a_dead_server(tmp_path: Path) -> None:
    code = """
import pathlib, json
from flows.server import set_prefect_environment
set_prefect_environment(pathlib.Path.cwd())
from prefect.settings import get_current_settings
found = get_current_settings()
print(json.dumps([found.results.default_serializer, found.client.max_retries, found.server.analytics_enabled]))
"""
    given = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=given,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == ["json", 2, False]


@pytest.mark.parametrize("pins", ["cpu.txt", "gpu.txt"])
def test_packages_that_are_traps_are_no_pins(pins: str) -> None:
    """kernels fetches code from a hub; pymupdf is AGPL; a Jinja older than 3.1.6 has holes in its
    sandbox.
    """
    names = dict(
        re.findall(
            r"^([\w.-]+)==([\w.+]+)", (ROOT / "requirements" / pins).read_text(), re.MULTILINE
        )
    )
    assert len(names) > 100
    assert not {"kernels", "pymupdf"} & names.keys()
    assert tuple(map(int, names["jinja2"].split("."))) >= (3, 1, 6)


@pytest.mark.parametrize(
    "word",
    [
        "trust_remote_code=True",
        "speculative_config",
        "prompt_logprobs",
        "pickle.load",
        "torch.load(",
        '"--queue"',
        "attn_implementation",
    ],
)
def test_what_is_not_used(word: str) -> None:
    files = [
        path for folder in ("tasks", "flows", "bonito") for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 60
    assert [str(path) for path in files if word in path.read_text()] == []


def test_the_training_instance_is_never_put_into_evaluation(
    params: Params, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU bitsandbytes repacks the 4-bit weights at the first forward in that mode, and
    gradients are silently gone.
    """
    import bitsandbytes
    import torch

    from tasks.lm.examples import Example
    from tasks.lm.training import train

    told: list[bool] = []
    real = torch.nn.Module.train

    def spy(self: Any, mode: bool = True) -> Any:
        if isinstance(self, bitsandbytes.nn.Linear4bit):
            told.append(mode)
        return real(self, mode)

    asked = {
        "model": str(tiny_model),
        "precision": "float32",
        "resident": "nf4",
        "quantization": "nf4",
        "max_steps": 2,
        "batch_rows": 2,
        "micro_batch_rows": 2,
    }
    settings = params.finetune.model_copy(update=asked)
    seen: list[bool] = []

    def on_step(step: int, last: int, loss: float) -> None:
        seen.append(bool(told) and not told[-1])

    monkeypatch.setattr(torch.nn.Module, "train", spy)
    examples = [Example([0, 10, 11], [20 + number, 1]) for number in range(4)]
    train(examples, settings, 1, tmp_path / "out", tmp_path / "checkpoints", on_step)
    assert len(seen) == 2 and told and not any(seen), "the training instance was in evaluation mode"
