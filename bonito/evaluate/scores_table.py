"""Scores as Markdown: one generator by task type, and several generators side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tasks.core.markdown import table
from tasks.core.task_types import TASK_TYPES

#: Measure -> its heading and format: shares as percent, others as plain numbers.
COLUMNS: dict[str, tuple[str, str]] = {
    "parse_yield": ("parsed", "{:.1%}"),
    "adherence": ("form of the type", "{:.1%}"),
    "valid": ("valid", "{:.1%}"),
    "answer_in_passage": ("answer in passage", "{:.1%}"),
    "held_out_loss": ("held-out loss", "{:.3f}"),
    "judge_agreement": ("judge agrees", "{:.1%}"),
    "answer_f1": ("judge's F1", "{:.1%}"),
    "largest_label_share": ("largest label", "{:.1%}"),
    "label_entropy": ("label entropy", "{:.2f}"),
    "distinct_1": ("distinct-1", "{:.2f}"),
    "distinct_2": ("distinct-2", "{:.2f}"),
    "near_duplicates": ("near-duplicates", "{:.1%}"),
}


def render_scores(facts: Mapping[str, Any]) -> str:
    """Return ``scores.md``: the generator's and the human-made tasks by type, and how the check of
    forms performs on the latter.
    """
    heads = ("task type", "rows", *(name for name, _ in COLUMNS.values()))
    check = [
        (
            kind,
            format_cell(shares["own"], "{:.0%}"),
            format_cell(shares["others"], "{:.0%}"),
            f"{shares['worst']:.0%} of {shares['worst_type']}",
        )
        for kind, shares in facts["form_check"].items()
    ]
    settings = facts["settings"]
    parts = [
        f"# Scores of {facts['generator']}",
        f"{facts['generated']['overall']['rows']} held-out passages, "
        f"at most {settings['rows_per_type']} for a task type, temperature "
        f"{settings['temperature']}, top-p {settings['top_p']}; judge: "
        f"{settings['judge'] or 'none'}. Shares are of all rows, including those that could not be "
        "parsed. But answer in passage is of the parsed extractive rows, judge agrees of the rows "
        "that it judged, largest label of the labelled rows, and near-duplicates of the parsed "
        "ones. The loss is in nats for each token of the human-made output.",
        "## Generated tasks",
        table(heads, _lines(facts["generated"])),
        "## Human-made tasks for the same passages",
        "The measures of the datasets' rows: a ceiling, not a floor. The judge's agreement here "
        "tells how good a judge it is.",
        table(heads, _lines(facts["human"])),
        "## How the check of forms performs on the human-made tasks",
        table(("form", "its own type fits", "other types fit, on average", "at worst"), check),
    ]
    return "\n\n".join(parts) + "\n"


def format_cell(value: float | None, form: str) -> str:
    """Return a formatted number, empty for None."""
    return "" if value is None else form.format(value)


def _lines(groups: Mapping[str, Any]) -> Iterable[list[str]]:
    for kind in ("overall", *TASK_TYPES):
        if kind in groups:
            yield [
                kind,
                str(groups[kind]["rows"]),
                *(format_cell(groups[kind].get(name), form) for name, (_, form) in COLUMNS.items()),
            ]
