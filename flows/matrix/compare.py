"""Compare runs on one dataset: means and spreads over templates and seeds, and paired bootstrap
differences over items x templates.

A *group* is one line of a report: the runs that differ only in their seed. Scores are F1 in points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.scoring.datasets import Item
from tasks.scoring.f1 import Scored, interval, majority_f1, resample, round_points


@dataclass(frozen=True)
class Draws:
    """Resamples that all groups on a dataset share, which makes their differences paired.

    ``items`` [resamples, items] draws whole passages, as scores of questions on one passage are
    correlated. ``templates`` [resamples, templates] sums to one in each row: the templates are a
    sample of the ways to ask.
    """

    items: NDArray[np.float64]
    templates: NDArray[np.float64]

    @classmethod
    def make(cls, items: Sequence[Item], templates: int, times: int, seed: int) -> Draws:
        """Draw ``times`` resamples."""
        random = np.random.Generator(np.random.PCG64([seed, 1]))
        counts = random.multinomial(templates, [1 / templates] * templates, size=times)
        return cls(resample([item.context for item in items], times, seed), counts / templates)

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
    """Return the first group's F1 less the second's, with its paired 95 % interval."""
    low, high = interval(draws.f1(runs) - draws.f1(others))
    first, second = (np.mean([run.f1()[0].mean() for run in group]) for group in (runs, others))
    return {
        "f1": round_points(first - second),
        "f1_low": round_points(low),
        "f1_high": round_points(high),
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
