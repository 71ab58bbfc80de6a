"""Words of a matrix's report and table: names, colours, figures with their intervals."""

from __future__ import annotations

import re
from typing import Any

from flows.matrix.matrix_file import Matrix
from flows.matrix.supervision import START, parse_supervision
from tasks.core.rows import MODEL_NAMES

#: Each source's name and colour on the page (in light and dark mode).
NAMES = {
    "none": (MODEL_NAMES["zero_shot"], "#a9b1bf"),
    START: (MODEL_NAMES["start"], "#c2a25a"),
    "tapt": ("TAPT (next word)", "#b7791f"),
    "bonito": ("Bonito", "#1f7a5c"),
    "prompted": ("prompted chat model", "#7a5cc0"),
    "p3": ("P3 (general)", "#3b78b5"),
    "labelled": ("labelled rows (ceiling)", "#7d8796"),
    "constructed": ("claims by rules", "#b2475f"),
}
PRIOR_CORRECTED = (
    "Prior corrected: each template's preference for a choice is taken out, over all items at once "
    "and without their labels. No comparison here uses this figure."
)
CORRECTED = (
    "Coloured, and said to hold, is what stays after Holm's correction for all comparisons of this "
    "report (5 %); the intervals themselves are not corrected."
)


def budget(matrix: Matrix) -> str:
    """Return a sentence on the budget of every source."""
    passages = f"the same {matrix.passages} passages" if matrix.passages else "all passages"
    if matrix.tokens or matrix.tokens_per_row:
        amount = (
            f"{matrix.tokens:,} tokens"
            if matrix.tokens
            else f"{matrix.tokens_per_row} tokens a row"
        )
        return (
            f"Budget-matched: every source had {passages} and was trained on {amount} "
            "(prompts and responses)."
        )
    return (
        f"Not budget-matched: every source had {passages} and was trained for the epochs of the "
        "settings."
    )


def label(supervision: str) -> str:
    """Return ``P3 (general) then Bonito + claims by rules (0.5)``: the names, and the shares."""
    if supervision == START:
        return NAMES[START][0]
    parsed = parse_supervision(supervision)
    mix = " + ".join(
        NAMES[name][0] + (f" ({share})" if share else "") for name, share in parsed.mix.parts
    )
    return f"{NAMES['p3'][0]} then {mix}" if parsed.after_p3 else mix


def colour(supervision: str) -> str:
    """Return a source's colour; of a mix the mean of its sources' colours."""
    if supervision == START:
        return NAMES[START][1]
    parts = [bytes.fromhex(NAMES[name][1][1:]) for name in parse_supervision(supervision).mix.names]
    return "#" + bytes(sum(channel) // len(parts) for channel in zip(*parts, strict=True)).hex()


def short(model: str) -> str:
    """Return a model's name without its owner or folder."""
    return re.split(r"[/:]", model)[-1]


def spread(group: dict[str, Any]) -> str:
    """Return ``27.6 [20.2, 35.3]``."""
    return f"{group['f1']:.1f} [{group['f1_low']:.1f},\u00a0{group['f1_high']:.1f}]"


def change(gain: dict[str, Any] | None) -> str:
    """Return ``+22.4 [+15.2, +29.9]``, empty where there is nothing to compare with."""
    if not gain:
        return ""
    return f"{gain['f1']:+.1f} [{gain['f1_low']:+.1f},\u00a0{gain['f1_high']:+.1f}]"
