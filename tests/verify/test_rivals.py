"""Which rows of a run others make superfluous: the choice from a list of all rows, in memory of a
hundred bytes a row.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from tasks.scoring.f1 import normalise_answer
from tasks.verify.judging import Decision
from tasks.verify.rivals import DUPLICATE, NOT_BEST, find_beaten, find_unsure

_Row = tuple[str, str, float | None]
_Pair = tuple[dict[str, Any], Decision]


def _unsure(rows: Sequence[_Row], share: float, repairing: Sequence[_Row] = ()) -> set[str]:
    ids, kinds, confidences = (list(column) for column in zip(*rows, *repairing, strict=True))
    columns = pa.array(ids), pa.array(kinds), pa.array(confidences, pa.float64())
    found = find_unsure(*columns, share, len(repairing))
    return {row_id for row_id, unsure in zip(ids, found, strict=True) if unsure}


def _pair(row_id: str, agreement: float | None, **given: Any) -> _Pair:
    values = {"row_id": row_id, "passage_id": "p", "task_type": "exqa", "instruction": "How heavy?"}
    return values, Decision("2.9 tonnes", agreement, **given)


def test_a_share_of_each_type_stays_and_rows_without_a_confidence_all() -> None:
    rows: list[_Row] = [("a", "exqa", -0.9), ("b", "exqa", -0.2), ("c", "exqa", -0.5)]
    rows += [("d", "nli", None), ("e", "nli", None), ("f", "qa", -3.0)]
    assert _unsure(rows, 0.6) == {"a"} and not _unsure(rows, 1.0)
    assert _unsure([("b", "exqa", -1.0), ("a", "exqa", -1.0)], 0.5) == {"b"}


def test_a_row_to_repair_is_measured_by_the_surest_rows_and_takes_no_ones_place() -> None:
    rows: list[_Row] = [("a", "exqa", -0.9), ("b", "exqa", -0.2), ("c", "exqa", -0.5)]
    repairing: list[_Row] = [("d", "exqa", -0.4), ("e", "exqa", -0.6), ("f", "exqa", None)]
    repairing.append(("g", "qa", -3.0))
    assert _unsure(rows, 0.6, repairing) == {"a", "e"}


def test_the_best_rows_of_a_passage_stay_and_a_repeated_one_goes() -> None:
    pairs = [_pair("c", 0.8), _pair("b", 1.0), _pair("a", 1.0), _pair("d", None)]
    assert find_beaten(pairs, 1).tolist() == [NOT_BEST, NOT_BEST, "", ""]
    pairs = [_pair("a", 1.0, confidence=-0.4), _pair("b", 1.0, confidence=-0.1), _pair("c", 1.0)]
    assert find_beaten(pairs, 1).tolist() == [NOT_BEST, "", NOT_BEST]
    pairs = [_pair("a", 1.0), _pair("b", 1.0, origin="repaired"), _pair("c", 1.0, origin="adopted")]
    assert find_beaten(pairs, 0).tolist() == ["", DUPLICATE, DUPLICATE]
    assert find_beaten([], 1).tolist() == []


def test_an_excluded_row_takes_no_place_but_its_repetitions_go_with_it() -> None:
    wrong = _pair("a", 1.0, excluded=True)
    assert find_beaten([wrong, _pair("b", 1.0), _pair("c", 0.8)], 1).tolist() == ["", "", NOT_BEST]
    late = _pair("b", 0.8, excluded=True)
    assert find_beaten([_pair("a", 1.0), late], 1).tolist() == ["", NOT_BEST]
    assert find_beaten([wrong, _pair("b", 1.0, origin="adopted")], 1).tolist() == ["", DUPLICATE]


def _made(count: int) -> list[_Pair]:
    """Rows of few passages, instructions and answers, so that many equal each other."""
    draw = random.Random(count)
    rows: list[_Pair] = []
    for number in range(count):
        values = {
            "row_id": f"row-{draw.random():.9f}",
            "passage_id": f"passage-{number // 6}",
            "task_type": draw.choice(["exqa", "nli"]),
            "instruction": f"{number // 6} {draw.choice('ab')}",
        }
        decision = Decision(
            draw.choice(["A seal.", "a seal", "oil"]),
            draw.choice([None, 0.5, 1.0]),
            origin=draw.choice(["written", "written", "adopted", "repaired"]),
            grounded=draw.choice([0.5, 1.0]),
            confidence=draw.choice([None, -0.5, -0.1]),
            reasons=["reader_disagrees"] if draw.random() < 0.3 else [],
            excluded=draw.random() < 0.2,
        )
        rows.append((values, decision))
    return rows


def _beaten_in_memory(rows: list[_Pair], most: int) -> list[str]:
    """The same choice from a list of all rows with their texts."""
    kept = [(values, each) for values, each in rows if not each.reasons]
    keys = [(row["instruction"], normalise_answer(each.response)) for row, each in kept]
    seen = {key for key, (_, each) in zip(keys, kept, strict=True) if each.origin == "written"}
    reasons: dict[str, str] = {}
    for key, (values, each) in zip(keys, kept, strict=True):
        if each.origin != "written":
            if key in seen:
                reasons[values["row_id"]] = DUPLICATE
            seen.add(key)
    groups = defaultdict(list)
    for values, each in kept:
        if values["row_id"] not in reasons and each.agreement is not None:
            sure = -math.inf if each.confidence is None else each.confidence
            order = (-each.agreement, -sure, -each.grounded, values["row_id"])
            groups[values["passage_id"], values["task_type"]].append((order, each.excluded))
    for group in groups.values():
        places = most or len(group)
        for (*_, row_id), excluded in sorted(group):
            if not places:
                reasons[row_id] = NOT_BEST
            places -= bool(places) and not excluded
    return [reasons.get(values["row_id"], "") for values, _ in rows]


@pytest.mark.parametrize("most", [0, 1, 2])
def test_the_choice_is_that_from_a_list_of_all_rows(most: int) -> None:
    rows = _made(600)
    found = find_beaten(rows, most).tolist()
    assert found == _beaten_in_memory(rows, most)
    assert set(found) == {"", DUPLICATE} | ({NOT_BEST} if most else set())


def test_the_surest_rows_are_those_from_a_list_of_all_rows() -> None:
    draw = random.Random(3)
    rows: list[_Row] = [
        (f"row-{draw.random():.9f}", draw.choice(["exqa", "nli"]), draw.choice([None, -0.5, -0.1]))
        for _ in range(600)
    ]
    groups = defaultdict(list)
    for row_id, kind, confidence in rows:
        if confidence is not None:
            groups[kind].append((-confidence, row_id))
    wanted = {
        row_id
        for group in groups.values()
        for _, row_id in sorted(group)[math.ceil(0.6 * len(group)) :]
    }
    assert _unsure(rows, 0.6) == wanted
