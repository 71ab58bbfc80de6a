"""The work of a soak: in this process, or shared by several.

Each process makes its own world, with folders, servers and ports of its own
(:mod:`tests.faults.ports`). They take the trials in turn, each by a file that only one can make, and
write them into one journal.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.process import set_death_signal
from tests.faults.ports import JOB

if TYPE_CHECKING:
    from tests.faults.catalogue import Fault
    from tests.faults.journal import Journal


def work_in(jobs: int, arguments: list[str]) -> str:
    """Start processes that share the trials, and wait for them; return why not all trials were
    made, or an empty string.
    """
    with tempfile.TemporaryDirectory(prefix="faults-claims-") as claims:
        command = [sys.executable, "-m", "tests.faults", *arguments, "--claims", claims]
        processes = [
            subprocess.Popen(
                command,
                env={**os.environ, JOB: str(job)},
                process_group=0,  # Ctrl-C reaches this process, which ends them
                preexec_fn=set_death_signal,  # noqa: PLW1509 - nothing but a system call
            )
            for job in range(jobs)
        ]
        try:
            statuses = [process.wait() for process in processes]
        except KeyboardInterrupt:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
            return "stopped"
        if any(statuses):
            sys.exit(f"error: soak: its processes ended with {statuses}: the reason is above")
        said = Path(claims) / "stopped"
        return said.read_text() if said.exists() else ""


def work_alone(given: argparse.Namespace, journal: Journal, left: list[tuple[Fault, int]]) -> str:
    """Make the trials that are left, of which other processes may take some; return why it was not
    all of them, or an empty string.
    """
    stopped = _work(given, journal, left)
    if given.claims and stopped:
        (given.claims / "stopped").write_text(stopped)
    return stopped


def _work(given: argparse.Namespace, journal: Journal, left: list[tuple[Fault, int]]) -> str:
    from tests.faults.libraries import load_libraries
    from tests.faults.world import World

    began = time.monotonic()
    load_libraries()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        world = World(Path(scratch).resolve())
        hook = Path(__file__).with_name("hook")
        os.environ.update(FAULT_BRANCHES=str(world.branches), PYTHONPATH=str(hook))
        try:
            world.build(quick=given.short)
            shown = ", ".join(
                f"{stage} {seconds:.1f} s" for stage, seconds in world.seconds.items()
            )
            print(
                f"undisturbed run: {shown} ({time.monotonic() - began:.0f} s to make)", flush=True
            )
            for fault, number in left:
                if given.minutes and time.monotonic() - began > 60 * given.minutes:
                    return f"the {given.minutes:g} minutes are used up"
                if _take(given.claims, fault.name, number):
                    journal.make(fault, number, world)
        except KeyboardInterrupt:
            return "stopped"
        finally:
            world.close()
    return ""


def _take(claims: Path | None, fault: str, number: int) -> bool:
    """Tell whether this process makes a trial: no other has taken it."""
    if claims is None:
        return True
    with suppress(FileExistsError):
        (claims / f"{number} {fault.replace('/', ' ')}").touch(exist_ok=False)
        return True
    return False
