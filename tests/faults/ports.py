"""Ports of what the trials start: processes of a soak that work side by side share none."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket

#: The number of this process among those of a soak.
JOB = "FAULT_JOB"
#: Below the ports that Linux gives to connections.
_FIRST, _EACH, _JOBS = 20_000, 700, 16
_taken = itertools.count()


def find_port() -> int:
    """Return a port of the loopback interface that nobody listens on, from those of this process,
    in turn: one that was let go is not soon taken again.
    """
    first = _FIRST + _EACH * (int(os.environ.get(JOB, "0")) % _JOBS)
    for _ in range(_EACH):
        port = first + next(_taken) % _EACH
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"somebody listens on each of {_EACH} ports from {first} on")
