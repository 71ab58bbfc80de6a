"""A probe that does not see the passage: a label that it can tell is known from the claim alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.core.errors import PipelineError
from tasks.core.files import row_seed

#: Fewest rows that a probe can judge, and most rows that it looks at.
_LEAST, _MOST = 150, 6000
#: N-grams that are named and evened out in a round, and the most rounds.
_TELLING, _ROUNDS = 12, 10
_FOLDS = 5
_WORDS = r"(?u)\b\w[\w'’]*\b|[^\w\s]"


@dataclass(frozen=True)
class Probed:
    """A claim as the probe sees it: its text, its label, and the passage its words come from."""

    text: str
    label: str
    group: str


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy (0-1) of the probe and of the commonest label; the most telling n-grams."""

    accuracy: float
    majority: float
    rows: int
    telling: tuple[tuple[str, str], ...]

    @property
    def excess(self) -> float:
        """Return by how much the probe beats the commonest label."""
        return self.accuracy - self.majority

    def is_blind(self, most_excess: float) -> bool:
        """Tell whether the excess is within ``most_excess``; under 1,000 rows, within chance of it.

        Chance: one-sided 95 %.
        """
        error = 1.645 * (self.majority * (1 - self.majority) / self.rows) ** 0.5
        return self.excess <= most_excess + (error if self.rows < 1000 else 0.0)


def probe(rows: Sequence[Probed], seed: int) -> ProbeResult | None:
    """Return how well logistic regression on n-grams tells the labels, cross-validated; None for
    few rows.

    Words of one passage are in one fold, so that no claim is known from its twin.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.model_selection import (  # type: ignore[import-untyped]
        GroupKFold,
        cross_val_predict,
    )
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]

    drawn = sorted(rows, key=lambda row: row_seed(seed, "probe", row.text, row.label, row.group))[
        :_MOST
    ]
    labels, groups = np.array([row.label for row in drawn]), np.array([row.group for row in drawn])
    if len(drawn) < _LEAST or len(set(labels)) < 2 or len(set(groups)) < _FOLDS:
        return None
    words = TfidfVectorizer(
        ngram_range=(1, 2),
        min_df=3,
        sublinear_tf=True,
        token_pattern=_WORDS,
    )
    model = make_pipeline(words, LogisticRegression(C=1.0, max_iter=200))
    texts = [row.text for row in drawn]
    try:
        predicted = cross_val_predict(model, texts, labels, groups=groups, cv=GroupKFold(_FOLDS))
        model.fit(texts, labels)
    except ValueError:  # fewer than three rows share any word
        return None
    return ProbeResult(
        float(np.mean(predicted == labels)),
        max(Counter(labels).values()) / len(drawn),
        len(drawn),
        _telling(model),
    )


def _telling(model: Any) -> tuple[tuple[str, str], ...]:
    """Return (n-gram, label) by weight, the heaviest first."""
    words, regression = model
    names, weights, classes = (
        words.get_feature_names_out(),
        regression.coef_,
        list(regression.classes_),
    )
    if len(classes) == 2:
        weights = np.vstack([-weights[0], weights[0]])
    common = 1.0 / words.idf_
    order = np.argsort(-(np.maximum(weights, 0) * common).ravel(), kind="stable")[:_TELLING]
    return tuple(
        (str(names[place % len(names)]), str(classes[place // len(names)])) for place in order
    )


def balanced(
    rows: Sequence[Probed], most_excess: float, seed: int
) -> tuple[list[int], ProbeResult | None]:
    """Return the places of the rows to keep, so that the probe is within ``most_excess``, and what
    it tells of them (:func:`probe`).

    Rows with the most telling n-grams are left out until their labels are balanced. A batch whose
    labels can still be told after all rounds is refused with a :class:`PipelineError` that names
    the n-grams.
    """
    keep = list(range(len(rows)))
    first = verdict = probe(rows, seed)
    for _ in range(_ROUNDS):
        if verdict is None or verdict.is_blind(most_excess):
            break
        keep = _without(rows, keep, [gram for gram, _ in verdict.telling], seed)
        verdict = probe([rows[place] for place in keep], seed)
    if first is None or (verdict is not None and verdict.is_blind(most_excess)):
        return keep, verdict
    verdict = verdict or first  # so many rows went that the rest cannot be judged
    grams = ", ".join(f"{gram!r} ({label})" for gram, label in verdict.telling[:6])
    raise PipelineError(
        f"constructed labels can be told without the passage: {verdict.accuracy:.1%} right,"
        f" the commonest label has {verdict.majority:.1%}; most telling: {grams}."
        " Change the patterns or give more passages"
    )


def _without(rows: Sequence[Probed], keep: list[int], grams: list[str], seed: int) -> list[int]:
    """Return the places left when the rows with each n-gram are cut to as many of every label."""
    labels = sorted({rows[place].label for place in keep})
    for gram in grams:
        holders: dict[str, list[int]] = defaultdict(list)
        for place in keep:
            if f" {gram} " in f" {_plain(rows[place].text)} ":
                holders[rows[place].label].append(place)
        least = min(len(holders[label]) for label in labels)
        surplus = {
            place for label in labels for place in _ordered(rows, holders[label], seed)[least:]
        }
        keep = [place for place in keep if place not in surplus]
    return keep


def _ordered(rows: Sequence[Probed], places: list[int], seed: int) -> list[int]:
    return sorted(
        places, key=lambda place: row_seed(seed, "balance", rows[place].text, rows[place].group)
    )


def _plain(text: str) -> str:
    return " ".join(re.findall(_WORDS, text.lower()))
