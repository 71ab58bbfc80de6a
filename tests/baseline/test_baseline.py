"""baseline: the unadapted model, asked everything once; without items nobody is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.baseline import stage as module
from tasks.baseline.stage import main
from tasks.core.files import read_json, sha256_file
from tasks.core.parquet import read_table
from tests.registered import NONE

_PASSAGE = "The bearing of pump 3 failed because its seal broke."


@pytest.fixture
def params(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_params: Any, tiny_model: Path
) -> Path:
    """Parameters of a tiny model without a start; the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    dataset = NONE.parents[1] / "datasets/incidents.yaml"
    made: Path = make_params(
        finetune={"model": str(tiny_model), "start": str(NONE), "precision": "float32"},
        evaluate={"dataset": str(dataset), "engine": "transformers", "templates": 2},
        baseline={"general": str(NONE)},
    )
    return made


def _run(params: Path, items: Path) -> int:
    asked = ["--params", str(params), "--items", str(items), "--out", "artifacts/baseline"]
    return main(asked)


def test_it_asks_every_item_in_every_wording_and_nothing_twice(
    params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"id": f"q{number}", "context": _PASSAGE, "question": "Why?", "answers": ["its seal"]}
        for number in range(3)
    ]
    Path("items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _run(params, Path("items.jsonl")) == 0
    table = read_table(Path("artifacts/baseline/predictions.parquet"))
    asked = zip(table["item_id"].to_pylist(), table["template"].to_pylist(), strict=True)
    assert len(set(asked)) == len(table) == 6
    assert set(table["model"].to_pylist()) == {"zero_shot"}
    told = read_json(Path("artifacts/baseline/summary.json"))
    assert (told["rows_in"], told["templates"], told["general"]) == (3, 2, 0)
    before = sha256_file(Path("artifacts/baseline/predictions.parquet"))
    monkeypatch.setattr("tasks.scoring.predict.open_engine", None)
    assert _run(params, Path("items.jsonl")) == 0, "its answers are in the journal"
    assert sha256_file(Path("artifacts/baseline/predictions.parquet")) == before


def test_without_items_no_model_is_opened(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "answer", None)
    assert _run(params, NONE) == 0
    assert not len(read_table(Path("artifacts/baseline/predictions.parquet")))
    assert read_json(Path("artifacts/baseline/summary.json"))["rows_in"] == 0
