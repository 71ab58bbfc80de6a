"""Render templates in child processes with limited time and memory; results come in order.

A template is untrusted code. The sandbox limits what it can access; this module limits what it can
use: a child is interrupted after a number of CPU seconds for a row, gets no more memory than its
share, and is replaced when nothing else stops it.
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
    """Limits of one row: CPU seconds, and megabytes in addition to the process."""

    seconds: float = 2.0
    megabytes: int = 512


@dataclass(frozen=True)
class RenderJob:
    """One row for the template of that index; without a row the template is only converted."""

    template: int
    row_id: str = ""
    row: dict[str, Any] | None = None


class Renderers:
    """A pool of limited processes that hold ``templates`` compiled.

    ``passages`` maps (dataset, config) to the Jinja text of the passage. Results depend only on the
    job and ``seed``, except for a template that just meets its time limit.
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
        """Yield the results of each batch in order; few batches are in memory at a time."""
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
        """Run the rows of a batch alone, to find the row that killed its process."""
        outcomes = []
        pool = self._start(1)
        for job in batch:
            try:
                outcomes.extend(pool.submit(_run, [job]).result())
            except BrokenProcessPool:
                limit = f"{self._limits.seconds:g} s of CPU time"
                detail = f"its process was killed: it ran on after {limit}"
                outcomes.append(Rendering("timeout", detail))
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
    global _child  # noqa: PLW0603 - an executor's initialiser can only hand on globals
    _child = _Child(templates, passages, limits, seed, Sandbox(), {})
    set_death_signal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
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

    The timer interrupts Python code; the kernel kills the process if one long instruction blocks
    the timer.
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
            f"it needs over {limits.megabytes} MB"
            if isinstance(error, MemoryError)
            else "it recurses without end",
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
    if outcome.status == OK:
        return outcome
    return replace(outcome, context=outcome.context[:2000], instruction=outcome.instruction[:2000])


def _convert(template: PromptTemplate) -> tuple[MetaTemplate, Compiled] | Rendering:
    passage = _child.passages[template.dataset, template.config]
    try:
        return convert(template, passage, _child.sandbox), _child.sandbox.from_string(passage)
    except Unconvertible as error:
        return Rendering(error.status, str(error))
