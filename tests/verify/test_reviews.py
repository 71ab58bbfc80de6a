"""What share is right by review, and when it has an interval."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import PipelineError
from tasks.core.params import Params
from tasks.core.quality import Reviewed
from tasks.core.setting_paths import NOTHING
from tasks.lm.adapters import start_adapter
from tasks.scoring.draw import SAMPLE, Draw
from tasks.scoring.general import general_tasks
from tasks.scoring.intervals import wilson
from tasks.scoring.reviews import Reviews, Verdict, review_key
from tasks.verify.guard import read_tests
from tests.conftest import ROOT
from tests.verify.conftest import make_row

_ROWS = [make_row(number, "exqa" if number % 3 else "ynqa") for number in range(300)]


def _key(row: dict[str, Any]) -> str:
    return review_key(row["instruction"], row["response"])


def _counted(read: Iterable[dict[str, Any]]) -> Reviews:
    """Return the reviews of ``read`` after all rows were counted; every second one is right."""
    verdicts = {
        _key(row): Verdict(
            row_id=row["row_id"],
            key=_key(row),
            task_type=row["task_type"],
            verdict="wrong" if number % 2 else "right",
            reason="read",
        )
        for number, row in enumerate(read)
    }
    reviews = Reviews(verdicts, seed=1)
    for row in _ROWS:
        reviews.count(row)
    return reviews


def test_a_file_of_another_kind_is_no_empty_one(tmp_path: Path, params: Params) -> None:
    """A mistyped name would else train and judge without what the user gave."""
    none, wrong = ROOT / NOTHING, tmp_path / "rows.txt"
    wrong.write_text("text\n")
    assert read_tests(none, ["exqa"], 10, 1) == [] == general_tasks(none, params.baseline)
    assert Reviews.read(none).verdicts == {}
    assert start_adapter(params.finetune, none) is None
    for read in (
        lambda: read_tests(wrong, ["exqa"], 10, 1),
        lambda: general_tasks(wrong, params.baseline),
        lambda: Reviews.read(wrong),
        lambda: start_adapter(params.finetune, wrong),
    ):
        with pytest.raises(PipelineError, match=r"rows\.txt"):
            read()


def _drawn() -> list[dict[str, Any]]:
    draw = Draw(SAMPLE, 1)
    for row in reversed(_ROWS):
        draw.add(_key(row), row)
    return [row for _, row in draw.rows()]


def _words(reviews: Reviews) -> str:
    return str(Reviewed.parse(reviews.figures()))


def test_without_a_verdict_there_is_no_share() -> None:
    figures = _counted([]).figures()
    assert (figures["right"], figures["reviewed"], figures["reviewed_of"]) == (None, 0, 300)
    assert _words(_counted([])) == "not reviewed"


def test_all_rows_read_have_an_interval() -> None:
    assert _words(_counted(_ROWS)) == "50 % (44 to 56; 300 of 300 kept rows read)"


def test_the_rows_that_review_draws_have_an_interval_and_others_do_not_count_in_it() -> None:
    drawn = _drawn()
    assert len(drawn) == SAMPLE
    figures = _counted(drawn).figures()
    assert (figures["right"], figures["reviewed"]) == (0.5, SAMPLE)
    assert (figures["right_low"], figures["right_high"]) == tuple(
        round(bound, 4) for bound in wilson(50, SAMPLE)
    )
    by_type = _counted(drawn).by_task_type()
    assert {kind: told["reviewed_of"] for kind, told in by_type.items()} == {
        "exqa": 200,
        "ynqa": 100,
    }
    for kind, told in by_type.items():
        mine = [number % 2 for number, row in enumerate(drawn) if row["task_type"] == kind]
        low, _ = wilson(mine.count(0), len(mine))
        assert (told["reviewed"], told["right_low"]) == (len(mine), round(low, 4))
    others = [row for row in _ROWS if row not in drawn]
    more = _counted([*drawn, *others[1::2], *others[:50]])
    assert _words(more) == "50 % (40 to 60; 100 of 300 kept rows read)"


def test_rows_that_happen_to_have_a_verdict_have_none() -> None:
    assert _words(_counted(_ROWS[:200])) == "50 % (200 of 300 kept rows read, no sample of them)"
    part = _counted(_drawn()[1:]).figures()
    assert (part["right_low"], part["right_high"], part["reviewed"]) == (None, None, 99)
