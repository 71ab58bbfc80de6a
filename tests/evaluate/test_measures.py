"""F1 on the general tasks, and what its intervals draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.params import Params
from tasks.core.parquet import write_table
from tasks.core.rows import EVALUATIONS
from tasks.evaluate.measures import measure_general
from tasks.scoring.general import name_passages


def _answers(model: str, passages: int, questions: int, right: int) -> pa.Table:
    """Return answers that are right on every ``right``-th passage, whatever the question is."""
    empty = {"dataset": "general", "prompt": "", "prediction": "", "golds": [""]}
    rows = [
        {
            **empty,
            "model": model,
            "template": "exqa",
            "item_id": f"{passage:02d}-{question}",
            "choices": [],
            "scores": [],
            "f1": float(passage % right == 0),
        }
        for passage in range(passages)
        for question in range(questions)
    ]
    return pa.Table.from_pylist(rows, schema=EVALUATIONS)


def test_the_intervals_of_general_tasks_draw_whole_passages(params: Params) -> None:
    """Three questions that are right or wrong together tell no more than one of them."""

    def measure(questions: int) -> dict[str, Any]:
        tables = {
            model: _answers(model, 20, questions, right)
            for model, right in (("zero_shot", 4), ("adapted", 2))
        }
        ids = tables["adapted"]["item_id"].to_pylist()
        passages = {name: name.split("-")[0] for name in ids}
        return measure_general(tables, passages, params.evaluate)

    one, three = measure(1), measure(3)
    for name in ("zero_shot", "adapted", "change"):
        assert three[name] == one[name], name
    assert three["tasks"] == 60


def test_a_passage_is_one_however_it_is_spaced_and_a_task_without_one_is_its_own(
    tmp_path: Path, params: Params
) -> None:
    contexts = {"a": "One  text.", "b": "One text.\n", "c": "Another.", "d": "", "e": " "}
    rows = [
        {
            "row_id": name,
            "task_type": "exqa",
            "context": context,
            "instruction": "{{context}} What?",
            "response": "text",
        }
        for name, context in contexts.items()
    ]
    write_table(tmp_path / "heldout.parquet", pa.Table.from_pylist(rows))
    found = name_passages(tmp_path / "heldout.parquet", params.baseline)
    assert set(found) == set(contexts)
    assert found["a"] == found["b"] and len(set(found.values())) == 4
