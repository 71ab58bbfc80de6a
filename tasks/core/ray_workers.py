"""Work spread over the actors of a Ray cluster: whole jobs in, results in the order in which they
are done. The only module that imports Ray.

Each actor opens its engine once and does one job after the other. A job whose actor dies is done
again by a new one. What an actor writes is nothing: results come back to the process that asked,
which alone keeps them.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tasks.core.errors import PipelineError
from tasks.core.process import is_alive, process_mark, start_guard

log = logging.getLogger(__name__)
#: How often a job is tried before its actor's deaths end the stage.
TRIES = 3
#: Bytes of a local cluster's object store, which takes jobs and results on their way: Ray would
#: take a third of the memory.
_STORE = 256 * 2**20
_PATIENCE = 60.0
#: A socket's path may have 107 characters, of which Ray takes most.
_LONGEST = 25
#: A number, and what is to be done; it is sent to a worker as it is.
Job = tuple[int, Any]


class _Actor:
    """Runs in a process of the cluster, on this machine or another one that has the same
    folders.
    """

    def __init__(self, folder: str, work: str, given: tuple[Any, ...]) -> None:
        os.chdir(folder)
        self._work, self._given = work, given
        self._do: Any = None

    def ready(self) -> None:
        """Answer as soon as this process is up."""

    def do(self, job: Any) -> Any:
        """Do one job. The engine is opened by the first one, so that a death while it opens counts
        among that job's tries.
        """
        if self._do is None:
            module, _, name = self._work.partition(":")
            self._do = getattr(importlib.import_module(module), name)(*self._given)
        return self._do(job)


def spread(
    work: str, given: tuple[Any, ...], jobs: Iterable[Job], workers: int, address: str, threads: int
) -> Iterator[tuple[int, Any]]:
    """Yield (number, result) of every (number, job), in the order in which they are done; at most
    one job a worker is on its way.

    ``work`` is ``module:function``: called in each worker with ``given``, it returns what does a
    job. ``address`` is a Ray cluster's, empty for one on this machine that ends with the iteration.
    ``threads`` each worker computes with. A worker takes a GPU where the cluster has any.

    Raises :class:`PipelineError` without the package, without the cluster, when a job's worker dies
    :data:`TRIES` times, and whatever a job raises.
    """
    ray = _ray(address)
    with _connected(ray, address, workers):
        gpu = int(bool(ray.cluster_resources().get("GPU")))
        kind = ray.remote(_Actor).options(
            num_cpus=0 if gpu else 1, num_gpus=gpu, runtime_env={"env_vars": _environment(threads)}
        )
        yield from _feed(
            ray, lambda: kind.remote(str(Path.cwd()), work, given), workers, iter(jobs)
        )


def _environment(threads: int) -> dict[str, str]:
    """Return what the workers need of this process's environment: where our code is, where merged
    models are kept, and how many threads to use.
    """
    code = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: os.environ[name] for name in ("BONITO_CACHE",) if name in os.environ}
    return {"PYTHONPATH": os.pathsep.join(code), "OMP_NUM_THREADS": str(threads), **kept}


def _feed(
    ray: Any, hire: Callable[[], Any], workers: int, jobs: Iterator[Job]
) -> Iterator[tuple[int, Any]]:
    """Keep every worker that is up at work.

    One that never comes up is not waited for; for one that dies another is hired, and whoever is
    free does its job.
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
    found: tuple[int, Any] | None = None
    while True:
        while idle and (job := again.pop() if again else next(jobs, None)):
            actor = idle.pop()
            waiting[actor.do.remote(job[1])] = (actor, job)
        if found:  # not before its worker has the next job
            yield found
        if idle and not any(job for _, job in waiting.values()):
            return
        reference = _next_done(ray, waiting)
        actor, job = waiting.pop(reference)
        found = None
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
            found = (job[0], result)
        else:
            del deaths[None]


class _Died(Exception):
    """A worker's process, or its machine, is gone."""


def _next_done(ray: Any, waiting: dict[Any, tuple[Any, Job | None]]) -> Any:
    """Wait for one of these; say so where nothing can come, as no worker is up."""
    while not (done := ray.wait(list(waiting), num_returns=1, timeout=_PATIENCE)[0]):
        if not any(job for _, job in waiting.values()):
            free = {
                name: count
                for name, count in ray.available_resources().items()
                if name in ("CPU", "GPU")
            }
            log.info(
                (
                    "no worker is up yet: each waits for a processor or a GPU of the cluster, "
                    "where these are free: %s"
                ),
                free or "none",
            )
    return done[0]


def _get(ray: Any, reference: Any) -> Any:
    """Return what a job gave; raise what it raised, or :class:`_Died`."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PipelineError):
            raise PipelineError(str(error.cause)) from error
        raise
    except ray.exceptions.RayError as error:
        raise _Died(_in_short(error)) from error


def _in_short(error: Exception) -> str:
    """Return the first and the last line of Ray's account: what happened, and why."""
    lines = [
        " ".join(re.sub(r"\x1b\[\d*m", "", line).split())[:250]
        for line in str(error).splitlines()
        if line.strip()
    ] or [type(error).__name__]
    return " ... ".join(dict.fromkeys((lines[0], lines[-1])))


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


def _ray(address: str) -> Any:
    """Import Ray, or say how to get it."""
    if not address:
        # Ray puts a node on the machine's outer address, also where it is told 127.0.0.1.
        # This setting, meant for other systems, keeps it on loopback.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Ray's workers give way to every other process (nice 15): on a busy machine they would come
        # up after minutes.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # The password of the cluster's servers. Without one Ray makes ~/.ray/auth_token.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # the coming default; without it a warning
    try:
        import ray
    except ImportError as error:
        raise PipelineError(
            f"generate.workers needs Ray, which cannot be imported ({error}): make setup, "
            "or pip install ray; or set it to 0"
        ) from error
    if not address:
        # Ray reads the setting at its import, which may have been before this call.
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str, workers: int) -> Iterator[None]:
    """Connect to the cluster, or start one on loopback that ends with this block, and with this
    process if it is killed.
    """
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    folder = None if address else _own_folder()
    guard = None
    try:
        try:
            if address:
                _knock(address)
                ray.init(address=address, **quiet)
            else:
                ray.init(
                    address="local",
                    num_cpus=workers,
                    include_dashboard=False,
                    object_store_memory=_STORE,
                    _temp_dir=str(folder),
                    **quiet,
                )
                guard = _guarded()
        except (
            ConnectionError,
            OSError,
            RuntimeError,
            ValueError,
            ray.exceptions.RayError,
        ) as error:
            where = (
                f"no Ray cluster answers at generate.ray_address = {address!r}"
                if address
                else "Ray cannot start a cluster here"
            )
            raise PipelineError(f"{where} ({_in_short(error)})") from error
        gpus = ray.cluster_resources().get("GPU", 0)
        if not address and 0 < gpus < workers:
            raise PipelineError(
                f"generate.workers = {workers}, but there are {gpus:g} GPUs, and each "
                "worker takes one"
            )
        yield
    finally:
        ray.shutdown()
        if guard:
            guard.communicate()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _guarded() -> subprocess.Popen[str] | None:
    """Start a guard that kills the cluster's processes when this process ends.

    Ray's servers die with this process by themselves; their helpers notice it only after a minute,
    and would write into the folder meanwhile.
    """
    if sys.platform != "linux":
        return None
    return start_guard(child.pid for child in psutil.Process().children(recursive=True))


def _knock(address: str) -> None:
    """Raise :class:`OSError` where nobody listens: Ray would try for minutes."""
    host, _, port = address.partition("://")[2 * ("://" in address)].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _own_folder() -> Path:
    """Return a folder for a cluster's sockets and logs, short as sockets need it; those that killed
    processes of ours left are removed.
    """
    place = Path(tempfile.gettempdir())
    if len(str(place)) > _LONGEST:
        place = Path("/tmp")  # noqa: S108 - the folder made in it has a new name and is this user's alone
    for left in place.glob(f"ray-{os.getuid()}-*"):
        if not is_alive(left.name.split("-")[2]):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"ray-{os.getuid()}-{process_mark()}-", dir=place))
