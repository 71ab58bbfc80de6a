"""Start a program that dies when its parent does.

``python -m flows.runs.die_with_parent PARENT_PID FOLDER PROGRAM [ARGUMENT ...]``

A launcher process instead of a ``preexec_fn``: Prefect runs many threads, and code between fork and
exec may wait for ever on a lock that another thread held.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows.runs import CODE
from tasks.core.process import set_death_signal


def main() -> None:
    """Ask the kernel for the death signal, then exec the program."""
    parent, folder, *command = sys.argv[1:]
    set_death_signal()
    if os.getppid() != int(parent):  # the parent died before the request reached the kernel
        sys.exit(1)
    os.chdir(folder)
    os.execvp(command[0], command)  # noqa: S606


def start(
    command: list[str], folder: Path, environment: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start ``command`` in ``folder`` as a child that is killed when the calling *thread* ends.

    The kernel sends the signal per thread, so the thread that starts a child must wait for it.
    """
    launcher = [sys.executable, "-m", "flows.runs.die_with_parent", str(os.getpid())]
    launcher += [str(folder.resolve()), *command]
    return subprocess.Popen(launcher, cwd=CODE, env=environment, text=True, **options)


if __name__ == "__main__":
    main()
