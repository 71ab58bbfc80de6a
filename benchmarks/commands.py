"""Commands that a bench runs outside of a race: in a clone, or under a clock."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import ROOT, last_line
from tasks.core.errors import PipelineError
from tasks.core.privacy import SILENT

#: Variables that would lead a run in a clone to the user's own servers.
_SERVERS = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME")


def clone(checkout: Path) -> Path:
    """Clone this repository's commit; return the clone."""
    checkout.parent.mkdir(parents=True, exist_ok=True)
    call(["git", "clone", "--quiet", str(ROOT), str(checkout)], checkout.parent)
    return checkout


def call(command: Sequence[str], folder: Path, most_seconds: float | None = None) -> str:
    """Run a command in ``folder`` and return what it printed.

    Raises :class:`PipelineError` where it fails, or takes longer than ``most_seconds``.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _SERVERS}
    told = " ".join([Path(command[0]).name, *command[1:4]])
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**kept, **SILENT},
            capture_output=True,
            text=True,
            check=False,
            timeout=most_seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise PipelineError(f"{told} did not end within {most_seconds:.0f} s") from error
    if done.returncode:
        raise PipelineError(f"{told} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout + done.stderr


def timed(
    command: Sequence[str], log: Path, folder: Path, variables: dict[str, str]
) -> tuple[float, str]:
    """Run a command in ``folder``; return its seconds from start to end, and the last line of its
    log if it failed.
    """
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as told:
        done = subprocess.run(
            command, stdout=told, stderr=told, cwd=folder, env=variables, check=False
        )
    seconds = time.perf_counter() - start
    if not done.returncode:
        return seconds, ""
    return seconds, last_line(log) or f"status {done.returncode}"
