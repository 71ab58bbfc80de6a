"""Intervals of shares, and how small a gain a number of items can show."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.core.parquet import read_table
from tasks.scoring.questions import HELD_OUT

#: Normal quantile of a two-sided 95 % interval.
_Z = 1.959964
#: Normal quantile of a power of 80 %: a gain of that size is found four times in five.
_Z_POWER = 0.841621
#: Standard deviation (0-1) of an item's difference in F1 between two models, where no run has
#: measured it: that of a large change on the shipped example (docs/results.md), and of a small one.
SPREAD, _SMALL_SPREAD = 0.42, 0.25
#: Fewer items than these do not tell how far their spread is from the true one.
_FEW = 20
#: Normal quantile of a two-sided 80 % interval.
_Z_80 = 1.281552


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval (0-1) of a share, after Wilson (1927); (0, 1) without rows."""
    if not rows:
        return 0.0, 1.0
    share, spread = right / rows, _Z**2 / rows
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / rows + spread / (4 * rows)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def spread_ends(checkout: Path) -> tuple[float, float] | None:
    """Return between which values (0-1) the spread lies that :func:`measured_spread` estimates;
    None of fewer than twenty items.

    They are an 80 % interval. Where no run has measured it, they are the spreads of a small and of
    a large change on the shipped example, which is no interval of a known share.
    """
    differences = _differences(checkout)
    if differences is None or not differences.std():
        return _SMALL_SPREAD, SPREAD
    return bound_spread(differences) if len(differences) >= _FEW else None


def bound_spread(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 80 % interval of a standard deviation, from the variance's standard error.

    Differences of F1 are mostly -1, 0 or 1: their fourth moment takes the place of a normal one's.
    """
    count, variance = len(differences), float(differences.var(ddof=1))
    fourth = float(((differences - differences.mean()) ** 4).mean())
    error = math.sqrt(max(fourth - variance**2 * (count - 3) / (count - 1), 0.0) / count)
    low, high = variance - _Z_80 * error, variance + _Z_80 * error
    return math.sqrt(max(low, 0.0)), math.sqrt(high)


def measured_spread(checkout: Path) -> float | None:
    """Return the standard deviation (0-1) of the items' differences, adapted minus what it started
    from, in the last run of a checkout; None where there is none, or it had no labelled items.
    """
    differences = _differences(checkout)
    return None if differences is None else float(differences.std(ddof=1)) or None


def _differences(checkout: Path) -> NDArray[np.float64] | None:
    """Return the items' differences in F1 in the last run; None of fewer than two."""
    path = checkout / "artifacts/evaluate/predictions.parquet"
    if not path.is_file():
        return None
    table = read_table(path, ["model", "dataset", "item_id", "f1"]).to_pandas()
    table = table[table["dataset"] != HELD_OUT]  # those say how far it agrees with the generator
    means = table.groupby(["model", "item_id"])["f1"].mean().unstack("model")
    before = "start" if "start" in means else "zero_shot"
    if len(means) < 2 or not {before, "adapted"} <= set(means):
        return None
    return np.asarray((means["adapted"] - means[before]).dropna(), dtype=np.float64)


def smallest_gain(items: int, spread: float) -> float | None:
    """Return the smallest mean difference of two models on the same items that a two-sided test at
    5 % finds with a power of 80 %; None without items.

    It is (1.96 + 0.84) x ``spread`` / sqrt(items), where ``spread`` is the standard deviation of
    the items' differences, in the same unit (Miller, arXiv 2411.00640, power analysis, with one
    answer an item). Items on one passage tell less than others: it is a lower bound.
    """
    return (_Z + _Z_POWER) * spread / math.sqrt(items) if items else None


def items_needed(gain: float, spread: float) -> int:
    """Return how many items make ``gain`` the smallest one that is found."""
    return math.ceil(((_Z + _Z_POWER) * spread / gain) ** 2)
