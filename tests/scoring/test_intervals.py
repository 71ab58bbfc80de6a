"""The smallest gain: one number, for `make plan` and `make label`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from scripts.plan import describe, to_json
from tasks.core.parquet import write_table
from tasks.core.rows import EVALUATIONS
from tasks.scoring.intervals import (
    SPREAD,
    bound_spread,
    measured_spread,
    smallest_gain,
    spread_ends,
)
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
        detectable_gain=Range(0.07, 0.12),
        gpu_hours=Range(0.25, 0.5),
    )
    said = "11.8 points of F1 (7.0 to 12.0) can be told from chance with 100 items"
    shown = describe(plan, "mine")
    assert f"smallest gain   {said}" in shown and "GPU hours       0.25 to 0.50" in shown
    told = to_json(plan, "mine", "mine", 1.0)
    assert told["detectable_gain"] == {"low": 0.07, "high": 0.12}
    assert told["gpu_hours"] == {"low": 0.25, "high": 0.5}


def test_the_spread_has_two_ends(tmp_path: Path) -> None:
    """Those of the shipped example where no run has measured it; of few items there are none."""
    assert spread_ends(tmp_path) == (0.25, SPREAD)
    for items, held in ((8, False), (100, True)):
        checkout = tmp_path / str(items)
        _leave_predictions(checkout, items)
        ends = spread_ends(checkout)
        assert bool(ends) == held
    assert ends and ends[0] <= (measured_spread(checkout) or 0) <= ends[1]
    assert ends == spread_ends(checkout), "the same again"


def test_ends_hold_four_of_five_spreads() -> None:
    chance = np.random.default_rng(3)
    held = 0
    for _ in range(100):
        low, high = bound_spread(chance.choice([-1.0, 0.0, 0.0, 0.5, 1.0], 60))
        held += low <= np.std([-1.0, 0.0, 0.0, 0.5, 1.0]) <= high
    assert 68 <= held <= 92


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
