"""Digests of large files that stay as they are: each is read once, not again by every process.

A stage is a process of its own, and several of them need the digest of the same folder with a 7B
model: 15 to 29 GB a time. So the digest of a large file is kept in the cache folder, with the state
of the file that it was made of.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, read_json, sha256_file, sha256_folder, write_json
from tasks.core.privacy import cache_folder
from tasks.core.store import keep_newest

#: Bytes of a file whose digest is kept: smaller ones are read in some milliseconds.
_LARGE = 16 * 2**20
#: Digests that are kept, of the files that were read last.
_MOST = 4096
#: Nanoseconds that a file must have stayed as it is: some file systems tell times in seconds, and a
#: later write in the same one would not be seen.
_SETTLED = 2 * 10**9


def kept_sha256(path: Path) -> str:
    """Return the SHA-256 of a file (64 hex digits), as :func:`tasks.core.files.sha256_file`.

    A large file is read where its place, size, inode or one of its times has changed since.
    """
    state = _state(path)
    if state["size"] < _LARGE:
        return sha256_file(path)
    place = str(path.resolve())
    entry = cache_folder() / "digests" / f"{fingerprint(place)[:24]}.json"
    told: dict[str, Any] = {"path": place, **state}
    with contextlib.suppress(PipelineError):  # there is none yet, or it is damaged
        known = read_json(entry)
        if isinstance(known, dict) and known.items() >= told.items():
            return str(known["sha256"])
    began = time.time_ns()
    digest = sha256_file(path)
    if _state(path) == state and began - max(state["mtime_ns"], state["ctime_ns"]) > _SETTLED:
        with contextlib.suppress(OSError):  # a cache that cannot be written keeps nothing
            write_json(entry, told | {"sha256": digest})
            keep_newest(entry.parent, _MOST, keep=entry)
    return digest


def kept_sha256_folder(folder: Path) -> str:
    """Return the digest that :func:`tasks.core.files.sha256_folder` returns."""
    return sha256_folder(folder, kept_sha256)


def _state(path: Path) -> dict[str, int]:
    """Return what changes when a file does. Nobody can set the time of its last change of state
    (``ctime``): a copy that keeps the other time differs in it.
    """
    found = path.stat()
    return {
        "size": found.st_size,
        "inode": found.st_ino,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }
