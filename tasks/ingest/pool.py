"""Processes that read files under a limit of time and memory: a parser that hangs, crashes or eats
memory costs one file.

multiprocessing's pools wait for ever for a killed worker; here it is reported and replaced.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil

from tasks.core.process import set_death_signal
from tasks.ingest.passages import TokenCounter
from tasks.ingest.worker import Work, make_counter, process

#: A spawned process inherits no threads and no memory, so its own use can be limited.
_CONTEXT = multiprocessing.get_context("spawn")
#: A worker is replaced after this many files: parsers leak memory.
_FILES_A_WORKER = 2000
#: Added to the limit of a worker's first file, for its start on a busy machine.
_START_SECONDS = 60.0
#: How often the clock of a worker that got too little CPU is restarted.
_RESTARTS = 4


@dataclass(frozen=True)
class FileLimits:
    """Limits on reading one file.

    ``seconds`` restarts with every part of a result, and is extended on a busy machine.
    """

    seconds: float
    memory_mb: int


@dataclass(frozen=True)
class ResultPart:
    """A part of the result of job ``key``; ``done`` with the last one.

    ``final`` is False where another run may succeed.
    """

    key: str
    part: str = ""
    done: bool = False
    final: bool = True


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    key: str = ""
    deadline: float = field(default=float("inf"))
    files: int = 0
    #: CPU seconds of its process when its clock started, and how often the clock was restarted
    #: since.
    used: float = 0.0
    restarts: int = 0


def run(
    jobs: Iterable[tuple[str, Path]], work: Work, workers: int, limits: FileLimits
) -> Iterator[ResultPart]:
    """Read the files of ``jobs`` (key, path); yield their parts in any order of files, each file's
    parts in order.

    Jobs are taken one by one as workers become free, so an iterator may fetch each file on demand.
    """
    waiting = iter(jobs)
    crew: list[_Worker] = []
    try:
        for key, path in islice(waiting, workers):
            crew.append(_start(work, limits))
            _give(crew[-1], key, path, limits)
        while any(worker.key for worker in crew):
            busy = {worker.pipe: worker for worker in crew if worker.key}
            nearest = min(worker.deadline for worker in busy.values())
            ready = wait(list(busy), timeout=max(0.0, nearest - time.monotonic()))
            for pipe in ready:
                worker = busy[pipe]  # type: ignore[index]
                result = _receive(worker, limits)
                yield result
                if result.done:
                    if not result.final or worker.files >= _FILES_A_WORKER:
                        _replace(worker, work, limits)
                    _give_next(worker, waiting, limits)
            for worker in crew:
                if (
                    worker.key
                    and worker.deadline < time.monotonic()
                    and not worker.pipe.poll()
                    and not _is_starved(worker, limits)
                ):
                    yield _fail(worker, "timeout", f"more than {limits.seconds:g} s")
                    _replace(worker, work, limits)
                    _give_next(worker, waiting, limits)
    finally:
        for worker in crew:
            _stop(worker)


def _receive(worker: _Worker, limits: FileLimits) -> ResultPart:
    """Return the worker's next part; a dead worker's file is a reject."""
    try:
        kind, part = json.loads(worker.pipe.recv_bytes())
    except (EOFError, OSError):
        worker.process.join(5)
        code = worker.process.exitcode
        name = signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"
        return _fail(worker, "crashed", f"the process that read it died: {name}")
    _start_clock(worker, limits.seconds)
    if kind == "memory":
        return _fail(worker, "memory", f"more than {limits.memory_mb} MiB")
    return ResultPart(worker.key, part, done=kind == "done")


def _fail(worker: _Worker, reason: str, detail: str) -> ResultPart:
    return ResultPart(worker.key, format_reject(reason, detail), done=True, final=False)


def format_reject(reason: str, detail: str) -> str:
    """Return the whole result of a file that could not be read."""
    return json.dumps([{"member": "", "reason": reason, "detail": detail}])


def _give_next(worker: _Worker, waiting: Iterator[tuple[str, Path]], limits: FileLimits) -> None:
    """Give the worker the next job, if there is one; its clock starts after the file is fetched."""
    worker.key = ""
    for key, path in islice(waiting, 1):
        _give(worker, key, path, limits)


def _give(worker: _Worker, key: str, path: Path, limits: FileLimits) -> None:
    worker.key = key
    worker.files += 1
    _start_clock(worker, limits.seconds + (_START_SECONDS if worker.files == 1 else 0.0))
    with contextlib.suppress(OSError):
        worker.pipe.send_bytes(os.fsencode(path))


def _start_clock(worker: _Worker, seconds: float) -> None:
    worker.deadline = time.monotonic() + seconds
    worker.used, worker.restarts = _cpu_seconds(worker), 0


def _is_starved(worker: _Worker, limits: FileLimits) -> bool:
    """Tell whether a worker got too little CPU on a busy machine, and restart its clock.

    Only a few times: a worker that hangs uses no CPU either.
    """
    if worker.restarts >= _RESTARTS or _cpu_seconds(worker) - worker.used >= limits.seconds / 2:
        return False
    worker.restarts += 1
    worker.deadline = time.monotonic() + limits.seconds
    return True


def _cpu_seconds(worker: _Worker) -> float:
    try:
        times = psutil.Process(worker.process.pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _start(work: Work, limits: FileLimits) -> _Worker:
    ours, theirs = _CONTEXT.Pipe()
    started = _CONTEXT.Process(
        target=_serve, args=(theirs, json.dumps(work.to_json()), limits.memory_mb), daemon=True
    )
    started.start()
    theirs.close()
    return _Worker(started, ours)


def _replace(worker: _Worker, work: Work, limits: FileLimits) -> None:
    _stop(worker)
    fresh = _start(work, limits)
    worker.process, worker.pipe, worker.files = fresh.process, fresh.pipe, 0


def _stop(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()


def _serve(pipe: Connection, work_json: str, memory_mb: int) -> None:
    """In the worker: receive a path, send its parts, until the pipe closes."""
    set_death_signal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = Work.from_json(json.loads(work_json))
    count = make_counter(work.tokenizer)
    _limit_memory(memory_mb)
    while True:
        try:
            path = Path(os.fsdecode(pipe.recv_bytes()))
        except (EOFError, OSError):
            return
        try:
            last = _send_parts(pipe, path, work, count)
            pipe.send_bytes(json.dumps(["done", last]).encode())
        except MemoryError:
            pipe.send_bytes(json.dumps(["memory", ""]).encode())
            return


def _send_parts(pipe: Connection, path: Path, work: Work, count: TokenCounter) -> str:
    """Send all parts but the last, and return that one."""
    last = "[]"
    try:
        for number, part in enumerate(process(path, work, count)):
            if number:
                pipe.send_bytes(json.dumps(["part", last]).encode())
            last = json.dumps(part, ensure_ascii=True)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  a parser may raise anything; it costs this file alone
        last = format_reject("damaged", f"{type(error).__name__}: {error}"[:500])
    return last


def _limit_memory(memory_mb: int) -> None:
    """Limit the address space to ``memory_mb`` more than the worker has now; on Linux only."""
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    most = pages * resource.getpagesize() + (memory_mb << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
