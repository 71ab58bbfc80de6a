"""Ray, and a cluster to work on: a given one, or one on loopback that ends with this process.

The only module that imports Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tasks.core.errors import PipelineError
from tasks.core.process import is_alive, process_mark, start_guard

#: Bytes of a local cluster's object store, which holds jobs and results in transit: Ray would
#: take a third of the memory.
_STORE = 256 * 2**20
#: Longest path of a cluster's folder: a socket's may have 107 characters, and Ray adds these.
_LONGEST = 107 - len("/session_2026-11-30_16-51-54_967728_4194304/sockets/plasma_store")


@dataclass(frozen=True)
class Workers:
    """The workers that a section of the parameters asks for.

    ``address`` is a cluster's, empty for one on this machine that ends with the work. Each worker
    computes with ``threads`` threads and, where ``gpu`` and the cluster has any, takes a GPU.
    """

    section: str
    number: int
    address: str
    threads: int
    gpu: bool = True


def import_ray(workers: Workers) -> Any:
    """Import Ray, or say how to get it."""
    if not workers.address:
        # Ray puts a node on the machine's outer address even if 127.0.0.1 is configured. This
        # setting, meant for other systems, keeps it on loopback.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Ray runs workers at nice 15: on a busy machine they would start after minutes.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # The password of the cluster's servers. Without one Ray makes ~/.ray/auth_token.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # The future default; unset, Ray prints a warning.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise PipelineError(
            f"the workers of {workers.section} need Ray, which cannot be imported ({error}): "
            "make setup, or pip install ray; or ask for 0 workers"
        ) from error
    if not workers.address:
        # Ray reads the setting at its import, which may have been before this call.
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    return ray


@contextlib.contextmanager
def open_cluster(ray: Any, workers: Workers) -> Iterator[None]:
    """Connect to the cluster, or start one on loopback that ends with the block or the process."""
    address = workers.address
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    folder = None if address else make_folder()
    guard = None
    try:
        try:
            if address:
                _need_listener(address)
                ray.init(address=address, **quiet)
            else:
                ray.init(
                    address="local",
                    num_cpus=workers.number,
                    include_dashboard=False,
                    object_store_memory=_STORE,
                    _temp_dir=str(folder),
                    **quiet,
                )
                # Ray's servers die with this process; their helpers notice it only after a minute,
                # and would write into the folder meanwhile.
                children = psutil.Process().children(recursive=True)
                guard = start_guard(child.pid for child in children)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            where = (
                f"no Ray cluster answers at {workers.section}.ray_address = {address!r}"
                if address
                else "Ray cannot start a cluster here"
            )
            raise PipelineError(f"{where} ({shorten(error)})") from error
        gpus = ray.cluster_resources().get("GPU", 0)
        if workers.gpu and not address and 0 < gpus < workers.number:
            raise PipelineError(
                f"{workers.section} asks for {workers.number} workers, but there are {gpus:g} "
                "GPUs, and each worker takes one"
            )
        yield
    finally:
        ray.shutdown()
        if guard:
            guard.communicate()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _need_listener(address: str) -> None:
    """Raise :class:`OSError` if nobody listens: Ray would retry for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def make_folder() -> Path:
    """Return a new folder for a cluster's sockets, whose paths must be short, and logs.

    Folders that killed processes of this user left are removed.
    """
    place, name = Path(tempfile.gettempdir()), f"ray-{os.getuid()}-{process_mark()}-"
    if len(f"{place}/{name}XXXXXXXX") > _LONGEST:
        place = Path("/tmp")  # noqa: S108 - the folder made in it has a new name and is this user's alone
    for left in place.glob(f"ray-{os.getuid()}-*"):
        if not is_alive(left.name.split("-")[2]):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=name, dir=place))


def shorten(error: Exception) -> str:
    """Return the first and the last line of a Ray error: what happened, and why."""
    lines = [
        " ".join(re.sub(r"\x1b\[\d*m", "", line).split())[:250]
        for line in str(error).splitlines()
        if line.strip()
    ] or [type(error).__name__]
    return " ... ".join(dict.fromkeys((lines[0], lines[-1])))
