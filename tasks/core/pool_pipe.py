"""The end of a worker's pipe in the process that gives it jobs: nothing here waits for the worker,
which a stranger's file may have stopped or taken over.

The other end is multiprocessing's own (:mod:`tasks.core.pool_process`): a message is its length in
four bytes, then its bytes.
"""

from __future__ import annotations

import os
import selectors
import struct
from collections.abc import Iterable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

_LENGTH = struct.Struct("!i")
_CHUNK = 1 << 20


class WorkerPipe:
    """What is still to be written to a worker, and what was read from it."""

    def __init__(self, connection: Connection) -> None:
        os.set_blocking(connection.fileno(), False)
        self._connection = connection
        self._unsent = memoryview(b"")
        self._received = bytearray()
        self._ended = False

    def fileno(self) -> int:
        """Return the number by which the system knows the pipe."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close this end."""
        self._connection.close()

    @property
    def is_writing(self) -> bool:
        """Whether a part of a job is still to be written."""
        return bool(self._unsent)

    def send(self, job: Any) -> None:
        """Pickle a job and write what the pipe has room for; :meth:`flush` writes the rest. The job
        before was read, or its worker is dead.
        """
        data = ForkingPickler.dumps(job)
        self._unsent = memoryview(b"".join((_LENGTH.pack(len(data)), data)))
        self.flush()

    def flush(self) -> None:
        """Write what the pipe has room for; nothing to a worker that is dead."""
        try:
            while self._unsent:
                written = os.write(self.fileno(), self._unsent[:_CHUNK])
                self._unsent = self._unsent[written:]
        except BlockingIOError:
            return
        except OSError:  # it is dead, which the next read notices
            self._unsent = memoryview(b"")

    def poll(self) -> bool:
        """Read some, and tell whether a whole message is there, or the end."""
        if self._end is None and not self._ended:
            try:
                data = os.read(self.fileno(), _CHUNK)
            except BlockingIOError:
                return False
            except OSError:
                data = b""
            self._received += data
            self._ended = not data
        return self._ended or self._end is not None

    def receive(self) -> bytes:
        """Return the next message, which is there (:meth:`poll`); :class:`EOFError` at the end."""
        end = self._end
        if end is None:
            raise EOFError
        message = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return message

    @property
    def _end(self) -> int | None:
        """Where the first message ends; None while it is not whole."""
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        # multiprocessing's mark of a message of 2 GB or more, which none of ours is.
        end = _LENGTH.size + (length if length >= 0 else 1 << 62)
        return end if len(self._received) >= end else None


def wait(pipes: Iterable[WorkerPipe], seconds: float) -> list[WorkerPipe]:
    """Return the pipes with something to read, within ``seconds``; write to those that have room.

    It may be empty earlier: something was written, or a message is not whole.
    """
    pipes = list(pipes)
    if ready := [pipe for pipe in pipes if pipe.poll()]:
        seconds = 0.0
    with selectors.PollSelector() as selector:
        for pipe in pipes:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if pipe.is_writing else 0)
            selector.register(pipe, events, pipe)
        for key, events in selector.select(seconds):
            if events & selectors.EVENT_WRITE:
                key.data.flush()
    return ready or [pipe for pipe in pipes if pipe.poll()]
