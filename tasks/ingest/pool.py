"""Processes that read files, each under a limit of time and memory: a parser that hangs, crashes or
eats memory costs one file.

multiprocessing's own pools wait for ever for a worker that was killed; here a lost worker is
noticed, named and replaced.
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
from tasks.ingest.worker import Work, counter, process

#: A spawned process inherits neither threads nor memory: what it may use can be measured.
_CONTEXT = multiprocessing.get_context("spawn")
#: A worker that has read so many files is replaced, so that what parsers leak stays small.
_FILES_A_WORKER = 2000
#: A worker's first file also pays for its start, on a busy machine too.
_START_SECONDS = 60.0
#: How often the clock of a worker that got too little of the processor is set anew.
_LET_OFF = 4


@dataclass(frozen=True)
class Limits:
    """What reading one file may cost.

    ``seconds`` runs anew with every part of a result, and is longer where the machine is busy with
    other things.
    """

    seconds: float
    memory_mb: int


@dataclass(frozen=True)
class Outcome:
    """News of the job ``key``: a part of its result, or its end.

    ``final`` is False where another run may fare better.
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
    #: CPU seconds its process had used when the clock last began to run, and how often it was let
    #: off since.
    used: float = 0.0
    let_off: int = 0


def run(
    jobs: Iterable[tuple[str, Path]], work: Work, workers: int, limits: Limits
) -> Iterator[Outcome]:
    """Read the files of ``jobs`` (key, path) and yield what comes, in no order between files, each
    file's parts in theirs.

    Jobs are taken one by one as workers get free: they may be made, or fetched from elsewhere, as
    they are asked for.
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
                outcome = _receive(worker, limits)
                yield outcome
                if outcome.done:
                    if not outcome.final or worker.files >= _FILES_A_WORKER:
                        _replace(worker, work, limits)
                    _give_next(worker, waiting, limits)
            for worker in crew:
                if (
                    worker.key
                    and worker.deadline < time.monotonic()
                    and not worker.pipe.poll()
                    and not _starved(worker, limits)
                ):
                    yield Outcome(
                        worker.key,
                        reject("timeout", f"more than {limits.seconds:g} s"),
                        done=True,
                        final=False,
                    )
                    _replace(worker, work, limits)
                    _give_next(worker, waiting, limits)
    finally:
        for worker in crew:
            _stop(worker)


def _receive(worker: _Worker, limits: Limits) -> Outcome:
    """Return the worker's news; a dead one's is that its file crashed it."""
    try:
        kind, part = json.loads(worker.pipe.recv_bytes())
    except (EOFError, OSError):
        worker.process.join(5)
        code = worker.process.exitcode
        name = signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"
        return Outcome(
            worker.key,
            reject("crashed", f"the process that read it died: {name}"),
            done=True,
            final=False,
        )
    _wind_up(worker, limits.seconds)
    if kind == "memory":
        return Outcome(
            worker.key,
            reject("memory", f"more than {limits.memory_mb} MiB"),
            done=True,
            final=False,
        )
    return Outcome(worker.key, part, done=kind == "done")


def reject(reason: str, detail: str) -> str:
    """Return the whole result of a file that could not be read."""
    return json.dumps([{"member": "", "reason": reason, "detail": detail}])


def _give_next(worker: _Worker, waiting: Iterator[tuple[str, Path]], limits: Limits) -> None:
    """Give the worker the next job, or leave it idle where there is none.

    Fetching the job takes none of its time.
    """
    worker.key = ""
    for key, path in islice(waiting, 1):
        _give(worker, key, path, limits)


def _give(worker: _Worker, key: str, path: Path, limits: Limits) -> None:
    worker.key = key
    worker.files += 1
    _wind_up(worker, limits.seconds + (_START_SECONDS if worker.files == 1 else 0.0))
    with contextlib.suppress(OSError):
        worker.pipe.send_bytes(os.fsencode(path))


def _wind_up(worker: _Worker, seconds: float) -> None:
    worker.deadline = time.monotonic() + seconds
    worker.used, worker.let_off = _cpu_seconds(worker), 0


def _starved(worker: _Worker, limits: Limits) -> bool:
    """Tell whether a worker had no chance, on a machine busy with other things, and set its clock
    anew; a few times at most, as it may hang idly.
    """
    if worker.let_off >= _LET_OFF or _cpu_seconds(worker) - worker.used >= limits.seconds / 2:
        return False
    worker.let_off += 1
    worker.deadline = time.monotonic() + limits.seconds
    return True


def _cpu_seconds(worker: _Worker) -> float:
    try:
        times = psutil.Process(worker.process.pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _start(work: Work, limits: Limits) -> _Worker:
    ours, theirs = _CONTEXT.Pipe()
    started = _CONTEXT.Process(
        target=_serve, args=(theirs, json.dumps(work.to_json()), limits.memory_mb), daemon=True
    )
    started.start()
    theirs.close()
    return _Worker(started, ours)


def _replace(worker: _Worker, work: Work, limits: Limits) -> None:
    _stop(worker)
    fresh = _start(work, limits)
    worker.process, worker.pipe, worker.files = fresh.process, fresh.pipe, 0


def _stop(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()


def _serve(pipe: Connection, work_json: str, memory_mb: int) -> None:
    """A worker's life: take a path, send its parts, until the pipe closes."""
    set_death_signal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = Work.from_json(json.loads(work_json))
    count = counter(work.tokenizer)
    _limit_memory(memory_mb)
    while True:
        try:
            path = Path(os.fsdecode(pipe.recv_bytes()))
        except (EOFError, OSError):
            return
        try:
            parts = [*_sent(pipe, path, work, count)]
            pipe.send_bytes(json.dumps(["done", parts[-1]]).encode())
        except MemoryError:
            pipe.send_bytes(json.dumps(["memory", ""]).encode())
            return


def _sent(pipe: Connection, path: Path, work: Work, count: Any) -> Iterator[str]:
    """Send all parts but the last, which is yielded."""
    last = "[]"
    try:
        for number, part in enumerate(process(path, work, count)):
            if number:
                pipe.send_bytes(json.dumps(["part", last]).encode())
            last = json.dumps(part, ensure_ascii=True)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  a parser may raise anything at a damaged file, and that must cost this file alone
        last = json.dumps(
            [
                {
                    "member": "",
                    "reason": "damaged",
                    "detail": f"{type(error).__name__}: {error}"[:500],
                }
            ]
        )
    yield last


def _limit_memory(memory_mb: int) -> None:
    """Allow so much address space beyond what the worker has already.

    Linux only: elsewhere the limit is not enforced.
    """
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    most = pages * resource.getpagesize() + (memory_mb << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
