"""Renders templates in child processes that are limited in time and memory, in order, whatever
their number.

A template is a stranger's program. The sandbox keeps it from reaching anything; here it is kept
from using everything: a child is interrupted after so many CPU seconds a row, refused more memory
than its share, and replaced when even that does not stop it.
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
from bonito.templating.render import OK, Outcome, render
from bonito.templating.sandbox import Sandbox
from bonito.templating.templates import Template
from tasks.core import pool
from tasks.core.files import row_seed


@dataclass(frozen=True)
class Limits:
    """What one row may cost: CPU seconds, and megabytes on top of the process itself."""

    seconds: float = 2.0
    megabytes: int = 512


@dataclass(frozen=True)
class Job:
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
        templates: Sequence[Template],
        passages: Mapping[tuple[str, str], str],
        limits: Limits,
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

    def map(self, batches: Iterable[list[Job]]) -> Iterator[list[Outcome]]:
        """Yield the outcomes of each batch, in the order of the batches; few of them are in memory
        at a time.
        """
        for batch, result in self._pool.map(batches):
            yield _outcomes(result) or self._one_by_one(batch)

    def _one_by_one(self, batch: list[Job]) -> list[Outcome]:
        """Run a batch in which some row killed its process, each row alone, to learn which one it
        was.
        """
        killed = Outcome(
            "timeout",
            f"its process had to be ended: it ran on after {self._limits.seconds:g} s of CPU time",
        )
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


def _outcomes(result: pool.ResultPart) -> list[Outcome]:
    """Return the outcomes of a batch, none where it cost its process."""
    if result.failure == "error":
        raise RuntimeError(f"rendering failed: {result.detail}")
    return [Outcome(**values) for values in result.value or []]


class _TooLong(BaseException):
    """Raised by the timer; no ``except Exception`` of a library swallows it."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _TooLong


def _start(
    templates: list[Template], passages: dict[tuple[str, str], str], limits: Limits, seed: int
) -> Callable[[list[Job]], Iterator[list[dict[str, Any]]]]:
    """Return what renders one batch after the other in a process of the pool."""
    signal.signal(signal.SIGPROF, _interrupt)
    child = _Child(templates, passages, limits, seed)
    return lambda batch: iter([[vars(child.limited(job)) for job in batch]])


@dataclass
class _Child:
    """What a child process keeps between batches."""

    templates: list[Template]
    passages: dict[tuple[str, str], str]
    limits: Limits
    seed: int
    sandbox: Sandbox = field(default_factory=Sandbox)
    ready: dict[int, tuple[MetaTemplate, Compiled] | Outcome] = field(default_factory=dict)

    def limited(self, job: Job) -> Outcome:
        """Do one job under the limits.

        The timer ends Python code; the kernel ends the process where one long instruction keeps
        the timer out.
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
            return Outcome("timeout", f"it ran for over {seconds:g} s of CPU time")
        except MemoryError:
            return Outcome("memory", f"it wanted over {self.limits.megabytes} MB")
        except RecursionError:
            return Outcome("memory", "it calls itself without end")

    def work(self, job: Job) -> Outcome:
        if job.template not in self.ready:
            self.ready[job.template] = self.convert(self.templates[job.template])
        ready = self.ready[job.template]
        if isinstance(ready, Outcome):
            return ready
        if job.row is None:
            return Outcome(OK)
        meta, passage = ready
        seed = row_seed(self.seed, job.row_id, *meta.template.key)
        outcome = render(meta, passage, self.sandbox, job.row, seed)
        if outcome.status == OK:
            return outcome
        return replace(
            outcome, context=outcome.context[:2000], instruction=outcome.instruction[:2000]
        )

    def convert(self, template: Template) -> tuple[MetaTemplate, Compiled] | Outcome:
        passage = self.passages[template.dataset, template.config]
        try:
            return convert(template, passage, self.sandbox), self.sandbox.from_string(passage)
        except Unconvertible as error:
            return Outcome(error.status, str(error))
