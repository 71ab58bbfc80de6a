"""TERM ends a command as Ctrl-C does: its work is kept, and the same command continues."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator


class Terminated(KeyboardInterrupt):
    """TERM reached this process: it ends as after Ctrl-C."""


@contextlib.contextmanager
def heed_term() -> Iterator[None]:
    """Raise :class:`Terminated` in the block at TERM. Prefect has a handler of its own while a
    flow runs; when the flow's end is reported it sends the signal again, to this one.
    """

    def end(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tell_interrupted(error: KeyboardInterrupt) -> int:
    """Print how the command was ended, and that it can go on; return its exit status."""
    terminated = isinstance(error, Terminated)
    word = "terminated" if terminated else "interrupted"
    print(f"{word}: run the same command again to continue", file=sys.stderr)
    return 143 if terminated else 130
