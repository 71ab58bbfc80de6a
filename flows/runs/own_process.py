"""A module that is asked in a process of its own: it loads libraries that the caller
does without.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tasks.core.errors import PipelineError


def run_module(module: str, name: str, folder: Path, *arguments: str) -> str:
    """Run ``python -m module`` in ``folder`` and return what it printed.

    Where it fails, its last line is the :class:`PipelineError`, without ``name``, the one that its
    errors begin with.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise PipelineError(lines[-1].removeprefix(f"error: {name}: "))
    return done.stdout.strip()
