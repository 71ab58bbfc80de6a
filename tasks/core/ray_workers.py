"""Jobs spread over the actors of a Ray cluster; results come in the order in which they are done.

Each actor opens its engine once and does one job after the other. A job whose actor dies is done
again by another. Actors write no files: results return to the calling process, which stores them.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.ray_cluster import Workers, import_ray, open_cluster, shorten

log = logging.getLogger(__name__)
#: How often a job is tried before its actor's deaths end the stage.
TRIES = 3
#: Seconds between two reports that no worker is up.
_PATIENCE = 60.0
#: A number, and what the worker gets.
Job = tuple[int, Any]


class _Actor:
    """Runs in a process of the cluster, on this machine or one with the same folders."""

    def __init__(self, folder: str, work: str, arguments: tuple[Any, ...], gpu: bool) -> None:
        os.chdir(folder)
        self._work, self._arguments, self._gpu = work, arguments, gpu
        self._do: Any = None

    def ready(self) -> None:
        """Answer as soon as this process is up."""

    def do(self, job: Any) -> Any:
        """Do one job.

        The first one opens the engine, so that a death while it opens counts as a try of that job.
        """
        if self._do is None:
            if self._gpu:
                take_cards()
            module, _, name = self._work.partition(":")
            self._do = getattr(importlib.import_module(module), name)(*self._arguments)
        return self._do(job)


def spread(
    work: str, arguments: tuple[Any, ...], jobs: Iterable[Job], workers: Workers
) -> Iterator[tuple[int, Any]]:
    """Yield (number, result) of every (number, job) in the order in which they are done; a worker
    has at most one job.

    ``work`` is ``module:function``: each worker calls it with ``arguments``, and it returns the
    function that does a job.

    Raises :class:`PipelineError` if Ray is not installed, if no cluster answers, or if a job's
    worker dies :data:`TRIES` times, and whatever a job raises.
    """
    ray = import_ray(workers)
    with open_cluster(ray, workers):
        gpu = int(workers.gpu and bool(ray.cluster_resources().get("GPU")))
        kind = ray.remote(_Actor).options(
            num_cpus=0 if gpu else 1,
            num_gpus=gpu,
            runtime_env={"env_vars": _environment(workers.threads)},
        )
        yield from _feed(
            ray,
            lambda: kind.remote(str(Path.cwd()), work, arguments, workers.gpu),
            workers.number,
            iter(jobs),
        )


def _environment(threads: int) -> dict[str, str]:
    """Return the workers' environment: path of our code, cache folder, number of threads."""
    code = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: os.environ[name] for name in ("BONITO_CACHE",) if name in os.environ}
    return {"PYTHONPATH": os.pathsep.join(code), "OMP_NUM_THREADS": str(threads), **kept}


def _feed(
    ray: Any, hire: Callable[[], Any], workers: int, jobs: Iterator[Job]
) -> Iterator[tuple[int, Any]]:
    """Give every worker that is up a job.

    Workers that never come up are not waited for. One that dies is replaced, and the next free
    worker does its job.
    """
    waiting: dict[Any, tuple[Any, Job | None]] = {}
    idle: list[Any] = []
    again: list[Job] = []
    deaths: Counter[int | None] = Counter()

    def begin() -> None:
        actor = hire()
        waiting[actor.ready.remote()] = (actor, None)

    for _ in range(workers):
        begin()
    done: tuple[int, Any] | None = None
    while True:
        while idle and (job := again.pop() if again else next(jobs, None)):
            actor = idle.pop()
            waiting[actor.do.remote(job[1])] = (actor, job)
        if done:  # only after its worker has the next job
            yield done
        if idle and not any(job for _, job in waiting.values()):
            return
        reference = _next_done(ray, waiting)
        actor, job = waiting.pop(reference)
        done = None
        try:
            result = _get(ray, reference)
        except _Died as death:
            number = job[0] if job else None
            deaths[number] += 1
            if deaths[number] == TRIES:
                raise _too_often(number, death) from death
            log.warning(
                "a worker died (%s): %s",
                death,
                f"shard {job[0]} is done again" if job else "another one is started",
            )
            again += [job] if job else []
            begin()
            continue
        idle.append(actor)
        if job:
            done = (job[0], result)
        else:
            del deaths[None]


class _Died(Exception):
    """A worker's process, or its machine, is gone."""


def _next_done(ray: Any, waiting: dict[Any, tuple[Any, Job | None]]) -> Any:
    """Wait for one of these references; log it if no worker is up."""
    while not (done := ray.wait(list(waiting), num_returns=1, timeout=_PATIENCE)[0]):
        if not any(job for _, job in waiting.values()):
            free = {
                name: count
                for name, count in ray.available_resources().items()
                if name in ("CPU", "GPU")
            }
            log.info(
                "no worker is up yet: each waits for a processor or a GPU of the cluster, "
                "where these are free: %s",
                free or "none",
            )
    return done[0]


def _get(ray: Any, reference: Any) -> Any:
    """Return a job's result; raise what it raised, or :class:`_Died`."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PipelineError):
            raise PipelineError(str(error.cause)) from error
        raise
    except ray.exceptions.RayError as error:
        raise _Died(shorten(error)) from error


def _too_often(number: int | None, death: _Died) -> PipelineError:
    if number is None:
        return PipelineError(
            f"no Ray worker can be started: each needs the folder {Path.cwd()} and the "
            f"same packages on its machine ({death})"
        )
    return PipelineError(
        f"shard {number} ended its worker {TRIES} times, which is often too little "
        f"memory: take fewer workers; the others are kept ({death})"
    )
