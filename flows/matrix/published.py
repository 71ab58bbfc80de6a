"""A matrix's figures beside the published ones, and the paper's claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flows.matrix.matrix_file import Matrix
from flows.matrix.results import Result
from flows.matrix.words import short

#: In points: a figure is reproduced if ours is closer than MARGIN to it, and our interval at most
#: WIDEST wide. The interval of a few items is so wide that it holds nearly every figure.
MARGIN, WIDEST = 3.0, 12.0


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
                group = max(matching, key=lambda entry: entry["rows"] or 10**9)
                status, reason = _compare(group, figure)
                row |= {"ours": group, "status": status, "reason": reason}
            else:
                row["reason"] = _why_not_run(model, dataset, supervision, results, matrix)
            rows.append(row)
    return rows


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
    failed = [
        r
        for r in results
        if (r.cell.dataset, r.cell.supervision) == (dataset, supervision)
        and short(r.cell.model) == short(model)
        and r.status != "done"
    ]
    if failed:
        return failed[0].reason
    if short(model) not in map(short, matrix.models):
        return f"needs {short(model)}; this matrix ran {', '.join(map(short, matrix.models))}"
    return "not asked for by this matrix"


def judge_claims(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the paper's three claims for each model and dataset, at the largest number of rows.

    A claim holds, does not hold, or is undecided (0 in the interval, or ``p_holm`` over 0.05).
    """
    rows: list[dict[str, Any]] = []
    largest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for group in sorted(
        (group for group in groups if not group["variant"]),
        key=lambda entry: entry["rows"] or 10**9,
    ):
        largest[group["model"], group["dataset"], group["supervision"]] = group
    for group in (group for group in groups if group in largest.values()):
        if group["supervision"] == "bonito" and group["vs_none"]:
            rows.append(_claim(group, "Bonito beats zero-shot", group["vs_none"], "better"))
        if group["supervision"] == "bonito" and group["vs_tapt"]:
            rows.append(
                _claim(group, "Bonito beats next-word training", group["vs_tapt"], "better")
            )
        if group["supervision"] == "tapt" and group["vs_none"]:
            rows.append(
                _claim(group, "Next-word training does not help", group["vs_none"], "worse")
            )
    return rows


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
