"""The time that a worker of a pool may take, on a machine that may be busy with other things."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

#: How often the clock of a worker that got too little of the processor is restarted.
_RESTARTS = 4


@dataclass
class Clock:
    """``seconds`` of wall time for a worker, or for several one after the other. While the clock is
    stopped, ``left`` seconds remain.

    It starts again from ``seconds`` where the machine gave the worker too little of the processor:
    a few times at most, since a job may hang without using the processor.
    """

    seconds: float
    left: float
    #: CPU seconds that it has counted, while it is stopped.
    used: float = 0.0
    #: CPU seconds of its worker that it does not count, while it runs.
    base: float = 0.0
    restarts: int = 0
    deadline: float = math.inf

    def start(self, cpu: float) -> None:
        """Let the time run; ``cpu`` are the CPU seconds that the worker has used so far."""
        self.deadline, self.base = time.monotonic() + self.left, cpu - self.used

    def stop(self, cpu: float) -> None:
        """Stop, and keep the seconds that are left; ``cpu`` as for :meth:`start`."""
        if self.deadline < math.inf:
            self.left, self.used = self.deadline - time.monotonic(), cpu - self.base
            self.deadline = math.inf

    def is_over(self, cpu_seconds: Callable[[], float]) -> bool:
        """Tell whether the time is over, and restart it where the machine was busy."""
        if self.deadline >= time.monotonic():
            return False
        if self.restarts >= _RESTARTS or cpu_seconds() - self.base >= self.seconds / 2:
            return True
        self.restarts += 1
        self.deadline = time.monotonic() + self.seconds
        return False
