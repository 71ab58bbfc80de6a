"""Compare runs on one dataset: means and spreads over templates and seeds, and paired bootstrap
differences over items x templates.

A *group* is one line of a report: the runs that differ only in their seed. Scores are F1 in points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr  # type: ignore[import-untyped]

from tasks.scoring.datasets import Item
from tasks.scoring.f1 import Scored, interval, majority_f1, resample, round_points

#: Fewer passages than these decide nothing, whatever their questions say.
_LEAST_CLUSTERS = 6


@dataclass(frozen=True)
class Draws:
    """Resamples that all groups on a dataset share, which makes their differences paired.

    ``items`` [resamples, items] draws whole passages, or documents where items name one: scores of
    questions on one are correlated. ``templates`` [resamples, templates] sums to one in each row:
    the templates are a sample of the ways to ask.
    """

    items: NDArray[np.float64]
    templates: NDArray[np.float64]
    #: Passages, or documents, that are drawn.
    clusters: int

    @classmethod
    def make(cls, items: Sequence[Item], templates: int, times: int, seed: int) -> Draws:
        """Draw ``times`` resamples."""
        random = np.random.Generator(np.random.PCG64([seed, 1]))
        counts = random.multinomial(templates, [1 / templates] * templates, size=times)
        clusters = [item.cluster for item in items]
        return cls(resample(clusters, times, seed), counts / templates, len(set(clusters)))

    def f1(self, runs: Sequence[Scored]) -> NDArray[np.float64]:
        """Return the group's mean F1 in each resample [resamples]: over templates as drawn, over
        seeds evenly.
        """
        return np.mean([(run.f1(self.items) * self.templates).sum(axis=1) for run in runs], axis=0)


def summarise(runs: Sequence[Scored], draws: Draws) -> dict[str, Any]:
    """Return a group's F1, its 95 % interval over items x templates, and its spreads.

    Spreads are standard deviations; None with one run or template.
    """
    by_template = np.array([run.f1()[0] for run in runs])  # [seeds, templates]
    low, high = interval(draws.f1(runs))
    return {
        "f1": round_points(by_template.mean()),
        "f1_low": round_points(low),
        "f1_high": round_points(high),
        "template_spread": round_points(by_template.mean(axis=0).std(ddof=1))
        if by_template.shape[1] > 1
        else None,
        "seed_spread": round_points(by_template.mean(axis=1).std(ddof=1))
        if len(runs) > 1
        else None,
        "seeds": len(runs),
        "one_class_templates": int(
            sum(len(set(row)) == 1 for run in runs for row in run.values.tolist())
        )
        if runs[0].golds is not None
        else 0,
        "templates": int(by_template.shape[1]) * len(runs),
    }


def measure_difference(
    runs: Sequence[Scored], others: Sequence[Scored], draws: Draws
) -> dict[str, float]:
    """Return the first group's F1 less the second's, with its paired 95 % interval.

    ``p`` is two-sided, from Student's t of the resamples' spread with a degree of freedom less than
    there are passages: counting resamples beyond 0 could not go below 1 / resamples, which many
    comparisons need. On fewer than six passages it is 1: they decide nothing.
    """
    samples = draws.f1(runs) - draws.f1(others)
    low, high = interval(samples)
    first, second = (np.mean([run.f1()[0].mean() for run in group]) for group in (runs, others))
    difference, error, freedom = float(first - second), float(samples.std()), draws.clusters - 1
    p = 1.0
    if draws.clusters >= _LEAST_CLUSTERS and difference:
        # A bootstrap's spread of n things is too small by sqrt((n - 1) / n).
        error *= sqrt(draws.clusters / freedom)
        p = 2 * float(stdtr(freedom, -abs(difference) / error)) if error else 0.0
    return {
        "f1": round_points(difference),
        "f1_low": round_points(low),
        "f1_high": round_points(high),
        "p": p,
    }


def majority_baseline(runs: Sequence[Scored]) -> float | None:
    """Return the macro F1 of always answering the commonest label; None for extraction."""
    golds = runs[0].golds
    return None if golds is None else round_points(majority_f1(golds.tolist(), runs[0].classes))


def judge_change(change: dict[str, float]) -> str:
    """Return ``better``, ``worse``, or ``undecided`` where the interval holds 0."""
    if change["f1_low"] > 0:
        return "better"
    return "worse" if change["f1_high"] < 0 else "undecided"


def judge_together(changes: Sequence[dict[str, Any]]) -> None:
    """Add ``p_holm`` and ``verdict`` to all comparisons of one report.

    ``p_holm`` is Holm's correction of ``p`` for their number. A change is ``better`` or ``worse``
    only if its interval says so and ``p_holm`` is at most 0.05: of a report without any real
    difference, at most one in twenty then names one.
    """
    largest = 0.0
    for rank, change in enumerate(sorted(changes, key=lambda change: change["p"])):
        largest = max(largest, min(1.0, change["p"] * (len(changes) - rank)))
        change["p_holm"] = round(largest, 4)
        change["verdict"] = judge_change(change) if largest <= 0.05 else "undecided"
