"""The one exception a person is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """An error that the user can fix.

    The message says what happened, where, and what to do; it is printed as one line.
    """


def one_line(text: str) -> str:
    """Return a text as one line without control characters: names of files may hold any."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``' (did you mean X?)'`` for a near miss, else the list of known names."""
    known = sorted(known)
    return near_miss(name, known) or f" (known: {', '.join(known)})"


def near_miss(name: str, known: Iterable[str]) -> str:
    """Return ``' (did you mean X?)'`` for a near miss, else an empty text."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
