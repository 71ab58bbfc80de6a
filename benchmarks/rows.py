"""The lines of the result: ours against theirs, the ratios paired round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.harness import PASSED, BenchOptions, ContenderResult
from tasks.lm.models import EMBEDDED


@dataclass
class ResultRow:
    """A line of the result. ``ratio``: ours over theirs, the median of the rounds' paired ratios;
    ``low`` and ``high``: the least and the greatest.

    ``gate`` is ``passed``, ``failed: why`` or ``not run: why``; without a pass there is no ratio.
    ``unit`` is what ours and theirs count.
    """

    bench: str
    peer: str
    ratio: float | None
    low: float | None
    high: float | None
    gate: str
    machine: str
    target: float | None = None
    better: str = "more"
    unit: str = ""
    ours: float | None = None
    theirs: float | None = None
    end_to_end_ratio: float | None = None
    rounds: int = 0
    note: str = ""
    command: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

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
    options: BenchOptions,
    *,
    unit: str,
    target: float | None = None,
    peak: bool = False,
    note: str = "",
    extra: dict[str, Any] | None = None,
) -> ResultRow:
    """Return the row of ours against theirs: of units a second, or with ``peak`` of the most memory
    held (less is better).
    """
    row = ResultRow(
        bench,
        theirs.name,
        None,
        None,
        None,
        _verdict(ours, theirs, gate),
        options.machine,
        target,
        "less" if peak else "more",
        unit,
    )
    row.note, row.extra = note, dict(extra or {})
    row.command = f"python -m benchmarks --only {bench} --rounds {options.rounds}" + (
        f" --model {options.model}" if options.model != EMBEDDED else ""
    )
    if row.gate != PASSED:
        return row
    if peak:
        gpu = bool(ours.gpu_peak_bytes and theirs.gpu_peak_bytes)
        pair = (
            (ours.gpu_peak_bytes, theirs.gpu_peak_bytes)
            if gpu
            else (ours.peak_bytes, theirs.peak_bytes)
        )
        row.ours, row.theirs = (round(value / 2**20, 1) for value in pair)
        row.ratio = row.low = row.high = round(pair[0] / pair[1], 3)
        row.rounds = len(ours.seconds)
        return row
    paired = [mine / other for mine, other in zip(ours.speeds, theirs.speeds, strict=True)]
    row.ratio, row.low, row.high = (
        round(value, 3) for value in (statistics.median(paired), min(paired), max(paired))
    )
    row.ours, row.theirs = (
        round(statistics.median(ours.speeds), 3),
        round(statistics.median(theirs.speeds), 3),
    )
    # Each has done two rounds by then; a contender with fewer units a round is asked for as many as
    # the other has done.
    row.end_to_end_ratio = round(
        theirs.end_to_end / theirs.units[0] / (ours.end_to_end / ours.units[0]), 3
    )
    row.rounds = len(paired)
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


Bench = Callable[[BenchOptions], list[ResultRow]]
