"""Labels of the classification types: which ones an instruction offers, and how they are balanced.

A family is a set of labels for the same decision, such as yes / no / maybe. The offered labels are
read from the instruction without its passage, since any passage may contain "yes or no".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.labels import normal_labels, offered
from tasks.core.task_types import CLASSIFICATION, LABEL_FAMILIES, TASK_TYPES, types_expecting

#: Types whose response is checked against what the instruction offers.
OFFERING = types_expecting("label_in_family")

#: Labels that deny a claim, or leave it open: never right for a claim that the passage holds word
#: for word.
DENIALS = ("no", "false", "never", "impossible", "incorrect", "contradiction", "refuted")
OPEN = ("maybe", "inconclusive", "neither", "sometimes", "possible", "neutral")


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


def families(
    task_types: pa.Array, questions: pa.Array, labels: pa.Array, custom: Sequence[str] = ()
) -> np.ndarray:
    """Return one int a row: its family's index in :data:`LABEL_FAMILIES`, their number for other
    labels, -1 for types that are not classification.

    Labels are balanced within a family. A set of 300 true and false with 40 yes is balanced as a
    whole, and still teaches yes to every yes-no question.
    """
    family = np.full(len(labels), -1, np.int32)
    rows = np.flatnonzero(pc.is_in(task_types, pa.array(CLASSIFICATION)))
    allowed = frozenset[str](normal_labels(pa.array(custom, pa.string())).to_pylist())
    pairs = zip(questions.take(rows).to_pylist(), labels.take(rows).to_pylist(), strict=True)
    family[rows] = [_family(question, label, allowed) for question, label in pairs]
    return family


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
