"""The lines of the result: ours against theirs, the ratios paired round by round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.harness import PASSED, ContenderResult


@dataclass(kw_only=True)
class ResultRow:
    """A line of the result. ``ratio``: ours over theirs, the median of the rounds' paired ratios;
    ``low`` and ``high``: the least and the greatest of them.

    ``gate`` is ``passed``, ``failed: why`` or ``not run: why``; without a pass there is no ratio.
    ``unit`` is what ours and theirs count. A bench leaves ``machine`` and ``command`` to
    :func:`benchmarks.__main__.measure`.
    """

    bench: str
    peer: str
    gate: str
    unit: str
    target: float | None = None
    better: str = "more"
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    ours: float | None = None
    theirs: float | None = None
    end_to_end_ratio: float | None = None
    rounds: int = 0
    note: str = ""
    machine: str = ""
    command: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def set_ratio(self, ratios: Sequence[float]) -> None:
        """Set the ratio and its range from one ratio a round."""
        self.ratio, self.low, self.high = (
            round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))
        )
        self.rounds = len(ratios)

    def as_json(self) -> dict[str, Any]:
        """Return the row as results.json holds it."""
        row = asdict(self)
        return {**{key: value for key, value in row.items() if key != "extra"}, **row["extra"]}

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none, or no ratio."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= self.target if self.better == "more" else self.ratio <= self.target


def compare(
    bench: str,
    ours: ContenderResult,
    theirs: ContenderResult,
    gate: str,
    *,
    unit: str,
    target: float | None = None,
    peak: bool = False,
    note: str = "",
    extra: dict[str, Any] | None = None,
) -> ResultRow:
    """Return the row of ours against theirs: units a second, or with ``peak`` the most memory (less
    is better).
    """
    row = ResultRow(
        bench=bench,
        peer=theirs.name,
        gate=_verdict(ours, theirs, gate),
        unit=unit,
        target=target,
        better="less" if peak else "more",
        note=note,
        extra=dict(extra or {}),
    )
    if row.gate != PASSED:
        return row
    if peak:
        pair = ours.gpu_peak_bytes, theirs.gpu_peak_bytes
        if not all(pair):
            pair = ours.peak_bytes, theirs.peak_bytes
        row.ours, row.theirs = (round(value / 2**20, 1) for value in pair)
        row.set_ratio([pair[0] / pair[1]])
        row.rounds = len(ours.seconds)
        return row
    row.set_ratio([mine / other for mine, other in zip(ours.speeds, theirs.speeds, strict=True)])
    row.ours, row.theirs = (round(statistics.median(one.speeds), 3) for one in (ours, theirs))
    # Each has done two rounds by then. Per unit, as contenders may do fewer units in a round.
    row.end_to_end_ratio = round(
        theirs.end_to_end / theirs.units[0] / (ours.end_to_end / ours.units[0]), 3
    )
    row.extra |= {"seconds_ours": _rounded(ours), "seconds_theirs": _rounded(theirs)}
    return row


def _rounded(outcome: ContenderResult) -> dict[str, Any]:
    return {
        "load": round(outcome.load, 2),
        "warm_up": round(outcome.warm_up, 2),
        "rounds": [round(value, 3) for value in outcome.seconds],
    }


def _verdict(ours: ContenderResult, theirs: ContenderResult, gate: str) -> str:
    if ours.failure:
        return f"failed: ours: {ours.failure}"
    if theirs.failure:
        return f"not run: {theirs.failure}"
    return gate if gate == PASSED else f"failed: {gate}"
