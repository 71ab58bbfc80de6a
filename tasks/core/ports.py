"""Ports that a server of ours is about to listen on."""

from __future__ import annotations

import re
import socket

from tasks.core.errors import PipelineError

_LAST = 65_535


def find_free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_port(text: str, variable: str) -> int:
    """Return the port that ``variable`` of the Makefile names."""
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) <= _LAST:
        raise PipelineError(f"{variable}={text} is no port: give a number from 1 to {_LAST}")
    return int(text)


def need_free_port(host: str, port: int, variable: str) -> None:
    """Raise :class:`PipelineError` if a server could not listen there, before a minute is spent on
    starting it. ``variable`` of the Makefile chooses the port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            other = port + 1 if port < _LAST else port - 1
            raise PipelineError(
                f"cannot listen on {host}:{port} ({error}): stop the program that does, or choose "
                f"another port with {variable}={other}"
            ) from error
