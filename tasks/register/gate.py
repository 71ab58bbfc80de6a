"""What the scores must show before a version may be the champion.

A comparison counts as won only if two tests agree. The bootstrap's 95 % interval must lie above 0,
and the difference must be rare among those that appear when the two models' answers are exchanged
at random, passage by passage (document by document where items name one). The second is exact on
few items, where the bootstrap alone calls 5 % of equal pairs different instead of 2.5 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.core.files import fingerprint
from tasks.core.sections.evaluate import Evaluate
from tasks.scoring.datasets import Dataset, Item, Template, render
from tasks.scoring.f1 import Scored, interval, resample, scored_of, squad_f1

#: The largest one-sided chance of an equal pair to be called better.
CHANCE = 0.025
#: Exchanges of two models' answers, and of the labels. 1 / (39 + 1) is CHANCE: the measured score
#: must be above all 39.
_EXCHANGES, _SHUFFLES = 999, 39
#: Share of the items that may be in the corpus with their answers: some texts ask such questions
#: themselves.
_LEAKED_SHARE = 0.05


@dataclass(frozen=True)
class Comparison:
    """The F1 difference to an opponent in points, with its 95 % interval.

    ``chance`` is how often a difference as large appears when the two models' answers are
    exchanged at random.
    """

    opponent: str
    f1: float
    low: float
    high: float
    chance: float = 0.0
    #: There is a champion that answered other questions: it stays, whatever the figures are.
    champion_stays: bool = False
    #: What else the version fails at, each in words.
    faults: tuple[str, ...] = ()

    @property
    def won(self) -> bool:
        """Whether both tests say that the version is better than the opponent."""
        return self.low > 0 and self.chance <= CHANCE

    @property
    def alias(self) -> str:
        """Return the alias that the new version gets."""
        return (
            "champion" if self.won and not self.champion_stays and not self.faults else "challenger"
        )

    def describe(self) -> str:
        """Return the comparison, and what else the version fails at, as a sentence."""
        text = f"{self.f1:+.1f} F1 [{self.low:+.1f}, {self.high:+.1f}] against {self.opponent}"
        if self.low > 0 and not self.won:
            text += f" (p {self.chance:.3f} when answers are exchanged: too few passages)"
        return "; ".join([text, *self.faults])


@dataclass(frozen=True)
class Exam:
    """What the models were asked, and its resamples [resamples, items]."""

    dataset: Dataset
    templates: tuple[Template, ...]
    items: list[Item]
    weights: NDArray[np.float64]
    seed: int
    #: How answers were written, where a model writes them: the engine, and the most tokens.
    writing: tuple[str, int] | None

    @classmethod
    def make(cls, dataset: Dataset, items: list[Item], params: Evaluate) -> Exam:
        """Take the templates that the settings name, and draw the resamples."""
        templates = dataset.templates[: params.templates or None]
        weights = resample([item.cluster for item in items], params.bootstrap, params.seed)
        writing = None if dataset.classifies else (params.engine, params.max_new_tokens)
        return cls(dataset, templates, items, weights, params.seed, writing)

    @cached_property
    def digest(self) -> str:
        """What tells these questions from others: every template's text filled with every
        item, its choices, the right answers, and how answers were written. The prompt form of a
        model is no part of it.
        """
        asked = (
            (template.name, item.id, render(template, item), template.choices, item.golds)
            for template in self.templates
            for item in self.items
        )
        return fingerprint(*sorted(asked), self.writing)

    def score(self, answers: pa.Table, corrected: bool = False) -> Scored:
        """Return a model's answers as arrays; see :func:`tasks.scoring.f1.scored_of`."""
        return scored_of(self.dataset, self.templates, self.items, answers, corrected)

    def compare(self, new: Scored, old: Scored, opponent: str) -> Comparison:
        """Return the difference of two models, and how far it can be trusted."""
        change = new.f1(self.weights).mean(axis=1) - old.f1(self.weights).mean(axis=1)
        low, high = interval(change)
        difference = _mean(new) - _mean(old)
        chance = self._exchange(new, old, difference) if low > 0 else 1.0
        return Comparison(
            opponent, round(difference, 2), round(low, 2), round(high, 2), round(chance, 4)
        )

    def _exchange(self, new: Scored, old: Scored, difference: float) -> float:
        """Return the share of exchanges, passage by passage, that differ by as much."""
        clusters = [item.cluster for item in self.items]
        names = {cluster: n for n, cluster in enumerate(dict.fromkeys(clusters))}
        passage = np.array([names[cluster] for cluster in clusters])
        random = np.random.Generator(np.random.PCG64([self.seed, 2]))
        swapped = (random.random((_EXCHANGES, len(names))) < 0.5)[:, passage].astype(np.float64)
        golds = None if new.golds is None else np.hstack([new.golds, new.golds])
        both = Scored(np.hstack([new.values, old.values]), golds, new.classes)
        first, second = (
            both.f1(np.hstack(weights)).mean(axis=1)
            for weights in ((1 - swapped, swapped), (swapped, 1 - swapped))
        )
        # The pair as it was measured is one of the exchanges.
        as_large = 1 + int((first - second >= difference - 1e-9).sum())
        return as_large / (_EXCHANGES + 1)


def find_faults(
    asked: Exam, adapted: pa.Table, zero_shot: pa.Table, scores: dict[str, Any]
) -> Iterator[str]:
    """Yield what else keeps the version from being the champion, each in words.

    ``scores`` is evaluate's ``scores.json``. With a start the measured F1 must not be below the
    start's: an interval around 0 is no fault, since nothing is claimed over the start.
    """
    scored = asked.score(adapted)
    if asked.dataset.classifies:
        rivals = {
            "the majority class": _answer_majority(asked),
            "the prior-corrected unadapted model": asked.score(zero_shot, corrected=True),
        }
        for name, rival in rivals.items():
            comparison = asked.compare(scored, rival, name)
            if not comparison.won:
                yield f"not better than {name}: {comparison.describe()}"
        if all(len(set(row)) == 1 for row in scored.values.tolist()):
            yield "it answers with one class only"
    over_start = scores.get("gain_over_start")
    if over_start and over_start["f1"] < 0:
        yield f"below its start alone: {over_start['f1']:+.1f} F1"
    own, shuffled = _mean(scored), shuffle_labels(asked, adapted)
    if own <= max(shuffled):
        yield (
            f"its answers do not depend on the items: {own:.1f} F1, and up to "
            f"{max(shuffled):.1f} with the labels shuffled"
        )


def shuffle_labels(asked: Exam, answers: pa.Table) -> list[float]:
    """Return the model's F1 under each of several random orders of the labels."""
    random = np.random.Generator(np.random.PCG64([asked.seed, 3]))
    orders = [random.permutation(len(asked.items)) for _ in range(_SHUFFLES)]
    scored = asked.score(answers)
    if scored.golds is not None:
        return [
            _mean(Scored(scored.values, scored.golds[order], scored.classes)) for order in orders
        ]
    texts = {
        (row["template"], row["item_id"]): row["prediction"]
        for row in answers.select(["template", "item_id", "prediction"]).to_pylist()
    }
    shuffled = []
    for order in orders:
        f1 = [
            squad_f1(texts[template.name, item.id], asked.items[other].golds)
            for template in asked.templates
            for item, other in zip(asked.items, order, strict=True)
        ]
        shuffled.append(100 * float(np.mean(f1)))
    return shuffled


def find_leaked_items(ingested: dict[str, Any], items: int) -> Iterator[str]:
    """Yield a fault where the corpus has the question and an answer of more than one in twenty of
    the items, by ingest's ``summary.json``.
    """
    leaked = ingested["leaked_items"] or 0  # null where ingest did not compare
    if leaked > _LEAKED_SHARE * items:
        yield f"{leaked:,} of {items:,} items are in the corpus, with their answers"


def count_leaked(ingested: dict[str, Any]) -> int | None:
    """Return how many passages that are kept are in the evaluation set too, by ingest's
    ``summary.json``; None where ingest did not compare.
    """
    found = ingested["in_evaluation"]
    if found is None:
        return None
    dropped = ingested["dropped"]
    return int(found - dropped.get("in_evaluation", 0) - dropped.get("held_out", 0))


def describe_leak(ingested: dict[str, Any]) -> str:
    """Return a sentence on passages that are in the evaluation set too, by ingest's
    ``summary.json``; empty where there are none, or where ingest did not compare.
    """
    leaked = count_leaked(ingested)
    if not leaked:
        return ""
    return (
        f"{leaked:,} of {ingested['rows_kept']:,} passages of the corpus are also in the "
        "evaluation set: F1 is for these texts, not for new ones "
        "(ingest.drop_evaluation_overlap leaves them out)"
    )


def _answer_majority(asked: Exam) -> Scored:
    """Return the answers of a model that always names the commonest label."""
    golds = np.array([item.gold for item in asked.items])
    commonest = Counter(golds.tolist()).most_common(1)[0][0]
    values = np.full((len(asked.templates), len(golds)), commonest, np.float64)
    return Scored(values, golds, len(asked.dataset.labels))


def _mean(scored: Scored) -> float:
    return float(np.mean(scored.f1()))
