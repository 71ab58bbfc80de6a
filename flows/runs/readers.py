"""What reads a checkout in ``.runs/``: a page (``make why``, ``review``, ``ask``, ``label``), a
matrix, or a run whose settings name a file in it. ``make prune`` leaves such a checkout alone.

Readers share a lock that is not that of the checkout's run: a page may be open while the run works.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.lock import LockedError, hold_lock, is_locked, share_lock

#: At most 200 characters, for the name becomes that of a lock's file; no run has a longer one.
_NAMED = re.compile(r"\.runs/([A-Za-z0-9._-]{1,200})")
READ = "a page, a matrix or another run reads it"


@contextlib.contextmanager
def reading(main: Path, names: Iterable[str]) -> Iterator[None]:
    """Read the checkouts of these runs, which need not be there yet; waits while ``make prune``
    removes one.
    """
    with contextlib.ExitStack() as held:
        for name in sorted({*names}):
            if not held.enter_context(share_lock(_lock_of(main, name))):
                raise PipelineError(f"make prune is removing .runs/{name}: give the command again")
        yield


@contextlib.contextmanager
def hold_unread(main: Path, name: str) -> Iterator[None]:
    """Keep readers from a checkout; one that is read is a :class:`PipelineError`."""
    try:
        with hold_lock(_lock_of(main, name), "prune", patience=0.0):
            yield
    except LockedError:
        raise PipelineError(READ) from None


def is_read(main: Path, name: str) -> bool:
    """Tell whether a living process reads the checkout of that name."""
    return is_locked(_lock_of(main, name))


def find_named(text: str) -> list[str]:
    """Return the names of the runs whose files a text names."""
    return _NAMED.findall(text)


def _lock_of(main: Path, name: str) -> Path:
    folder = main / ".work" / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.readers"
