"""Reads files in processes of their own: on this machine, or on a Ray cluster.

A member of a file that ends its process costs itself: the file is read again without it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.core.pool import Limits, Pool, ResultPart
from tasks.core.ray_cluster import Workers
from tasks.core.ray_workers import spread
from tasks.ingest.worker import Work, format_reject, make_counter, process

#: Members of one file that may end their processes before the rest of it is given up.
_DEATHS = 20
#: Files that a Ray worker is given at a time.
_FILES_A_JOB = 8


def read_files(
    jobs: Iterable[tuple[str, Path]], work: Work, workers: int, limits: Limits, scratch: Path
) -> Iterator[ResultPart]:
    """Read the files of ``jobs`` (key, path) in processes of their own, and yield their results'
    parts as JSON text, as :meth:`Pool.run` does; the last part of a file that failed is its reject.

    Where a member of an archive or message crashes or hangs its process, reading continues with the
    next member. The ``failure`` is then the member's, or ``unreadable``: another run may succeed.
    A file that has used up ``limits.total_seconds`` ends with a reject that says so.

    ``scratch`` is a folder for what is unpacked. Killed workers leave some of it, which is removed
    at the end; where this process is killed too, the next call with the same folder removes it.
    """
    with _emptied(scratch), _pool(work, workers, limits, scratch) as pool:
        yield from _read(jobs, pool)


def read_on_ray(
    jobs: Iterable[tuple[str, Path]],
    work: Work,
    workers: Workers,
    limits: Limits,
    scratch: Path,
) -> Iterator[ResultPart]:
    """Read as :func:`read_files`, by the workers of a Ray cluster. The files, and ``scratch``, must
    have the same paths on its machines.
    """
    setup = (work, limits, str(scratch.absolute()))
    left = iter(jobs)
    batches = enumerate(iter(lambda: list(islice(left, _FILES_A_JOB)), []))
    with _emptied(scratch):
        for _, parts in spread(f"{__name__}:RayReader", setup, batches, workers):
            yield from parts


class RayReader:
    """Reads files in a process of its own, for a worker of a Ray cluster."""

    def __init__(self, work: Work, limits: Limits, scratch: str) -> None:
        folder = Path(scratch) / f"{platform.node()}-{os.getpid()}"
        folder.mkdir()
        self._pool = _pool(work, 1, limits, folder)

    def __call__(self, files: Sequence[tuple[str, Path]]) -> list[ResultPart]:
        """Return the parts of the results of ``files`` (key, path)."""
        return list(_read(files, self._pool))


@contextmanager
def _emptied(scratch: Path) -> Iterator[None]:
    """Make an empty folder, and remove it when the block ends."""
    if scratch.is_file():  # of an earlier version
        scratch.unlink()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _pool(work: Work, workers: int, limits: Limits, scratch: Path) -> Pool:
    return Pool(_start, (work, str(scratch.absolute())), workers, limits)


def _read(jobs: Iterable[tuple[str, Path]], pool: Pool) -> Iterator[ResultPart]:
    reading = _Reading(iter(jobs))
    for result in pool.run(reading.jobs()):
        yield reading.receive(result)


@dataclass
class _File:
    """A file that is being read: the member that it began last, and how many were passed over."""

    path: Path
    begun: int = 0
    member: str = ""
    skipped: int = 0
    deaths: int = 0
    failure: str = ""


@dataclass
class _Reading:
    """Hands out files, and those again whose member ended a process."""

    files: Iterator[tuple[str, Path]]
    _open: dict[str, _File] = field(default_factory=dict)
    _again: deque[str] = field(default_factory=deque)

    def jobs(self) -> Iterator[tuple[str, tuple[Path, int]] | None]:
        while True:
            if self._again:
                key = self._again.popleft()
            elif entry := next(self.files, None):
                key = entry[0]
                self._open[key] = _File(entry[1])
            elif self._open:
                yield None
                continue
            else:
                return
            yield key, (self._open[key].path, self._open[key].skipped)

    def receive(self, result: ResultPart) -> ResultPart:
        """Return a part with its JSON text as value."""
        file = self._open[result.key]
        if not result.failure:
            text, begun, member, retry = result.value
            if begun:
                file.begun, file.member = begun, member
            if retry:
                file.failure = "unreadable"
        elif result.failure == "total":
            rest = f"the rest, from {file.member} on," if file.member else "the rest"
            text = format_reject("timeout", f"{result.detail}: {rest} was not read")
        elif result.failure != "error" and file.begun > file.skipped and file.deaths < _DEATHS:
            file.skipped, file.failure, file.deaths = file.begun, result.failure, file.deaths + 1
            self._again.append(result.key)
            rejected = _format_failure(result, file.member)
            return replace(result, value=rejected, done=False, failure="", detail="")
        else:
            text = _format_failure(result)
        if result.done:
            del self._open[result.key]
            return replace(result, value=text, failure=result.failure or file.failure)
        return replace(result, value=text)


def _start(work: Work, scratch: str) -> Callable[[tuple[Path, int]], Iterator[list[Any]]]:
    tempfile.tempdir = scratch
    count = make_counter(work.tokenizer)

    def do(job: tuple[Path, int]) -> Iterator[list[Any]]:
        """Yield each part's JSON text, the number and place of the member that begins after it,
        and whether it has a fault that may pass.
        """
        path, skip = job
        chosen = replace(work, options=replace(work.options, skip=skip))
        for part in process(path, chosen, count):
            begin = part.pop() if part and "begin" in part[-1] else {}
            retry = any(entry.get("reason") == "unreadable" for entry in part)
            yield [json.dumps(part), begin.get("begin", 0), begin.get("member", ""), retry]

    return do


def _format_failure(result: ResultPart, member: str = "") -> str:
    if result.failure == "error":
        return format_reject("damaged", result.detail)
    if result.failure == "crashed":
        detail = f"the process that read it died: {result.detail}"
        return format_reject("crashed", detail, member)
    return format_reject(result.failure, result.detail, member)
