"""A JSON Lines file that several pages change at once: under a lock, whole or not at all.

Lines that nobody changes keep their bytes, so that git shows the changed ones alone.
"""

from __future__ import annotations

import contextlib
import glob
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, write_text
from tasks.core.lock import hold_lock
from tasks.core.stage import WORK

#: What some Windows programs put before the first line.
_MARK = "\ufeff"


class LinesFile:
    """The file at ``path``; it need not exist. The lock is in ``root``'s work folder."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        #: The file itself where ``path`` is a link to it, which stays one.
        self._place = path.resolve()
        self._lock = root / WORK / "review" / f"{fingerprint(str(self._place))[:16]}.lock"

    def create(self) -> None:
        """Make an empty file where there is none: a run refuses a setting whose file is missing."""
        with self._held():
            if not self.path.exists():
                write_text(self._place, "")

    @contextlib.contextmanager
    def edit(self) -> Iterator[list[str]]:
        """Yield the lines, to be changed in place; write them back if they were.

        An error inside leaves the file as it was.
        """
        with self._held():
            lines = self._read()
            before = list(lines)
            yield lines
            if lines != before:
                write_text(self._place, "".join(f"{line}\n" for line in lines))

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(self._lock, str(self.path)):
            for partial in self._place.parent.glob(f".{glob.escape(self._place.name)}.*.partial"):
                partial.unlink()  # of a killed writer: the lock is ours
            yield

    def _read(self) -> list[str]:
        try:
            text = self.path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise PipelineError(f"{self.path} cannot be read: {error}") from error
        return text.removesuffix("\n").split("\n") if text else []


def find_line(lines: list[str], fits: Callable[[dict[str, Any]], bool]) -> int | None:
    """Return the place of the first row that fits, or None."""
    texts = ((place, line.removeprefix(_MARK)) for place, line in enumerate(lines))
    parsed = ((place, json.loads(text)) for place, text in texts if text.strip())
    return next((place for place, row in parsed if fits(row)), None)


def put_line(lines: list[str], place: int | None, row: dict[str, Any] | None) -> None:
    """Put a row at a place, or at the end where that is None; the row None removes the line."""
    start = len(lines) if place is None else place
    mark = _MARK if start == 0 and lines and lines[0].startswith(_MARK) else ""
    end = "\r" if lines and lines[0].endswith("\r") else ""
    text = "" if row is None else json.dumps(row, ensure_ascii=False)
    lines[start : start + 1] = [f"{mark}{text}{end}"] if text else []
