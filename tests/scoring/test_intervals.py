"""The smallest gain: one number, for `make plan` and `make label`."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

from scripts.plan import describe
from tasks.core.parquet import write_table
from tasks.core.rows import EVALUATIONS
from tasks.scoring.intervals import SPREAD, measured_spread, smallest_gain
from tasks.scoring.questions import HELD_OUT
from tasks.start.forecast import Range
from tasks.start.plan import Plan


def test_more_items_show_smaller_gains_and_none_show_none() -> None:
    found = smallest_gain(100, SPREAD)
    assert found == pytest.approx(0.1177, abs=1e-4)
    assert smallest_gain(400, SPREAD) == pytest.approx(found / 2)
    assert smallest_gain(0, SPREAD) is None


def test_a_plan_says_what_the_label_page_says() -> None:
    some = Range(1, 2)
    gain = smallest_gain(100, SPREAD)
    plan = Plan(
        passages=100,
        tried=32,
        labelled=100,
        kept_rows={"all": some},
        minutes={"all": some},
        peak_memory_mb=some,
        disk_mb=some,
        passage_tokens=1,
        generated_tokens=some,
        smallest_gain=gain,
        verdict="",
    )
    said = "smallest gain   11.8 points of F1 can be told from chance with 100 items"
    assert said in describe(plan, "mine")


def _leave_predictions(checkout: Path, items: int, dataset: str = "d") -> None:
    rows = [
        {"model": model, "item_id": str(n), "f1": f1, "template": "t", "dataset": dataset}
        for n in range(items)
        for model, f1 in (("zero_shot", 0.0), ("start", 0.5), ("adapted", float(n % 2)))
    ]
    path = checkout / "artifacts/evaluate/predictions.parquet"
    path.parent.mkdir(parents=True)
    write_table(path, pa.Table.from_pylist(rows, schema=EVALUATIONS))


def test_agreement_with_held_out_rows_is_no_spread(tmp_path: Path) -> None:
    """A run without labelled items asks its models generated rows: nothing of that is an F1."""
    _leave_predictions(tmp_path, 4, HELD_OUT)
    assert measured_spread(tmp_path) is None


def test_the_spread_is_that_of_the_last_run(tmp_path: Path) -> None:
    assert measured_spread(tmp_path) is None
    _leave_predictions(tmp_path, 4)
    assert measured_spread(tmp_path) == pytest.approx(math.sqrt(1 / 3))
