"""Renders templates in child processes that are limited in time and memory, in order, whatever
their number.

A template is a stranger's program. The sandbox keeps it from reaching anything; here it is kept
from using everything: a child is interrupted after so many CPU seconds a row, refused more memory
than its share, and replaced when even that does not stop it.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from types import FrameType, TracebackType
from typing import Any

from jinja2 import Template as Compiled

from bonito.templating.metatemplate import MetaTemplate, Unconvertible, convert
from bonito.templating.render import OK, Rendering, render
from bonito.templating.sandbox import Sandbox
from bonito.templating.templates import PromptTemplate
from tasks.core.files import row_seed
from tasks.core.process import set_death_signal


@dataclass(frozen=True)
class RenderLimits:
    """What one row may cost: CPU seconds, and megabytes on top of the process itself."""

    seconds: float = 2.0
    megabytes: int = 512


@dataclass(frozen=True)
class RenderJob:
    """One row through the template of that index; without a row the template is only converted."""

    template: int
    row_id: str = ""
    row: dict[str, Any] | None = None


class Renderers:
    """A pool of limited processes that hold ``templates`` compiled.

    ``passages`` maps (dataset, config) to the Jinja text of the passage. Results depend on the job
    and ``seed`` alone; only a template within a hair of its time limit could come out differently
    on a slower machine.
    """

    def __init__(
        self,
        templates: Sequence[PromptTemplate],
        passages: Mapping[tuple[str, str], str],
        limits: RenderLimits,
        seed: int,
        workers: int,
    ) -> None:
        self._setup = (list(templates), dict(passages), limits, seed)
        self._limits = limits
        self._workers = workers or os.cpu_count() or 1
        self._pool = self._start(self._workers)

    def __enter__(self) -> Renderers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, batches: Iterable[list[RenderJob]]) -> Iterator[list[Rendering]]:
        """Yield the outcomes of each batch, in the order of the batches; few of them are in memory
        at a time.
        """
        waiting: deque[tuple[list[RenderJob], Future[list[Rendering]]]] = deque()
        for batch in batches:
            waiting.append((batch, self._pool.submit(_run, batch)))
            if len(waiting) > 2 * self._workers:
                yield self._result(waiting)
        while waiting:
            yield self._result(waiting)

    def _result(
        self, waiting: deque[tuple[list[RenderJob], Future[list[Rendering]]]]
    ) -> list[Rendering]:
        batch, future = waiting.popleft()
        try:
            return future.result()
        except BrokenProcessPool:
            outcomes = self._one_by_one(batch)
            self._pool = self._start(self._workers)
            later = [other for other, _ in waiting]
            waiting.clear()
            waiting.extend((other, self._pool.submit(_run, other)) for other in later)
            return outcomes

    def _one_by_one(self, batch: list[RenderJob]) -> list[Rendering]:
        """Run a batch in which some row killed its process, each row alone, to learn which one it
        was.
        """
        outcomes = []
        pool = self._start(1)
        for job in batch:
            try:
                outcomes.extend(pool.submit(_run, [job]).result())
            except BrokenProcessPool:
                outcomes.append(
                    Rendering(
                        "timeout",
                        (
                            "its process had to be ended: it ran on after "
                            f"{self._limits.seconds:g} s of CPU time"
                        ),
                    )
                )
                pool = self._start(1)
        pool.shutdown()
        return outcomes

    def _start(self, workers: int) -> ProcessPoolExecutor:
        # Spawned, not forked: a fork of a process with threads (Arrow's) may hang.
        return ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), _set_up, self._setup
        )


class _TooLong(BaseException):
    """Raised by the timer; no ``except Exception`` of a library swallows it."""


@dataclass
class _Child:
    """What a child process keeps between batches."""

    templates: list[PromptTemplate]
    passages: dict[tuple[str, str], str]
    limits: RenderLimits
    seed: int
    sandbox: Sandbox
    ready: dict[int, tuple[MetaTemplate, Compiled] | Rendering]


_child: _Child


def _set_up(
    templates: list[PromptTemplate],
    passages: dict[tuple[str, str], str],
    limits: RenderLimits,
    seed: int,
) -> None:
    global _child  # noqa: PLW0603 - an executor's initialiser has no other place to leave what its tasks need
    _child = _Child(templates, passages, limits, seed, Sandbox(), {})
    set_death_signal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGPROF, _interrupt)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as handle:
            used = int(handle.read().split()[0]) * resource.getpagesize()
        most = used + limits.megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _TooLong


def _run(batch: list[RenderJob]) -> list[Rendering]:
    return [_limited(job) for job in batch]


def _limited(job: RenderJob) -> Rendering:
    """Do one job under the limits.

    The timer ends Python code; the kernel ends the process where one long instruction keeps the
    timer out.
    """
    limits = _child.limits
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(
        resource.RLIMIT_CPU, (math.ceil(time.process_time() + limits.seconds) + 1, hard)
    )
    try:
        signal.setitimer(signal.ITIMER_PROF, limits.seconds)
        try:
            return _work(job)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except _TooLong:
        return Rendering("timeout", f"it ran for over {limits.seconds:g} s of CPU time")
    except (MemoryError, RecursionError) as error:
        return Rendering(
            "memory",
            f"it wanted over {limits.megabytes} MB"
            if isinstance(error, MemoryError)
            else "it calls itself without end",
        )


def _work(job: RenderJob) -> Rendering:
    ready = _child.ready.get(job.template)
    if ready is None:
        ready = _child.ready[job.template] = _convert(_child.templates[job.template])
    if isinstance(ready, Rendering):
        return ready
    if job.row is None:
        return Rendering(OK)
    meta, passage = ready
    outcome = render(
        meta,
        passage,
        _child.sandbox,
        job.row,
        row_seed(_child.seed, job.row_id, *meta.template.key),
    )
    return (
        outcome
        if outcome.status == OK
        else replace(
            outcome, context=outcome.context[:2000], instruction=outcome.instruction[:2000]
        )
    )


def _convert(template: PromptTemplate) -> tuple[MetaTemplate, Compiled] | Rendering:
    passage = _child.passages[template.dataset, template.config]
    try:
        return convert(template, passage, _child.sandbox), _child.sandbox.from_string(passage)
    except Unconvertible as error:
        return Rendering(error.status, str(error))
