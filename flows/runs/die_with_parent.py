"""Start a program that dies when its parent does: ``python -m flows.runs.die_with_parent PARENT_PID
FOLDER PROGRAM [ARGUMENT ...]``.

A process of its own instead of a ``preexec_fn``: Prefect runs many threads, and code run between
fork and exec of a threaded process may wait for ever on a lock that another thread held.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.core.process import set_death_signal

#: Folder from which ``flows`` and ``tasks`` can be imported.
CODE = Path(__file__).resolve().parents[2]


def main() -> None:
    """Ask the kernel for the death signal, then become the program."""
    parent, folder, *command = sys.argv[1:]
    set_death_signal()
    if os.getppid() != int(parent):  # the parent died before the request reached the kernel
        sys.exit(1)
    os.chdir(folder)
    os.execvp(command[0], command)  # noqa: S606


def start(
    command: list[str], folder: Path, environment: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start ``command`` in ``folder`` as a child that is killed when the calling *thread* ends, as
    the kernel counts it.

    The thread that starts a child must therefore be the one that waits for it.
    """
    launcher = [
        sys.executable,
        "-m",
        "flows.runs.die_with_parent",
        str(os.getpid()),
        str(folder.resolve()),
        *command,
    ]
    return subprocess.Popen(launcher, cwd=CODE, env=environment, text=True, **options)


if __name__ == "__main__":
    main()
