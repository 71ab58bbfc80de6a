"""Markdown tables, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], padded: bool = False) -> str:
    """Return a Markdown table; ``padded`` aligns its columns for a terminal.

    A pipe in a cell is escaped, a line break becomes a space, whole numbers get thousands marked.
    """
    lines = [[_cell(value) for value in line] for line in (heads, *rows)]
    widths = [max(map(len, column)) if padded else 0 for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * max(width, 3) for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(text.replace("|", "\\|").splitlines())
