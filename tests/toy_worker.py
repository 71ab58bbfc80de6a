"""What :func:`tasks.core.ray_workers.spread` starts in its workers in the tests: jobs that take no
model, no torch and no time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tasks.core.errors import PipelineError


def worker(folder: str) -> Callable[[str], str]:
    """Return what does one job; each leaves a mark in ``folder`` with its process's number."""
    marks = Path(folder)

    def do(job: str) -> str:
        (marks / f"{job}.{time.monotonic_ns()}").write_text(str(os.getpid()))
        if job == "die always" or (job == "die once" and len(list(marks.glob("die once.*"))) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if job == "refuse":
            raise PipelineError("the generator has no tokenizer: take another")
        if job == "bug":
            raise KeyError("f1")
        if job == "hang":
            time.sleep(600)
        if job == "slow":
            time.sleep(1.0)
        return f"{job} done with {os.environ['OMP_NUM_THREADS']} threads in {Path.cwd()}"

    return do
