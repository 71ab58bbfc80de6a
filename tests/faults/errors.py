"""Errors of the system at the n-th moment: a disk that fails, no more files to open, a process that
dies. Nothing half-written is left, and the same command then gives the same bytes.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import psutil

from tasks.core.parquet import read_table
from tests.faults import moments
from tests.faults.settings import set_parameter
from tests.faults.world import World, done, finish, none_left, run


def disk_fails(world: World, chance: Random) -> str:
    """EIO at a moment, once or from then on."""
    name = chance.choice(sorted(world.digests))
    number, lasting = chance.randrange(world.moments(name)), chance.random() < 0.5
    said = _trial(world, name, moments.fail(number, errno.EIO, lasting))
    return said and f"{name}, moment {number}, {'lasting' if lasting else 'once'}: {said}"


def no_more_files(world: World, chance: Random) -> str:
    """EMFILE: from a moment on the process may open up to two files more than it has."""
    name = chance.choice(sorted(world.digests))
    number, more = chance.randrange(world.moments(name)), chance.randrange(3)

    def limit() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = max(map(int, os.listdir("/proc/self/fd"))) + more
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

    said = _trial(world, name, moments.at(number, limit))
    return said and f"{name}, moment {number}, {more} files more: {said}"


def worker_dies(world: World, chance: Random) -> str:
    """SIGKILL of the process that reads files for ingest: it costs the file that it reads, which
    the next run reads again.
    """
    number = chance.randrange(world.moments("ingest"))
    said = _trial(world, "ingest", moments.at(number, lambda: _tell_workers(signal.SIGKILL)))
    return said and f"moment {number}: {said}"


def worker_stops(world: World, chance: Random) -> str:
    """SIGSTOP of that process between two files: the next file takes too long, by itself or with all
    its parts, and is read again by the next run.
    """
    number, limit = chance.randrange(12), chance.choice(("file_seconds", "file_total_seconds"))
    ends = iter(range(12))

    def stop(moment: moments.Moment) -> None:
        if (moment.when, moment.call) == ("after", "finish") and next(ends) == number:
            _tell_workers(signal.SIGSTOP)

    said = _trial(world, "ingest", moments.watch(stop), **{limit: 1.0})
    return said and f"behind file {number}, {limit}: {said}"


def _tell_workers(number: signal.Signals) -> None:
    for child in psutil.Process().children(recursive=True):
        child.send_signal(number)


def _trial(world: World, name: str, before: Callable[[], None], **limits: float) -> str:
    """``limits`` are settings of ingest: what a file may take."""
    folder = world.trial(name)
    for limit, seconds in limits.items():
        set_parameter(folder, f"ingest.{limit}", seconds)
    status = run(folder, name, before=before)
    said = "" if none_left(folder) else "an orphan is left"
    out = folder / "artifacts" / name
    if status == 0:
        said = said or _whole_or_told(world, folder, name)
    elif out.exists() and not said:
        # Killed by an error after the commit: what is there is whole.
        said = world.is_as_undisturbed(folder, name)
    said = said or finish(world, folder, name)
    return done(folder, said) and f"status {status}, then: {said}"


def _whole_or_told(world: World, folder: Path, name: str) -> str:
    """Return an empty string if the output is as undisturbed, or, of ingest, if all that it lacks
    is of documents that it names with a fault that may pass.
    """
    said = world.is_as_undisturbed(folder, name)
    if not said or name != "ingest":
        return said
    found, whole = (_passages(place) for place in (folder, world.reference))
    rejects = read_table(folder / "artifacts/ingest/rejects.parquet").to_pylist()
    told = {
        row["document"] for row in rejects if row["reason"] in ("crashed", "timeout", "unreadable")
    }
    lost = {document for document, _ in whole - found}
    return "" if found <= whole and lost and lost <= told else f"{said}, without a reject: {lost}"


def _passages(folder: Path) -> set[tuple[str, str]]:
    table = read_table(folder / "artifacts/ingest/passages.parquet", ["document", "text"])
    return {(row["document"], row["text"]) for row in table.to_pylist()}
