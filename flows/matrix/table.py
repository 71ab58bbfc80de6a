"""A matrix's tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flows.matrix.matrix_file import Matrix
from flows.matrix.results import Result
from flows.matrix.words import PRIOR_CORRECTED, budget, change, label, short, spread
from tasks.core.markdown import table
from tasks.core.page import number

_HEADS = (
    "model",
    "dataset",
    "supervision",
    "rows",
    "F1",
    "against zero-shot",
    "against start alone",
    "against TAPT",
    "over templates",
    "majority",
    "prior corrected",
    "rows trained",
    "tokens",
    "wall s",
)


def render_tables(
    matrix: Matrix,
    groups: Sequence[dict[str, Any]],
    published: Sequence[dict[str, Any]],
    results: Sequence[Result],
) -> str:
    """Return the report's tables as Markdown; the column of the start only where there is one."""
    heads, rows = list(_HEADS), [list(_group_cells(group)) for group in groups]
    if not any(group["vs_start"] for group in groups):
        place = heads.index("against start alone")
        for line in (heads, *rows):
            del line[place]
    failed = [
        f"- {result.cell.name}: {result.status}: {result.reason}"
        for result in results
        if result.status != "done"
    ]
    parts = [
        f"# Matrix {matrix.name}",
        budget(matrix),
        "F1 in points, 95 % intervals over passages and templates in brackets; they are not "
        "corrected for the number of comparisons, the verdicts in groups.json are (Holm).",
        table(heads, rows),
        PRIOR_CORRECTED if any(group["prior_corrected"] for group in groups) else "",
        "Beside the published figures:",
        table(
            ("dataset", "supervision", "published", "ours", ""), map(_published_cells, published)
        ),
        "\n".join(failed),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _group_cells(group: dict[str, Any]) -> tuple[Any, ...]:
    one_class = (
        f" ({group['one_class_templates']} of {group['templates']} templates one class)"
        if group["one_class_templates"]
        else ""
    )
    return (
        short(group["model"]),
        group["dataset"],
        label(group["supervision"]) + (f", {group['variant']}" if group["variant"] else ""),
        group["rows"] or "all",
        spread(group) + one_class,
        change(group["vs_none"]),
        change(group["vs_start"]),
        change(group["vs_tapt"]),
        number(group["template_spread"], 1),
        number(group["majority"], 1),
        spread(group["prior_corrected"]) if group["prior_corrected"] else "",
        number(group["rows_trained"]),
        number(group["tokens"]),
        number(group["wall_seconds"]),
    )


def _published_cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["dataset"],
        label(row["supervision"]),
        f"{row['published']:.1f}",
        spread(row["ours"]) if row["ours"] else "",
        row["status"] + (f": {row['reason']}" if row["reason"] else ""),
    )
