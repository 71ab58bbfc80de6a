"""Ends a run on purpose: after ``run.max_minutes``, or where too few rows were kept to train on.

Nothing is lost: the same command continues where the run ended.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.files import read_json
from tasks.core.mix import Mix
from tasks.core.params import parse_params
from tasks.core.sections.run import Limits

#: How an ending by a limit is called in Prefect, and its exit status (docs/operations.md).
STOPPED, EXIT_STATUS = "Stopped", 3


class TimeUp(Exception):
    """The run has had its minutes."""


def rows_stage(mix: Mix) -> str:
    """Return the stage that keeps the rows to train on: verify those of a generator, else
    supervise.
    """
    return "verify" if mix.generator else "supervise"


@dataclass(frozen=True)
class RunLimits:
    """The limits of one call, and when it began (``time.monotonic``)."""

    limits: Limits
    began: float
    command: str
    #: ``generate.max_passages``; 0: all.
    most_passages: int = 0
    #: The stage whose rows count (:func:`rows_stage`); empty where nothing is trained.
    rows_stage: str = "verify"

    @property
    def again(self) -> str:
        """What continues the run, for a message."""
        return self.command or "the same request"

    @classmethod
    def of(cls, values: dict[str, object], command: str) -> RunLimits:
        """Return the limits in a run's parameters; the minutes begin now."""
        params = parse_params(values, "run")
        mix = params.supervise.mix
        counted = "" if mix.names == ("none",) else rows_stage(mix)
        return cls(params.run, time.monotonic(), command, params.generate.max_passages, counted)

    def check_time(self) -> None:
        """Raise :class:`TimeUp` once the minutes are over."""
        most = self.limits.max_minutes
        if most and time.monotonic() - self.began >= 60 * most:
            raise TimeUp

    def explain_time(self, stage: str, progress: Mapping[str, Any]) -> str:
        """Return the line that says where the run ended, and how it continues; ``progress`` is that
        of the stage (:func:`flows.runs.board.read_progress`).
        """
        reached = f"in {stage}"
        if progress.get("total"):
            reached += f" ({progress['done']:,} of {progress['total']:,} {progress['unit']})"
        return (
            f"run.max_minutes = {self.limits.max_minutes:g} are over {reached}: nothing is lost, "
            f"continue with {self.again}"
        )

    def find_shortfall(self, checkout: Path, after: tuple[str, ...]) -> str:
        """Return why a stage that reads the kept rows (``after``: whose outputs it reads) does not
        run; empty where there are enough.
        """
        limits = self.limits
        if self.rows_stage not in after or not (limits.min_rows or limits.min_rows_per_passage):
            return ""
        path = checkout / "artifacts" / self.rows_stage / "summary.json"
        kept = int(read_json(path)["rows_kept"])
        chosen = int(read_json(checkout / "artifacts" / "ingest" / "summary.json")["rows_kept"])
        chosen = min(chosen, self.most_passages or chosen)
        per_passage = limits.min_rows_per_passage * chosen
        if kept >= max(limits.min_rows, per_passage):
            return ""
        which = (
            f"run.min_rows = {limits.min_rows}"
            if limits.min_rows >= per_passage
            else f"run.min_rows_per_passage = {limits.min_rows_per_passage:g} of {chosen} passages"
        )
        told_in = "report.html" if self.rows_stage == "verify" else "summary.json"
        return (
            f"{kept} rows are kept, fewer than {which}: not trained; look at "
            f"artifacts/{self.rows_stage}/{told_in}, add documents or generate.samples, or lower "
            f"the floor, and continue with {self.again}"
        )
