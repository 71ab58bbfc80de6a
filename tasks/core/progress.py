"""How far a stage is: a line in its log, and a file for whoever watches."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.files import write_json

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Rows done, rows/s and time left: in the file at every advance, in the log at most once in
    five seconds.
    """

    path: Path
    stage: str
    total: int
    unit: str
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    skipped: int = 0
    _logged: float = 0.0

    def skip(self, rows: int) -> None:
        """Count rows that an earlier, killed run already did."""
        self.done += rows
        self.skipped += rows

    def step(self, step: int, last: int, **facts: Any) -> None:
        """Count one training step of ``last``; those before the first one that is seen here were
        done by an earlier, killed run.
        """
        if not self.total:
            self.total = last
            self.skip(step - 1)
        self.advance(1, **facts)

    def advance(self, rows: int, **facts: Any) -> None:
        """Count ``rows`` more and show ``facts`` (loss, yield, a sample...) beside them."""
        self.done += rows
        now = time.monotonic()
        # Not told (0) in a meter's first second, but at the end: what came first was at hand
        # already, and its rate is absurd.
        told = now - self.started >= 1 or self.done >= self.total
        rate = (self.done - self.skipped) / max(now - self.started, 1e-9) if told else 0.0
        left = (self.total - self.done) / rate if rate else 0.0
        write_json(
            self.path,
            {
                "stage": self.stage,
                "done": self.done,
                "total": self.total,
                "unit": self.unit,
                "rate": round(rate, 3),
                "seconds_left": round(left),
                **facts,
            },
        )
        if now - self._logged >= 5 or self.done >= self.total:
            self._logged = now
            speed = [f"{rate:.2f}/s", f"{left:.0f} s left"] if rate else []
            shown = [
                f"{name} {value}" for name, value in facts.items() if not isinstance(value, dict)
            ]
            log.info("%s", "  ".join([f"{self.done}/{self.total} {self.unit}", *speed, *shown]))
