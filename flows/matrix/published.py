"""A matrix's figures beside the published ones, and the paper's claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flows.matrix.matrix_file import Matrix
from flows.matrix.results import Result
from flows.matrix.words import short

#: In points: a figure is reproduced if ours is closer than MARGIN to it, and our interval at most
#: WIDEST wide. The interval of a few items is so wide that it holds nearly every figure.
MARGIN, WIDEST = 3.0, 12.0
#: The paper's claims: a supervision, what it is compared with, the claim, the verdict it needs.
_CLAIMS = (
    ("bonito", "vs_none", "Bonito beats zero-shot", "better"),
    ("bonito", "vs_tapt", "Bonito beats next-word training", "better"),
    ("tapt", "vs_none", "Next-word training does not help", "worse"),
)


def compare_published(
    published: dict[str, Any],
    groups: Sequence[dict[str, Any]],
    results: Sequence[Result],
    matrix: Matrix,
) -> list[dict[str, Any]]:
    """Return one row for each published figure with ours: reproduced (our interval holds it, is at
    most WIDEST wide, and the difference is under MARGIN), deviates (our interval does not hold it),
    cannot tell, or not run (why).
    """
    model = str(published["model"])
    rows = []
    for dataset, figures in published["figures"].items():
        for supervision, figure in figures.items():
            row = {
                "dataset": dataset,
                "supervision": supervision,
                "published": figure,
                "ours": None,
                "status": "not run",
                "reason": "",
            }
            matching = [
                group
                for group in groups
                if (group["dataset"], group["supervision"]) == (dataset, supervision)
                and not group["variant"]
                and short(group["model"]) == short(model)
            ]
            if matching:
                group = max(matching, key=_size)
                status, reason = _compare(group, figure)
                row |= {"ours": group, "status": status, "reason": reason}
            else:
                row["reason"] = _why_not_run(model, dataset, supervision, results, matrix)
            rows.append(row)
    return rows


def _size(group: dict[str, Any]) -> float:
    """Return a group's number of rows; 0 are all of them."""
    return group["rows"] or math.inf


def _compare(group: dict[str, Any], figure: float) -> tuple[str, str]:
    """Return a status and its reason."""
    change, width = group["f1"] - figure, group["f1_high"] - group["f1_low"]
    points = f"{change:+.1f} points"
    if not group["f1_low"] <= figure <= group["f1_high"]:
        return "deviates", points
    if abs(change) < MARGIN and width <= WIDEST:
        return "reproduced", ""
    return "cannot tell", f"{points}, our interval is {width:.1f} wide"


def _why_not_run(
    model: str, dataset: str, supervision: str, results: Sequence[Result], matrix: Matrix
) -> str:
    for result in results:
        cell = result.cell
        same = (cell.dataset, cell.supervision) == (dataset, supervision)
        if same and short(cell.model) == short(model) and result.status != "done":
            return result.reason
    if short(model) not in map(short, matrix.models):
        return f"needs {short(model)}; this matrix ran {', '.join(map(short, matrix.models))}"
    return "not asked for by this matrix"


def judge_claims(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the paper's three claims for each model and dataset, at the largest number of rows.

    A claim holds, does not hold, or is undecided (0 in the interval, or ``p_holm`` over 0.05).
    """
    plain = [group for group in groups if not group["variant"]]
    largest: dict[tuple[str, ...], float] = {}
    for group in plain:
        place = (group["model"], group["dataset"], group["supervision"])
        largest[place] = max(largest.get(place, 0), _size(group))
    return [
        _claim(group, claim, group[against], expected)
        for group in plain
        if _size(group) == largest[group["model"], group["dataset"], group["supervision"]]
        for supervision, against, claim, expected in _CLAIMS
        if group["supervision"] == supervision and group[against]
    ]


def _claim(
    group: dict[str, Any], claim: str, change: dict[str, Any], expected: str
) -> dict[str, Any]:
    status = "holds" if change["verdict"] == expected else "does not hold"
    return {
        **{name: group[name] for name in ("model", "dataset", "rows")},
        "claim": claim,
        "change": change,
        "status": "undecided" if change["verdict"] == "undecided" else status,
    }
