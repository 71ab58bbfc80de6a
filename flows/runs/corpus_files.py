"""The files of a corpus that DVC cannot hash: it takes the hash of every file before ingest starts,
and ends in an error of its own, or waits for a pipe for ever.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

#: Files that a line names.
_SHOWN = 3


def tell_unhashable(corpus: Path) -> str:
    """Return one line on the files of a folder that DVC cannot hash; empty where there are none."""
    found = [
        f"{os.fsencode(path).decode(errors='backslashreplace')} ({problem})"
        for path in _walk(corpus)
        if (problem := _find_problem(path))
    ]
    if not found:
        return ""
    shown = ", ".join(found[:_SHOWN])
    more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    return (
        f"a run takes the hash of every file of its corpus, and cannot of {shown}{more}: mend "
        "that, or move it out of the folder"
    )


def _walk(corpus: Path) -> Iterator[Path]:
    if corpus.is_file():
        yield corpus
    for folder, folders, files in os.walk(corpus):
        folders.sort()
        yield from (Path(folder) / name for name in sorted(files))


def _find_problem(path: Path) -> str:
    try:
        str(path).encode()
        mode = path.stat().st_mode
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return "a link to nothing, or to itself" if path.is_symlink() else f"{error.strerror}"
    if not stat.S_ISREG(mode):
        return "a pipe, a socket or a device"
    return "" if os.access(path, os.R_OK) else "no permission to read it"
