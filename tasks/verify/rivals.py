"""Rules that compare the rows of a run with each other. Of each row they hold its ids and a few
numbers, never its texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.files import fingerprint
from tasks.core.parquet import gather
from tasks.scoring.f1 import normalise_answer
from tasks.verify.judging import WRITTEN, Decision

#: Reason of a row that took the reader's answer and so equals one that is kept.
DUPLICATE = "duplicate"
#: Reason of a row of a passage and task type of which better ones are kept.
NOT_BEST = "not_best_of_passage"

_KEPT = pa.schema(
    [
        ("row_id", pa.string()),
        ("passage_id", pa.string()),
        ("task_type", pa.string()),
        ("written", pa.bool_()),
        ("key", pa.binary(32)),
        ("agreement", pa.float64()),
        ("confidence", pa.float64()),
        ("grounded", pa.float64()),
        ("excluded", pa.bool_()),
    ]
)
#: The best row comes first; of equal rows the one with the lower id.
_BEST_FIRST = [
    ("agreement", "descending"),
    ("confidence", "descending"),
    ("grounded", "descending"),
    ("row_id", "ascending"),
    ("place", "ascending"),
]


def find_unsure(
    row_ids: Any, kinds: Any, confidences: Any, share: float, repairing: int = 0
) -> np.ndarray:
    """Tell of each row whether it is not among the ``share`` (0-1) of its task type that the
    generator was surest of. A row without a confidence never is one of them.

    The arguments are Arrow columns, a value a row. Of equal rows the one with the lower id stays.
    The last ``repairing`` rows take no other one's place: of those the generator has to be as sure
    as of the last row that stays.
    """
    unsure = np.zeros(len(row_ids), bool)
    if share == 1.0:
        return unsure
    places = pa.array(np.arange(len(row_ids)))
    rows = pa.table(
        {"place": places, "row_id": row_ids, "task_type": kinds, "confidence": confidences}
    )
    rows = rows.filter(pc.is_valid(rows["confidence"]))
    for kind in pc.unique(rows["task_type"]):
        group = rows.filter(pc.equal(rows["task_type"], kind)).sort_by(
            [("confidence", "descending"), ("row_id", "ascending")]
        )
        ordered = group["place"].to_numpy()
        written = np.flatnonzero(ordered < len(row_ids) - repairing)
        if len(written):
            last = written[math.ceil(Fraction(str(share)) * len(written)) - 1]
            unsure[ordered[last + 1 :]] = True
    return unsure


def find_beaten(rows: Iterable[tuple[dict[str, Any], Decision]], most: int) -> np.ndarray:
    """Return of each row the reason why another one that is kept makes it superfluous, or "".

    A row that took the reader's answer may equal another one. ``most`` is how many rows of a
    passage and task type stay, the best ones; 0: all. Rows of types that are not judged all stay.
    An excluded row takes no other one's place, and is beaten by those that would be kept without
    it. It still makes its repetitions superfluous: they are as wrong.
    """
    table = gather((_columns(*row) for row in rows), _KEPT)
    places = pa.array(np.arange(len(table)))
    kept = table.append_column("place", places).filter(pc.is_valid(table["row_id"]))
    reasons = np.full(len(table), "", object)
    reasons[_find_repeated(kept)] = DUPLICATE
    if most:
        stays = pa.array(reasons[kept["place"].to_numpy()] == "")
        reasons[_find_worse(kept.filter(stays), most)] = NOT_BEST
    return reasons


def _columns(values: dict[str, Any], decision: Decision) -> tuple[Any, ...]:
    """Return what is held of a row: nothing where it is not kept."""
    if decision.reasons:
        return (None,) * len(_KEPT)
    key = fingerprint(values["instruction"], normalise_answer(decision.response))
    return (
        values["row_id"],
        values["passage_id"],
        values["task_type"],
        decision.origin == WRITTEN,
        bytes.fromhex(key),
        decision.agreement,
        -math.inf if decision.confidence is None else decision.confidence,
        decision.grounded,
        decision.excluded,
    )


def _find_repeated(kept: pa.Table) -> np.ndarray:
    """Return the places of rows that took the reader's answer and equal a written row, or an
    earlier one that took it.
    """
    ordered = kept.select(["place", "written", "key"]).sort_by(
        [("key", "ascending"), ("written", "descending"), ("place", "ascending")]
    )
    takes = ~ordered["written"].to_numpy()
    return ordered["place"].to_numpy()[takes & ~_begins(ordered, ["key"])]


def _find_worse(kept: pa.Table, most: int) -> np.ndarray:
    """Return the places of the judged rows that ``most`` better ones of their passage and type
    leave no place; excluded rows take none.
    """
    group = ["passage_id", "task_type"]
    judged = kept.filter(pc.is_valid(kept["agreement"]))
    ordered = judged.sort_by([*((name, "ascending") for name in group), *_BEST_FIRST])
    begins = np.flatnonzero(_begins(ordered, group))
    sizes = np.diff(begins, append=len(ordered))
    takes = ~ordered["excluded"].to_numpy()
    better = np.cumsum(takes) - takes  # of all groups before as well
    better -= np.repeat(better[begins], sizes)
    return ordered["place"].to_numpy()[better >= most]


def _begins(ordered: pa.Table, group: list[str]) -> np.ndarray:
    """Tell of each row of a sorted table whether it is the first of its group."""
    first = np.ones(len(ordered), bool)
    if len(ordered):
        first[1:] = False
    for name in group:
        column = ordered[name].combine_chunks()
        first[1:] |= pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    return first
