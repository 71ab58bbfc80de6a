"""Processes that do jobs under limits: a job that hangs, crashes or needs too much memory ends no
other.

multiprocessing.Pool waits forever for a worker that was killed, and an executor of
concurrent.futures loses the jobs of all its workers. Here a dead worker costs the job that it had,
and another one takes its place.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from typing import Any

import psutil

from tasks.core.clock import Clock
from tasks.core.pool_pipe import WorkerPipe, wait
from tasks.core.pool_process import Setup, Start, serve

#: Spawned, not forked: a fork of a process with threads (Arrow's) may hang, and a worker that
#: inherits no memory can be measured.
_CONTEXT = multiprocessing.get_context("spawn")
#: A worker that has done so many jobs is replaced, so that what libraries leak stays small.
_JOBS_A_WORKER = 2000
#: More time for a worker's first job, which includes its start, maybe on a busy machine.
_START_SECONDS = 60.0
#: The system counts the milliseconds of one wait in 32 bits.
_LONGEST_WAIT = 86_400.0


@dataclass(frozen=True)
class Limits:
    """What one job may cost.

    ``seconds`` of wall time count from one part of a result to the next, ``total_seconds`` for all
    parts of a job, and of those given again under its key; both are more where the machine is busy
    with other things. ``memory_mb`` (MiB) come on top of what a worker needs before its first job.
    """

    seconds: float
    memory_mb: int
    total_seconds: float = math.inf


@dataclass(frozen=True)
class ResultPart:
    """A part of the result of the job ``key``, the last one where ``done``.

    A job that failed has no last part: ``failure`` is ``error`` (it raised), ``timeout``,
    ``total`` (its key has no time left), ``memory`` or ``crashed`` (its process died), and
    ``detail`` explains it.
    """

    key: Any
    value: Any = None
    done: bool = False
    failure: str = ""
    detail: str = ""


class Pool:
    """At most ``workers`` processes, started when there is a job for them.

    Each calls ``start(*setup)`` once, which returns the function that does the jobs: it takes a
    job and yields the parts of its result, values that JSON can hold. ``start`` is found by its
    module and name; ``setup`` and the jobs are pickled. The processes die with this one.
    """

    def __init__(self, start: Start, setup: tuple[Any, ...], workers: int, limits: Limits) -> None:
        self._start, self._setup, self._workers, self._limits = start, setup, workers, limits
        self._busy: dict[WorkerPipe, _Worker] = {}
        self._idle: list[_Worker] = []
        #: Of the keys at work, and of those whose job failed: they may be given again.
        self._totals: dict[Any, Clock] = {}
        self._written: Setup | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in (*self._busy.values(), *self._idle):
            worker.stop()
        self._busy.clear()
        self._idle.clear()
        if self._written:
            self._written.file.close()
            self._written = None

    def map(self, jobs: Iterable[Any]) -> Iterator[tuple[Any, ResultPart]]:
        """Yield each job with the end of its result, in the order of the jobs; few of them are in
        memory at a time.
        """
        sent: dict[int, Any] = {}
        ended: dict[int, ResultPart] = {}
        turn = 0

        def within_reach() -> Iterator[tuple[int, Any] | None]:
            for number, job in enumerate(jobs):
                while number > turn + 2 * self._workers:
                    yield None
                sent[number] = job
                yield number, job

        for result in self.run(within_reach()):
            if result.done:
                ended[result.key] = result
            while turn in ended:
                yield sent.pop(turn), ended.pop(turn)
                turn += 1

    def run(self, jobs: Iterable[tuple[Any, Any] | None]) -> Iterator[ResultPart]:
        """Do ``jobs`` (key, job) and yield their results as they come: in no order between jobs,
        each job's parts in theirs.

        Jobs are taken one by one as workers get free: they may be made, or fetched from elsewhere,
        at that moment. None means that the next one has to wait for a result. The key of a job that
        failed may be given again, for what is left of its total seconds.
        """
        waiting = iter(jobs)
        self._totals.clear()
        try:
            while self._hand_out(waiting):
                yield from self._receive_some()
                yield from self._end_overdue()
        finally:
            for worker in [*self._busy.values()]:  # still at work where the caller stopped early
                self._dismiss(worker)

    def _hand_out(self, waiting: Iterator[tuple[Any, Any] | None]) -> bool:
        """Give each free worker a job; return whether any is at work."""
        while len(self._busy) < self._workers and (entry := next(waiting, None)):
            worker = self._idle.pop() if self._idle else self._start_worker()
            self._busy[worker.pipe] = worker
            seconds = self._limits.total_seconds
            total = self._totals.setdefault(entry[0], Clock(seconds, seconds))
            worker.give(*entry, self._limits.seconds, total)
        return bool(self._busy)

    def _start_worker(self) -> _Worker:
        self._written = self._written or Setup.write(self._start, self._setup)
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(
            target=serve, args=(theirs, self._written, self._limits.memory_mb), daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process, WorkerPipe(ours))

    def _receive_some(self) -> Iterator[ResultPart]:
        nearest = min(
            min(worker.part.deadline, worker.total.deadline) for worker in self._busy.values()
        )
        seconds = min(max(0.0, nearest - time.monotonic()), _LONGEST_WAIT)
        for pipe in wait(self._busy, seconds):
            if result := self._receive(self._busy[pipe]):
                yield result

    def _receive(self, worker: _Worker) -> ResultPart | None:
        try:
            # JSON, not pickle: a pickle could run code here, and an untrusted file may have taken
            # over the worker.
            kind, value = json.loads(worker.pipe.receive())
        except (EOFError, ValueError, TypeError, RecursionError):
            worker.process.join(5)  # it closes its pipe before it has ended
            self._dismiss(worker)
            return ResultPart(worker.key, None, True, "crashed", worker.ending())
        if kind == "ready":
            worker.begin()
            return None
        worker.restart_clock(self._limits.seconds)
        if kind == "part":
            return ResultPart(worker.key, value)
        if kind == "memory":
            self._dismiss(worker)
            detail = f"more than {self._limits.memory_mb} MiB"
            return ResultPart(worker.key, None, True, "memory", detail)
        self._release(worker)
        if kind == "error":
            return ResultPart(worker.key, None, True, "error", value)
        return ResultPart(worker.key, value, True)

    def _end_overdue(self) -> Iterator[ResultPart]:
        for worker in [*self._busy.values()]:
            if worker.total.is_over(worker.cpu_seconds):
                self._dismiss(worker)
                detail = f"more than {self._limits.total_seconds:g} s in all"
                yield ResultPart(worker.key, None, True, "total", detail)
            elif worker.is_overdue():
                self._dismiss(worker)
                detail = f"more than {self._limits.seconds:g} s"
                yield ResultPart(worker.key, None, True, "timeout", detail)

    def _release(self, worker: _Worker) -> None:
        """Keep a worker for the next job, unless it has done many."""
        self._totals.pop(worker.key, None)
        if worker.jobs >= _JOBS_A_WORKER:
            self._dismiss(worker)
        else:
            self._idle.append(self._busy.pop(worker.pipe))

    def _dismiss(self, worker: _Worker) -> None:
        del self._busy[worker.pipe]
        worker.stop()


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: WorkerPipe
    key: Any = None
    jobs: int = 0
    #: False while it starts.
    ready: bool = False
    #: For the part that it works at, and for its key.
    part: Clock = field(default_factory=lambda: Clock(math.inf, math.inf))
    total: Clock = field(default_factory=lambda: Clock(math.inf, math.inf))
    #: CPU seconds that its process had used when ``part`` started.
    cpu: float = 0.0

    def give(self, key: Any, job: Any, seconds: float, total: Clock) -> None:
        self.key, self.total = key, total
        self.jobs += 1
        self.restart_clock(seconds, _START_SECONDS if self.jobs == 1 else 0.0)
        if self.ready:
            self.total.start(self.cpu)
        self.pipe.send(job)

    def begin(self) -> None:
        """Start the clock of its first job's key: the start of the process is not counted."""
        if not self.ready:  # a file that took the process over could restart the clock for ever
            self.ready = True
            self.total.start(self.cpu_seconds())

    def restart_clock(self, seconds: float, more: float = 0.0) -> None:
        self.cpu = self.cpu_seconds()
        self.part = Clock(seconds, seconds + more)
        self.part.start(self.cpu)

    def is_overdue(self) -> bool:
        """Tell whether the time of its part is over, and nothing of it is there to be read."""
        return not self.pipe.poll() and self.part.is_over(self.cpu_seconds)

    def cpu_seconds(self) -> float:
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def ending(self) -> str:
        """Return the signal that a dead process died of, or its status."""
        code = self.process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"

    def stop(self) -> None:
        # The process of a worker that died is gone, and another may have its number.
        self.total.stop(self.cpu_seconds() if self.process.is_alive() else self.cpu)
        self.pipe.close()
        self.process.kill()
        self.process.join()
