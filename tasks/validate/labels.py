"""Labels of the classification types: which ones an instruction offers, and how they are balanced.

A family is a set of labels for the same decision, such as yes / no / maybe. The offered labels are
read from the instruction without its passage, since any passage may contain "yes or no".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.task_types import CLASSIFICATION, LABEL_FAMILIES, TASK_TYPES, types_expecting

#: Types whose response is checked against what the instruction offers.
OFFERING = types_expecting("label_in_family")

#: Labels that deny a claim, or leave it open: never right for a claim that the passage holds word
#: for word.
DENIALS = ("no", "false", "never", "impossible", "incorrect", "contradiction", "refuted")
OPEN = ("maybe", "inconclusive", "neither", "sometimes", "possible", "neutral")

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


def in_family(
    task_types: pa.Array, questions: pa.Array, labels: pa.Array, custom: Sequence[str] = ()
) -> np.ndarray:
    """Return one bool a row: does the question offer the label? If it offers none: is the label one
    of its task type's?

    ``questions`` are lower-case instructions without their passage, ``labels`` are normal
    (:func:`normal_labels`). With ``custom`` labels, classification types must answer with one of
    them, and with an offered one where the question offers any.
    """
    allowed = frozenset[str](normal_labels(pa.array(custom, pa.string())).to_pylist())
    rows = zip(task_types.to_pylist(), questions.to_pylist(), labels.to_pylist(), strict=True)
    return np.fromiter(
        (_fits(kind, question, label, allowed) for kind, question, label in rows), bool, len(labels)
    )


@lru_cache(maxsize=8192)  # called twice a row: for its family, and for whether its label fits
def offered(question: str, custom: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the labels that a lower-case question offers: an explicit list of options, or members
    of one family side by side.
    """
    return _options(question) or _families(question, custom)


def families(
    task_types: pa.Array, questions: pa.Array, labels: pa.Array, custom: Sequence[str] = ()
) -> np.ndarray:
    """Return one int a row: its family's index in :data:`LABEL_FAMILIES`, their number for other
    labels, -1 for types that are not classification.

    Labels are balanced within a family. A set of 300 true and false with 40 yes is balanced as a
    whole, and still teaches yes to every yes-no question.
    """
    rows = zip(task_types.to_pylist(), questions.to_pylist(), labels.to_pylist(), strict=True)
    allowed = frozenset[str](normal_labels(pa.array(custom, pa.string())).to_pylist())
    return np.fromiter(
        (
            -1 if kind not in CLASSIFICATION else _family(question, label, allowed)
            for kind, question, label in rows
        ),
        np.int32,
        len(labels),
    )


def _family(question: str, label: str, custom: frozenset[str]) -> int:
    choices = offered(question, custom) or {label}
    fitting = (place for place, family in enumerate(LABEL_FAMILIES) if choices <= frozenset(family))
    return len(LABEL_FAMILIES) if label in custom else next(fitting, len(LABEL_FAMILIES))


def unbalanced(
    family: np.ndarray, labels: np.ndarray, order: np.ndarray, share: float
) -> np.ndarray:
    """Return one bool a row: drop it, so that no label has more than ``share`` (0-1) of the rest of
    its family?

    A family with a single label teaches that answer to every question: it is dropped too where
    another family has several labels.
    """
    drop = np.zeros(len(labels), bool)
    rows_of = [np.flatnonzero(family == code) for code in np.unique(family)]
    several = any(len(np.unique(labels[rows])) > 1 for rows in rows_of)
    for rows in rows_of:
        single = len(np.unique(labels[rows])) == 1
        drop[rows] = (
            share < 1.0 if single and several else surplus(labels[rows], order[rows], share)
        )
    return drop


def surplus(labels: np.ndarray, order: np.ndarray, share: float) -> np.ndarray:
    """Return one bool a row: drop it, so that no label has more than ``share`` (0-1) of the rest?

    ``labels`` are class codes; rows of a class that is too large are dropped in descending
    ``order`` (a key of the row, not its position). Where the share cannot be reached (two classes
    at 0.4), classes are cut to the smallest one; a single class is kept whole.
    """
    codes, counts = np.unique(labels, return_counts=True)
    drop = np.zeros(len(labels), bool)
    if not len(codes):
        return drop
    most = _largest_class(counts, share)
    for code in codes[counts > most]:
        rows = np.flatnonzero(labels == code)
        drop[rows[np.argsort(order[rows], kind="stable")[most:]]] = True
    return drop


def _largest_class(counts: np.ndarray, share: float) -> int:
    """Return the largest n with n <= share * (rows left when every class is cut to n)."""
    low, high = 0, int(counts.max())
    while low < high:
        middle = (low + high + 1) // 2
        fits = middle <= share * np.minimum(counts, middle).sum() + 1e-9
        low, high = (middle, high) if fits else (low, middle - 1)
    return max(low, int(counts.min()))


def _fits(kind: str, question: str, label: str, custom: frozenset[str]) -> bool:
    if kind not in OFFERING:
        return True
    if kind not in CLASSIFICATION:
        custom = frozenset()
    choices = offered(question, custom)
    if custom:
        return label in custom and (not choices or label in choices)
    return label in choices if choices else label in (TASK_TYPES[kind].labels or (label,))


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
    listing, families = _grammar(custom)
    choices: set[str] = set()
    for match in listing.finditer(question):
        labels = set(_words(custom).findall(match[0]))
        if len(labels) > 1 and any(labels <= family for family in families):
            choices |= labels
    return frozenset(choices)


@lru_cache(maxsize=8)
def _grammar(custom: frozenset[str]) -> tuple[re.Pattern[str], tuple[frozenset[str], ...]]:
    words = _words(custom).pattern
    return re.compile(f"{words}(?:{_SEPARATOR}{words})+"), tuple(
        frozenset(family) for family in (*LABEL_FAMILIES, tuple(custom))
    )


@lru_cache(maxsize=8)
def _words(custom: frozenset[str]) -> re.Pattern[str]:
    labels = sorted(
        {label for family in (*LABEL_FAMILIES, tuple(custom)) for label in family},
        key=lambda label: (-len(label), label),
    )
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, labels))})(?![\w-])")


def _normal(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(" ".join(text.lower().split()).strip(_AROUND) for text in texts) - {""}
