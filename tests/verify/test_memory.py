"""A million rows must not fill the memory: verify reads them batch by batch, and holds of each its
ids and a few numbers.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.core import parquet
from tasks.core.files import read_json
from tasks.core.parquet import TableWriter
from tasks.core.rows import INSTRUCTIONS, PASSAGES, PREDICTIONS, QUARANTINE
from tasks.lm.engine import Completion
from tasks.verify import reader
from tasks.verify import stage as verify
from tasks.verify.judging import Decision
from tasks.verify.rivals import NOT_BEST, find_beaten
from tests.verify.conftest import NONE

_COUNT = 4_000


class _Knowing:
    """Answers with the seal that the prompt names; every fifth one is answered wrongly."""

    def __init__(self, *_: Any) -> None:
        pass

    def generate(self, prompts: Sequence[str], *_: Any) -> list[Completion]:
        numbers = [int(prompt.rpartition("seal-")[2].rstrip("?")) for prompt in prompts]
        return [
            Completion(f"seal-{number}" if number % 5 else "noon", 3, True) for number in numbers
        ]


def _write(count: int) -> None:
    """Write rows of 2 kB, two on each passage."""
    for name, schema in (("quarantine", QUARANTINE), ("passages", PASSAGES)):
        TableWriter(Path(f"{name}.parquet"), schema).close()
    with (
        TableWriter(Path("instructions.parquet"), INSTRUCTIONS) as rows,
        TableWriter(Path("predictions.parquet"), PREDICTIONS) as predictions,
    ):
        for number in range(count):
            passage = f"Passage {number // 2}. " + "A pump stood still. " * 50
            row = {"row_id": f"row-{number:06d}", "passage_id": f"{number // 2:016x}"}
            text = {"context": passage, "instruction": f"{passage}\n\nA or seal-{number}?"}
            kind = {"document": f"{number // 20}.md", "task_type": "mcqa"}
            rows.add({**row, **kind, **text, "response": f"seal-{number}"})
            predictions.add({"row_id": row["row_id"], "confidence": -number % 7 / 7})


def test_of_many_rows_no_more_than_a_batch_is_held(
    workplace: Path, make_params: Any, monkeypatch: pytest.MonkeyPatch, bounded_arrow: Any
) -> None:
    """As Python objects all the rows are 12 MB, a batch of 512 is one and a half."""
    monkeypatch.setattr(reader, "AddressEngine", _Knowing)
    monkeypatch.setattr(parquet, "GROUP", 512)
    settings = {"reader": "some-model", "address": "http://127.0.0.1:1/v1", "answers": 1}
    settings |= {"tests": NONE, "reviews": NONE, "adopt": False, "min_agreement": 0.5}
    settings |= {"confident_share": 0.9, "keep_per_passage": 1, "shard_rows": 512}
    params = make_params(verify=settings)
    names = ("instructions", "quarantine", "passages", "predictions")
    inputs = [part for name in names for part in (f"--{name}", f"{name}.parquet")]
    arguments = ["--params", str(params), *inputs, "--out", "out"]
    _write(40)
    assert verify.main(arguments) == 0, "what is imported on the way is not counted below"
    _write(_COUNT)
    with bounded_arrow(30e6):
        tracemalloc.start()
        status = verify.main(arguments)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert status == 0
    summary = read_json(Path("out/summary.json"))
    assert summary["rows_in"] == _COUNT and summary["dropped"]["generator_unsure"] == _COUNT // 10
    assert set(summary["dropped"]) == {"generator_unsure", NOT_BEST, "reader_disagrees"}
    assert peak < 9e6


def test_rows_are_compared_in_a_hundred_bytes_each(bounded_arrow: Any) -> None:
    count = 50_000

    def rows() -> Iterator[tuple[dict[str, Any], Decision]]:
        for number in range(count):
            values = {"row_id": f"row-{number}", "passage_id": f"{number // 2:016x}"}
            values |= {"task_type": "exqa", "instruction": f"What broke in {number}?"}
            yield values, Decision("its seal", number % 3 / 2, confidence=-1.0)

    with bounded_arrow(30e6):
        tracemalloc.start()
        beaten = find_beaten(rows(), 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(beaten) == count and (beaten == NOT_BEST).sum() == count // 2
    assert peak < 10e6
