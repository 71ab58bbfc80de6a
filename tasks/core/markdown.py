"""Markdown tables and text, for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from tasks.core.errors import one_line

#: As entities these are safe inside a table and outside; a backslash suffices for the others.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "@": "&#64;"}
#: What makes a link of plain text.
_LINKS = {"://": "&#58;//", "www.": "www&#46;"}
_MARKS = re.compile(r"([\\`*_{}\[\]~$])")
#: What begins a heading, a list or a rule.
_FIRST = re.compile(r"^(\d*)(?=(?:[-+.)]|#{1,6})(?:\s|$)|[-=]+$)")


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], padded: bool = False) -> str:
    """Return a Markdown table; ``padded`` aligns its columns for a terminal.

    A pipe in a cell is escaped, a line break becomes a space, whole numbers get thousands
    separators.
    """
    lines = [[_cell(value) for value in line] for line in (heads, *rows)]
    widths = [max(map(len, column)) if padded else 0 for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * max(width, 3) for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def escape(text: str) -> str:
    """Return an untrusted text as one line that Markdown shows as it is: no markup, HTML, link or
    mention of it takes effect.
    """
    line = "".join(_ENTITIES.get(c, c) for c in _MARKS.sub(r"\\\1", one_line(text)))
    for mark, entity in _LINKS.items():
        line = line.replace(mark, entity)
    return _FIRST.sub(r"\1\\", line)


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(text.replace("|", "\\|").splitlines())
