"""Render templates in child processes with limited time and memory; results come in order.

A template is untrusted code. The sandbox limits what it can access; this module limits what it can
use: a child is interrupted after a number of CPU seconds for a row, gets no more memory than its
share, and is replaced when nothing else stops it.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from jinja2 import Template as Compiled

from bonito.templating.metatemplate import MetaTemplate, Unconvertible, convert
from bonito.templating.render import OK, Rendering, render
from bonito.templating.sandbox import Sandbox
from bonito.templating.templates import PromptTemplate
from tasks.core import pool
from tasks.core.files import row_seed


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
        self._pool = self._open_pool(workers or os.cpu_count() or 1)

    def __enter__(self) -> Renderers:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)

    def map(self, batches: Iterable[list[RenderJob]]) -> Iterator[list[Rendering]]:
        """Yield the results of each batch in order; few batches are in memory at a time."""
        for batch, result in self._pool.map(batches):
            yield _outcomes(result) or self._one_by_one(batch)

    def _one_by_one(self, batch: list[RenderJob]) -> list[Rendering]:
        """Run the rows of a batch alone, to find the row that killed its process."""
        limit = f"{self._limits.seconds:g} s of CPU time"
        killed = Rendering("timeout", f"its process was killed: it ran on after {limit}")
        with self._open_pool(1) as alone:
            return [
                (_outcomes(result) or [killed])[0]
                for _, result in alone.map([job] for job in batch)
            ]

    def _open_pool(self, workers: int) -> pool.Pool:
        # No limit of wall time: a template cannot wait, and its CPU time is limited.
        return pool.Pool(
            _start, self._setup, workers, pool.Limits(math.inf, self._limits.megabytes)
        )


def _outcomes(result: pool.ResultPart) -> list[Rendering]:
    """Return the outcomes of a batch, none where it cost its process."""
    if result.failure == "error":
        raise RuntimeError(f"rendering failed: {result.detail}")
    return [Rendering(**values) for values in result.value or []]


class _TooLong(BaseException):
    """Raised by the timer; no ``except Exception`` of a library swallows it."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _TooLong


def _start(
    templates: list[PromptTemplate],
    passages: dict[tuple[str, str], str],
    limits: RenderLimits,
    seed: int,
) -> Callable[[list[RenderJob]], Iterator[list[dict[str, Any]]]]:
    """Return what renders one batch after the other in a process of the pool."""
    signal.signal(signal.SIGPROF, _interrupt)
    child = _Child(templates, passages, limits, seed)
    return lambda batch: iter([[vars(child.limited(job)) for job in batch]])


@dataclass
class _Child:
    """What a child process keeps between batches."""

    templates: list[PromptTemplate]
    passages: dict[tuple[str, str], str]
    limits: RenderLimits
    seed: int
    sandbox: Sandbox = field(default_factory=Sandbox)
    ready: dict[int, tuple[MetaTemplate, Compiled] | Rendering] = field(default_factory=dict)

    def limited(self, job: RenderJob) -> Rendering:
        """Do one job under the limits.

        The timer interrupts Python code; the kernel kills the process if one long instruction
        blocks the timer.
        """
        seconds = self.limits.seconds
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        most = math.ceil(time.process_time() + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most, hard))
        try:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                return self.work(job)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        except _TooLong:
            return Rendering("timeout", f"it ran for over {seconds:g} s of CPU time")
        except MemoryError:
            return Rendering("memory", f"it needs over {self.limits.megabytes} MB")
        except RecursionError:
            return Rendering("memory", "it recurses without end")

    def work(self, job: RenderJob) -> Rendering:
        if job.template not in self.ready:
            self.ready[job.template] = self.convert(self.templates[job.template])
        ready = self.ready[job.template]
        if isinstance(ready, Rendering):
            return ready
        if job.row is None:
            return Rendering(OK)
        meta, passage = ready
        seed = row_seed(self.seed, job.row_id, *meta.template.key)
        outcome = render(meta, passage, self.sandbox, job.row, seed)
        if outcome.status == OK:
            return outcome
        return replace(
            outcome, context=outcome.context[:2000], instruction=outcome.instruction[:2000]
        )

    def convert(self, template: PromptTemplate) -> tuple[MetaTemplate, Compiled] | Rendering:
        passage = self.passages[template.dataset, template.config]
        try:
            return convert(template, passage, self.sandbox), self.sandbox.from_string(passage)
        except Unconvertible as error:
            return Rendering(error.status, str(error))
