"""Intervals of shares."""

from __future__ import annotations

import math

#: Normal quantile of a two-sided 95 % interval.
_Z = 1.959964


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval (0-1) of a share, after Wilson (1927); (0, 1) without rows."""
    if not rows:
        return 0.0, 1.0
    share, spread = right / rows, _Z**2 / rows
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / rows + spread / (4 * rows)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
