"""The lock on work that only one process at a time may do."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.core.errors import PipelineError


class LockedError(PipelineError):
    """A living process, ``holder``, holds the lock."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(f"{name} is already being run here by {holder}: wait for it or stop it")
        self.holder = holder


@contextlib.contextmanager
def hold_lock(path: Path, name: str, patience: float = 4.0) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path`` for ``name``.

    After ``patience`` seconds :class:`LockedError` names the holder. The kernel drops the lock when
    its holder dies, however it dies.
    """
    with path.open("a+", encoding="utf-8") as handle:
        if not _wait(handle.fileno(), fcntl.LOCK_EX, patience):
            handle.seek(0)
            raise LockedError(name, handle.read().strip() or "unknown")
        handle.seek(0)
        handle.truncate()
        json.dump({"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, handle)
        handle.flush()
        yield


@contextlib.contextmanager
def share_lock(path: Path, patience: float = 4.0) -> Iterator[bool]:
    """Hold the lock on the file ``path`` beside others that share it: nobody holds it exclusively
    meanwhile. Yield False where somebody did so for ``patience`` seconds.
    """
    with path.open("a+", encoding="utf-8") as handle:
        yield _wait(handle.fileno(), fcntl.LOCK_SH, patience)


def is_locked(path: Path) -> bool:
    """Tell whether a living process holds the lock, alone or with others."""
    if not path.is_file():
        return False
    with path.open("a+", encoding="utf-8") as handle:
        return not _take(handle.fileno(), fcntl.LOCK_EX)


def _wait(descriptor: int, kind: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not _take(descriptor, kind):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _take(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
