"""Ports that a server of ours is about to listen on."""

from __future__ import annotations

import socket

from tasks.core.errors import PipelineError


def find_free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def need_free_port(host: str, port: int, variable: str) -> None:
    """Raise :class:`PipelineError` if a server could not listen there, before a minute is spent on
    starting it. ``variable`` of the Makefile chooses the port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise PipelineError(
                f"cannot listen on {host}:{port} ({error}): stop the program that does, or choose "
                f"another port with {variable}={port + 1}"
            ) from error
