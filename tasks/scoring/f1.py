"""F1 as the paper counts it (arXiv 2402.18334, section 5), and bootstrap intervals.

All scores are in points, 0 to 100, except where a docstring says otherwise.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.scoring.datasets import Dataset, Item, Template

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = set(string.punctuation)


def squad_f1(prediction: str, golds: Sequence[str]) -> float:
    """Return the best token F1 (0-1) over all gold answers, after SQuAD's normalisation."""
    return max(_token_f1(prediction, gold) for gold in golds)


def _token_f1(prediction: str, gold: str) -> float:
    predicted, expected = normalise_answer(prediction).split(), normalise_answer(gold).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * common / (len(predicted) + len(expected))


def normalise_answer(text: str) -> str:
    """Lower-case, drop punctuation and English articles, collapse white space, as SQuAD v1.1."""
    text = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def macro_f1(golds: Sequence[int], predictions: Sequence[int], classes: int) -> float:
    """Return the mean F1 of the classes with a gold or a prediction, as scikit-learn's default."""
    weights = np.ones((1, len(golds)))
    return float(_macro_f1s(np.asarray(golds), np.asarray(predictions), classes, weights)[0])


def majority_f1(golds: Sequence[int], classes: int) -> float:
    """Return the macro F1 of always answering the commonest label."""
    commonest = Counter(golds).most_common(1)[0][0]
    return macro_f1(golds, [commonest] * len(golds), classes)


def _macro_f1s(
    golds: NDArray[np.int64],
    predictions: NDArray[np.int64],
    classes: int,
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return macro F1 for each row of item weights [resamples, items] -> [resamples].

    Each resample averages over its own classes: a rare one that it did not draw has no F1 there.
    """
    total, seen = np.zeros(len(weights)), np.zeros(len(weights))
    for label in range(classes):
        right = weights @ ((golds == label) & (predictions == label))
        count = weights @ (golds == label) + weights @ (predictions == label)
        total += np.divide(2 * right, count, out=np.zeros_like(total), where=count > 0)
        seen += count > 0
    return 100 * total / seen


@dataclass(frozen=True)
class Scored:
    """One model's results on one dataset: ``values`` [templates, items].

    Extraction: item F1 in 0-1, ``golds`` None. Classification: the predicted class, with ``golds``
    [items].
    """

    values: NDArray[np.float64]
    golds: NDArray[np.int64] | None = None
    classes: int = 0

    def f1(self, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Return F1 in points [resamples, templates] under item weights [resamples, items] (None:
        every item once).
        """
        weights = np.ones((1, self.values.shape[1])) if weights is None else weights
        if self.golds is None:
            return 100 * (weights @ self.values.T) / weights.sum(axis=1, keepdims=True)
        return np.stack(
            [
                _macro_f1s(self.golds, row.astype(np.int64), self.classes, weights)
                for row in self.values
            ],
            axis=1,
        )


def scored_of(
    dataset: Dataset,
    templates: tuple[Template, ...],
    items: list[Item],
    table: pa.Table,
    corrected: bool = False,
    prior: Mapping[str, NDArray[np.float64]] | None = None,
) -> Scored:
    """Return a model's rows as arrays [templates, items]; a missing row is an error.

    ``corrected`` (classification only): :func:`correct_prior` chooses the classes again, from the
    choices' scores; with a ``prior`` (template -> log prior of its choices) that one is taken out.
    """
    rows = {
        (row["template"], row["item_id"]): row
        for row in table.select(["template", "item_id", "prediction", "scores", "f1"]).to_pylist()
    }
    if not dataset.classifies:
        return Scored(
            np.array([[rows[t.name, item.id]["f1"] for item in items] for t in templates])
        )

    def choose_classes(template: Template) -> NDArray[np.int64]:
        own = [rows[template.name, item.id] for item in items]
        if not corrected and not prior:
            return np.array([template.choices.index(row["prediction"]) for row in own])
        scores = np.array([row["scores"] for row in own])
        return without_prior(scores, prior[template.name]) if prior else correct_prior(scores)

    return Scored(
        np.array([choose_classes(template) for template in templates], np.float64),
        np.array([item.gold for item in items]),
        len(dataset.labels),
    )


def correct_prior(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return each item's class after the model's prior preference for some choices is removed.

    ``scores`` [items, choices] are summed log-probabilities under one template. The prior is a
    choice's mean probability over the items; labels are not used (batch calibration, Zhou et al.
    2024, arXiv 2309.17249). It needs all items at once, so it does not describe a model that
    answers one question at a time.
    """
    return without_prior(scores, choice_prior(scores))


def choice_prior(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log of each choice's mean probability over the items of ``scores`` (as above)."""
    logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    prior: NDArray[np.float64] = np.logaddexp.reduce(logs, axis=0) - np.log(len(logs))
    return prior


def without_prior(scores: NDArray[np.float64], prior: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return each item's class after a log prior of the choices is taken out of its scores."""
    logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    best: NDArray[np.int64] = np.argmax(logs - prior, axis=1)
    return best


def resample(groups: Sequence[str], times: int, seed: int) -> NDArray[np.float64]:
    """Return bootstrap item weights [times, items], drawing whole groups with replacement.

    Scores of items on one passage are correlated: drawing them one by one would give intervals
    that are too narrow.
    """
    names = sorted(set(groups))
    position = {name: index for index, name in enumerate(names)}
    member = np.array([position[group] for group in groups])
    counts = np.stack(list(draw_groups(len(names), times, seed)))
    return counts[:, member].astype(np.float64)


def draw_groups(count: int, times: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield ``times`` times how often each of ``count`` groups is drawn, with replacement."""
    random = np.random.Generator(np.random.PCG64(seed))
    for _ in range(times):
        yield np.bincount(random.integers(0, count, size=count), minlength=count)


def round_points(value: SupportsFloat) -> float:
    """Return F1 points as they are written: two decimals."""
    return round(float(value), 2)


def interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)
