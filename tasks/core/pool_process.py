"""What a process of :class:`tasks.core.pool.Pool` does: it starts, does jobs and sends the parts of
their results.
"""

from __future__ import annotations

import json
import mmap
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd, ForkingPickler
from pathlib import Path
from typing import IO, Any

from tasks.core.process import set_death_signal
from tasks.core.secrets import forget_secrets

#: What a worker calls once: it returns the function that does the jobs.
Start = Callable[..., Callable[[Any], Iterator[Any]]]


@dataclass
class Setup:
    """What each worker calls first, and with what, in a file without a name: it goes with the last
    process that has it open, also where all are killed.

    A process's arguments go through a pipe that its parent can read, too. If they are more than a
    pipe holds and the process dies as it starts, the parent waits for ever.
    """

    file: IO[bytes]

    @classmethod
    def write(cls, start: Start, setup: tuple[Any, ...]) -> Setup:
        """Write them into a new file, as multiprocessing writes a process's arguments; an
        :class:`OSError` where there is no room for it.
        """
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the pool closes it
        file.write(ForkingPickler.dumps((start, setup)))
        file.flush()
        return cls(file)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a process that is spawned inherit the file."""
        return _inherit, (DupFd(self.file.fileno()),)

    def read(self) -> tuple[Start, tuple[Any, ...]]:
        """Return what was written, and close the file: an untrusted file that takes over the worker
        finds it closed.
        """
        # Mapped, not read: all processes have one position in the file.
        with self.file, mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start, setup = ForkingPickler.loads(content)
        return start, setup


def _inherit(handle: Any) -> Setup:
    return Setup(open(handle.detach(), "rb"))


def serve(pipe: Connection, written: Setup, memory_mb: int) -> None:
    """Do jobs until the pipe closes: the life of a worker."""
    set_death_signal()
    forget_secrets()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start, setup = written.read()
    do = start(*setup)
    _limit_memory(memory_mb)
    try:
        _send(pipe, "ready")
        while True:
            _send_result(pipe, do, pipe.recv())
    except MemoryError:
        _send(pipe, "memory")
    except (EOFError, OSError):
        return


def _send_result(pipe: Connection, do: Callable[[Any], Iterator[Any]], job: Any) -> None:
    last: Any = None
    try:
        for number, part in enumerate(do(job)):
            if number:
                _send(pipe, "part", last)
            last = part
        _send(pipe, "done", last)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  a parser may raise anything at a damaged file, and that must cost this job alone
        _send(pipe, "error", f"{type(error).__name__}: {error}"[:500])


def _send(pipe: Connection, kind: str, value: Any = None) -> None:
    pipe.send_bytes(json.dumps([kind, value]).encode())


def _limit_memory(memory_mb: int) -> None:
    """Allow so much address space beyond what this process has already; less where the user's own
    limit (``ulimit -v``) is lower.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + (memory_mb << 20)
    _, highest = resource.getrlimit(resource.RLIMIT_AS)
    if highest != resource.RLIM_INFINITY:
        most = min(most, highest)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
