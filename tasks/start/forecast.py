"""What a run will give and cost, from 32 passages that went through its first stages.

Each figure has a low and a high end between which it should lie in four of five runs (80 %).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # type: ignore[import-untyped]

#: Ends of an 80 % interval.
_ENDS = (10, 90)
_RESAMPLES = 4000
#: A stage takes between these times what its trial says: there it began beside others that loaded
#: their libraries; later come other programs and longer texts.
_SLOWER = (0.7, 1.4)
#: Memory and disk grow a little with the rows.
_LARGER = (1.0, 1.25)
#: Share of the rows that a reader keeps of those that it judges: where that is not known it lies
#: here, each value as likely (docs/verify.md).
JUDGED = (0.3, 0.9)
#: Training rows (docs/results.md): 47 were too few to gain anything; 137 are those of a first run.
ROWS = (50, 137)


@dataclass(frozen=True)
class Range:
    """An 80 % interval."""

    low: float
    high: float

    def times(self, low: float, high: float) -> Range:
        """Return both ends, each times its own factor."""
        return Range(self.low * low, self.high * high)

    def plus(self, other: Range) -> Range:
        """Return the sum of the ends: what makes one stage slow makes the others slow."""
        return Range(self.low + other.low, self.high + other.high)

    def at_most(self, limit: int) -> Range:
        """Return the ends, neither over ``limit``; 0: no limit."""
        return Range(min(self.low, limit), min(self.high, limit)) if limit else self


@dataclass(frozen=True)
class Pace:
    """How long a stage takes: its start, and each of its rows, in seconds."""

    start: float
    row: float

    @classmethod
    def of(cls, seconds: float, marks: Sequence[tuple[float, int]]) -> Pace:
        """Take the wall seconds of a trial and its progress: seconds and rows done so far."""
        if not marks:
            return cls(seconds, 0.0)
        (first, begun), (last, done) = marks[0], marks[-1]
        row = (last - first) / (done - begun) if done > begun else seconds / max(done, 1)
        return cls(max(seconds - row * done, 0.0), row)

    def minutes(self, rows: Range) -> Range:
        """Return the minutes of that many rows."""
        return Range(
            (self.start + self.row * rows.low) / 60, (self.start + self.row * rows.high) / 60
        ).times(*_SLOWER)


def chance_to_judge(right: int, tests: int, chance: float, more: int) -> float:
    """Return the probability (0-1) that a reader passes its test on ``more`` rows: that the 95 %
    interval of a bootstrap of its answers is above ``chance`` (0-1).

    It gave ``right`` answers to ``tests`` rows before; its share of right answers is as likely
    before these as Jeffreys' prior has it. The rows count as independent, ``chance`` as known.
    """
    # Its import takes 0.4 s, which only a plan whose reader failed its test has to wait for.
    from scipy.stats import betabinom, binom  # type: ignore[import-untyped]

    answers = np.arange(more + 1)
    passes = binom.ppf(0.025, more, answers / more) / more > chance
    likely = betabinom.pmf(answers, more, right + 0.5, tests - right + 0.5)
    return float(likely[passes].sum())


def forecast_kept(
    kept: Mapping[str, Sequence[float]],
    passages: int,
    sampled_files: int = 0,
    seed: int = 1,
    doubts: Mapping[str, float] | None = None,
) -> dict[str, Range]:
    """Return task type -> the rows that are kept of ``passages`` passages, and ``all`` of them.

    ``kept`` has, for each type, the rows kept of each passage of the trial. The trial's passages
    are drawn again and again, and those outside it drawn from them; of few passages the ends are
    moved apart as Student's t has them. ``sampled_files``: how many
    files the number of passages was reckoned from; 0: it was counted. ``doubts``: how likely (0-1)
    the reader judges a type whose rows the trial has unjudged.
    """
    chance = np.random.default_rng(seed)
    counts = {name: np.asarray(rows, dtype=np.float64) for name, rows in kept.items()}
    tried = len(next(iter(counts.values())))
    drawn = chance.integers(0, tried, (_RESAMPLES, tried))
    whole = np.full(_RESAMPLES, float(passages))
    if sampled_files:
        whole *= np.exp(chance.normal(0.0, 1 / math.sqrt(sampled_files), _RESAMPLES))
    rest = np.maximum(whole - tried, 0.0)
    totals = {name: _total(rows, drawn, rest, chance) for name, rows in counts.items()}
    for name in sorted({*totals} & {*(doubts or {})}):
        judged = chance.uniform(*JUDGED, _RESAMPLES)
        unread = chance.random(_RESAMPLES) >= (doubts or {})[name]
        totals[name] = totals[name] * np.where(unread, 1.0, judged)
    found = {name: _range(total, counts[name], passages) for name, total in totals.items()}
    together = np.sum(list(totals.values()), axis=0)
    return {**found, "all": _range(together, np.sum(list(counts.values()), axis=0), passages)}


def _total(
    rows: NDArray[np.float64],
    drawn: NDArray[np.int64],
    rest: NDArray[np.float64],
    chance: np.random.Generator,
) -> NDArray[np.float64]:
    again = rows[drawn]
    noise = chance.normal(0.0, 1.0, len(rest)) * again.std(axis=1) * np.sqrt(rest)
    likely = rows.mean() * rest
    away = (again.mean(axis=1) * rest + noise - likely) * _widen(len(rows))
    return np.asarray(rows.sum() + np.maximum(likely + away, 0.0))


def _widen(tried: int) -> float:
    """Return by how much a bootstrap's 80 % interval of so few passages is too narrow."""
    freedom = max(tried - 1, 1)
    # A bootstrap's spread of n things is too small by sqrt((n - 1) / n).
    return float(stdtrit(freedom, 0.9) / NormalDist().inv_cdf(0.9)) * math.sqrt(tried / freedom)


def _range(total: NDArray[np.float64], rows: NDArray[np.float64], passages: int) -> Range:
    if not rows.any():
        # A share of passages with rows above this one would have given a row in 9 of 10 trials.
        return Range(0.0, round((1 - 0.1 ** (1 / len(rows))) * passages))
    low, high = np.percentile(total, _ENDS)
    return Range(round(float(low)), round(float(high)))


def judge_text(kept: Range) -> str:
    """Say whether the text is enough to train on."""
    least, usual = ROWS
    if kept.high < least:
        return f"too little text: fewer than {least} training rows, add documents or samples"
    if kept.low >= usual:
        return f"enough text for a first run: {usual} training rows or more (docs/results.md)"
    return (
        f"perhaps too little text: fewer than {least} training rows were too few, {usual} enough "
        "for a first run (docs/results.md); add documents, or raise generate.samples"
    )


def memory(peaks: Sequence[float]) -> Range:
    """Return the peak memory of a process in MB."""
    return Range(max(peaks), max(peaks)).times(*_LARGER)
