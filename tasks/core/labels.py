"""Labels that an instruction offers: an explicit list of options, or members of one family.

They are read from the instruction without its passage, since any passage may contain "yes or no".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.task_types import LABEL_FAMILIES

#: Characters around a label that are not part of it.
_AROUND = " \t\r\n.,;:!?\"'“”‘’()[]*`"
_SEPARATOR = r"""["'“”‘’)\]]*\s*(?:[,;/|]\s*(?:or\b|and\b)?|\bor\b|\n\s*[-*•]?)\s*["'“‘(\[]*"""
_OPTION = re.compile(r"^[ \t]*(?:[-*•][ \t]*|\(?([a-z]|\d{1,2})[.):][ \t]*)(\S.*)$", re.MULTILINE)
_OPTIONS_LINE = re.compile(
    r"\b(?:options|choices|categories|labels|possible answers)\b(?:[ \t]+are\b)?"
    r"[ \t]*[:\-–]?[ \t]*([^\n.?]+)"
)


def normal_labels(responses: pa.Array) -> pa.Array:
    """Return responses as labels: lower case, single spaces, no quotes, brackets or punctuation
    around them.
    """
    return pc.utf8_trim(
        pc.utf8_lower(pc.binary_join(pc.utf8_split_whitespace(responses), " ")), _AROUND
    )


@lru_cache(maxsize=8192)  # called twice per row: for its family, and for whether its label fits
def offered(question: str, custom: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the labels that a lower-case question offers: an explicit list of options, or members
    of one family side by side.
    """
    return _options(question) or _families(question, custom)


def _options(question: str) -> frozenset[str]:
    """Return the labels of a list of bullets, of lettered lines or of an ``options:`` line.

    The label of a lettered option is its letter or its text.
    """
    options: list[tuple[str, str]] = _OPTION.findall(question)
    marks = [mark for mark, _ in options]
    if len(options) >= 2 and (not any(marks) or marks == _first_marks(marks[0], len(marks))):
        return _normal(
            text for mark, option in options for text in (option, mark, f"{mark}. {option}") if text
        )
    line = _OPTIONS_LINE.search(question)
    items = re.split(r"[,;/|]|\bor\b", line[1]) if line else []
    return _normal(item for item in items if item.strip()) if len(items) >= 2 else frozenset()


def _first_marks(first: str, count: int) -> list[str]:
    """Return a, b, c... or 1, 2, 3...: other marks, such as Q and A, are not a list of options."""
    return [str(1 + place) if first.isdigit() else chr(ord("a") + place) for place in range(count)]


def _families(question: str, custom: frozenset[str]) -> frozenset[str]:
    label, listing, families = _grammar(custom)
    choices: set[str] = set()
    for match in listing.finditer(question):
        labels = set(label.findall(match[0]))
        if len(labels) > 1 and any(labels <= family for family in families):
            choices |= labels
    return frozenset(choices)


@lru_cache(maxsize=8)
def _grammar(
    custom: frozenset[str],
) -> tuple[re.Pattern[str], re.Pattern[str], tuple[frozenset[str], ...]]:
    """Return the patterns of a label and of labels side by side, and the families of labels."""
    families = tuple(map(frozenset, (*LABEL_FAMILIES, custom)))
    labels = sorted(frozenset().union(*families), key=lambda label: (-len(label), label))
    label = rf"(?<![\w-])(?:{'|'.join(map(re.escape, labels))})(?![\w-])"
    return re.compile(label), re.compile(f"{label}(?:{_SEPARATOR}{label})+"), families


def _normal(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(" ".join(text.lower().split()).strip(_AROUND) for text in texts) - {""}
