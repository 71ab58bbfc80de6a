"""The progress of a stage: lines in its log, and a file for its watchers."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.files import read_json, write_json

log = logging.getLogger(__name__)
#: The file in a stage's work folder that says what its last run took from earlier ones.
REUSED = "reused.json"


@dataclass
class Progress:
    """Rows done, rows/s and seconds left: in the file always, in the log every five seconds.

    What is no row but takes as long, such as a test of the model, is counted ``beside`` the rows
    under its own name: it counts for the rate and the time left, not as a row.
    """

    path: Path
    stage: str
    total: int
    unit: str
    beside: str = ""
    beside_total: int = 0
    done: int = 0
    beside_done: int = 0
    started: float = field(default_factory=time.monotonic)
    skipped: int = 0
    _beside_skipped: int = 0
    _logged: float = 0.0
    _shown: float = 0.0
    #: Rows of a group that is not finished.
    _foreseen: int = 0
    #: What earlier meters of this run of the stage left in :data:`REUSED`: reused and done again.
    _before: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Read the counts of earlier meters: a stage may have several."""
        path = self.path.with_name(REUSED)
        if path.is_file():
            told = read_json(path)
            self._before = (told["reused"], told["again"])

    def skip(self, rows: int, beside: int = 0) -> None:
        """Count rows, and what is beside them, that an earlier run did."""
        self.done += rows
        self.skipped += rows
        self.beside_done += beside
        self._beside_skipped += beside
        self._tell_reuse()

    def step(self, step: int, last: int, **facts: Any) -> None:
        """Count one training step of ``last``.

        The steps before the first that is counted here were done by an earlier, killed run.
        """
        if not self.total:
            self.total = last
            self.skip(step - 1)
        self.advance(1, **facts)

    def advance(self, rows: int, beside: int = 0, **facts: Any) -> None:
        """Count ``rows`` and what is ``beside`` them, and show ``facts`` (loss, yield, a sample...)
        with them.
        """
        self.done += rows
        self.beside_done += beside
        self._foreseen = 0
        if self.beside_total:
            facts = {self.beside: f"{self.beside_done}/{self.beside_total}", **facts}
        self._show(facts)

    def foresee(self, rows: int) -> None:
        """Show, once a second, ``rows`` more of a group that :meth:`advance` counts when it is
        finished. A killed run does them again.
        """
        self._foreseen += rows
        if time.monotonic() - self._shown >= 1 and self.done + self._foreseen < self.total:
            self._show({})

    def _show(self, facts: dict[str, Any]) -> None:
        self._shown = now = time.monotonic()
        ended = self.done >= self.total and self.beside_done >= self.beside_total
        done = self.done + self._foreseen
        new = done - self.skipped + self.beside_done - self._beside_skipped
        # Rate is 0 in the first second: cached rows would make it absurd. So it is after one row,
        # which has waited for a start. The end always has one.
        rated = (now - self.started >= 1 and new > 1) or ended
        rate = new / max(now - self.started, 1e-9) if rated else 0.0
        to_do = self.total - done + self.beside_total - self.beside_done
        left = to_do / rate if rate else 0.0
        write_json(
            self.path,
            {
                "stage": self.stage,
                "done": done,
                "total": self.total,
                "unit": self.unit,
                "rate": round(rate, 3),
                "seconds_left": round(left),
                **facts,
            },
        )
        if ended:
            self._tell_reuse()
        if now - self._logged >= 5 or ended:
            self._logged = now
            speed = [f"{rate:.2f}/s", f"{left:.0f} s left"] if rate else []
            more = [f"{name} {fact}" for name, fact in facts.items() if not isinstance(fact, dict)]
            log.info("%s", "  ".join([f"{done}/{self.total} {self.unit}", *speed, *more]))

    def _tell_reuse(self) -> None:
        """Write how much was taken from earlier runs; not into the output, whose bytes do not
        depend on it.
        """
        reused, again = self._before
        told = {"reused": reused + self.skipped, "again": again + self.done - self.skipped}
        write_json(self.path.with_name(REUSED), told | {"unit": self.unit})
