"""How a matrix's report and its table say things: names, colours, figures with their intervals."""

from __future__ import annotations

import re
from typing import Any

from flows.matrix.matrix_file import Matrix

#: What each source is called on the page, and its colour (light and dark grounds alike).
SOURCES = {
    "none": ("zero-shot", "#a9b1bf"),
    "tapt": ("TAPT (next word)", "#b7791f"),
    "bonito": ("Bonito", "#1f7a5c"),
    "prompted": ("prompted chat model", "#7a5cc0"),
    "p3": ("P3 (general)", "#3b78b5"),
    "labelled": ("labelled rows (ceiling)", "#7d8796"),
}
PRIOR_CORRECTED = (
    "Prior corrected: each template's liking for a choice is taken out, over all items at "
    "once and without their labels; "
    "a figure apart, which no comparison here uses."
)


def budget(matrix: Matrix) -> str:
    """Return in a sentence what every source was given."""
    passages = f"{matrix.passages} passages" if matrix.passages else "all passages"
    if matrix.tokens or matrix.tokens_per_row:
        amount = (
            f"{matrix.tokens:,} tokens"
            if matrix.tokens
            else f"{matrix.tokens_per_row} tokens a row"
        )
        return (
            f"Budget-matched: every source had the same {passages} and was trained on "
            f"{amount} (prompts and responses)."
        )
    return (
        f"Not budget-matched: every source had the same {passages}, and was trained for as "
        "many epochs as the settings say."
    )


def label(supervision: str) -> str:
    """Return what a source is called."""
    names = [SOURCES[part][0] for part in supervision.split("+")]
    return " then ".join(names)


def colour(supervision: str) -> str:
    """Return a source's colour."""
    return SOURCES[supervision.rpartition("+")[2]][1]


def short(model: str) -> str:
    """Return a model's name without its owner or place."""
    return re.split(r"[/:]", model)[-1]


def spread(group: dict[str, Any]) -> str:
    """Return ``27.6 [20.2, 35.3]``."""
    return f"{group['f1']:.1f} [{group['f1_low']:.1f},\u00a0{group['f1_high']:.1f}]"


def change(own: dict[str, Any] | None) -> str:
    """Return ``+22.4 [+15.2, +29.9]``, empty where there is nothing to compare with."""
    return f"{own['f1']:+.1f} [{own['f1_low']:+.1f},\u00a0{own['f1_high']:+.1f}]" if own else ""
