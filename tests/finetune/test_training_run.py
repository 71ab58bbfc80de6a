"""The MLflow run that a training opens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.params import Params
from tasks.finetune import stage as finetune


def test_it_names_the_commit_of_a_hub_model(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow keeps the first value of a parameter, and register looks for the commit: a run on next
    words would never be found to compare with.
    """
    asked: dict[str, Any] = {}

    @contextlib.contextmanager
    def opened(experiment: str, key: str, settings: dict[str, Any]) -> Iterator[Any]:
        asked.update(settings)
        yield SimpleNamespace()

    monkeypatch.setattr(finetune, "open_training_run", opened)
    monkeypatch.setattr(finetune, "take_cards", lambda: None)
    pinned = params.finetune.model_copy(update={"revision": "c" * 40, "precision": "float32"})
    training: Any = SimpleNamespace(params=pinned, key="k" * 64, train=lambda *_: None)
    with contextlib.ExitStack() as afterwards:
        stage: Any = SimpleNamespace(
            params=params, work=tmp_path, out=tmp_path / "out", afterwards=afterwards
        )
        stage.progress = lambda *_: None
        finetune._train(stage, training, pa.array(["a" * 64]))
    assert asked == params.finetune.model_dump(mode="json") | {"revision": "c" * 40}
