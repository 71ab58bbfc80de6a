"""Which held-out rows the generator is evaluated on."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa

from bonito.evaluate import stage as evaluate
from bonito.params import GeneratorEvaluate
from tasks.core.files import row_seed
from tasks.core.parquet import Batches, TableWriter
from tasks.core.task_types import TASK_TYPES


def _rows_to_draw(count: int) -> list[dict[str, Any]]:
    """Rows of two types, a passage in four of them; the later ones are longer."""
    return [
        {
            "row_id": f"{n}",
            "dataset": "made",
            "task_type": ("exqa", "nli")[n % 2],
            "context": f"passage {n // 4} " * (1 + n // 4),
            "instruction": "Why?",
            "response": "A seal.",
        }
        for n in range(count)
    ]


def _draw(rows: Any, **given: Any) -> list[dict[str, Any]]:
    values = {"rows_per_type": 6, "max_context_chars": 300} | given
    batches = (
        rows
        if isinstance(rows, Batches)
        else [pa.Table.from_pylist(rows[:7]), pa.Table.from_pylist(rows[7:])]
    )
    return evaluate.draw_rows(batches, GeneratorEvaluate.model_validate(values))


def test_the_same_rows_are_drawn_for_every_generator_and_no_passage_twice() -> None:
    rows = _rows_to_draw(80)
    drawn = _draw(rows)
    for kind in ("exqa", "nli"):
        contexts = [row["context"] for row in drawn if row["task_type"] == kind]
        assert len(contexts) == 6 == len(set(contexts)) and max(map(len, contexts)) <= 300
    assert _draw(rows[::-1]) == drawn and _draw(rows, seed=2) != drawn


def test_the_draw_is_that_from_a_list_of_all_rows() -> None:
    rows = _rows_to_draw(300)
    wanted = []
    for kind in ("nli", "exqa"):
        of_kind = [row for row in rows if row["task_type"] == kind and len(row["context"]) <= 300]
        passages: dict[str, dict[str, Any]] = {}
        for row in sorted(
            of_kind, key=lambda row: (row_seed(1, kind, row["row_id"]), row["row_id"])
        ):
            passages.setdefault(row["context"], row)
        wanted += list(passages.values())[:6]
    order = [kind for kind in TASK_TYPES if kind in ("exqa", "nli")]
    assert _draw(rows, seed=1) == sorted(wanted, key=lambda row: order.index(row["task_type"]))


def test_of_many_rows_the_drawn_ones_are_held(tmp_path: Path, bounded_arrow: Any) -> None:
    """A row is 2 kB: all of them as Python objects were 20 MB."""
    schema = pa.schema([(name, pa.string()) for name in _rows_to_draw(1)[0]])
    path = tmp_path / "rows.parquet"
    with TableWriter(path, schema) as writer:
        for number in range(8_000):
            row = _rows_to_draw(1)[0] | {"row_id": f"{number}"}
            writer.add(row | {"context": f"passage {number} " * 130})
    with bounded_arrow(30e6):
        tracemalloc.start()
        drawn = _draw(Batches(path, schema), max_context_chars=0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(drawn) == 6 and peak < 14e6
