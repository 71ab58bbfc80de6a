"""A JSON Lines file that several pages change at once: under a lock, whole or not at all.

Lines that nobody changes keep their bytes, so that git shows the changed ones alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, write_text
from tasks.core.lock import hold_lock
from tasks.core.stage import WORK


class LinesFile:
    """The file at ``path``; it need not exist. The lock is in ``root``'s work folder."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self._lock = root / WORK / "review" / f"{fingerprint(str(path.resolve()))[:16]}.lock"

    def create(self) -> None:
        """Make an empty file where there is none: a run refuses a setting whose file is missing."""
        with self._held():
            if not self.path.exists():
                write_text(self.path, "")

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
                write_text(self.path, "".join(f"{line}\n" for line in lines))

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(self._lock, str(self.path)):
            yield

    def _read(self) -> list[str]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise PipelineError(f"{self.path} cannot be read: {error}") from error
        return text.removesuffix("\n").split("\n") if text else []


def put_line(lines: list[str], column: str, value: str, row: dict[str, Any] | None) -> None:
    """Replace the line whose ``column`` has ``value``, or append it; ``row`` None removes it."""
    place = next(
        (n for n, line in enumerate(lines) if line.strip() and json.loads(line)[column] == value),
        None,
    )
    if row is None:
        if place is not None:
            del lines[place]
        return
    text = json.dumps(row, ensure_ascii=False)
    if place is None:
        lines.append(text)
    else:
        lines[place] = text
