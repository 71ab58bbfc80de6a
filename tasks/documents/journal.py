"""What has been done to which file, kept across runs: a killed run continues, and ten new documents cost ten.

A SQLite file; every entry is a part of one file's result under a key made of the file's content and everything else the result depends on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Journal:
    """Results by key, whole or absent. A damaged journal is begun anew: it saves time and holds nothing that cannot be made again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._base = _opened(path)
            self._check()
        except sqlite3.OperationalError:  # a full disk, a lock: nothing is damaged
            raise
        except (sqlite3.DatabaseError, ValueError, TypeError):
            self._begin_anew()

    def _check(self) -> None:
        """Take out what is unfinished and what is damaged."""
        # Parts without an end are of a killed run; results that another run may better (a timeout) are tried again.
        with self._base:
            self._base.execute("DELETE FROM done WHERE final = 0")
            self._base.execute("DELETE FROM part WHERE key NOT IN (SELECT key FROM done)")
        if self._base.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("its pages do not fit together")
        damaged = [key for key, digest in self._base.execute("SELECT key, digest FROM done").fetchall() if self._digest(key) != digest]
        if damaged:
            log.warning("%s is damaged: %d files are read again", self._path, len(damaged))
            with self._base:
                for table in ("part", "done"):
                    self._base.executemany(f"DELETE FROM {table} WHERE key = ?", ((key,) for key in damaged))  # noqa: S608 - our own table names

    def _digest(self, key: str) -> bytes:
        """Return a digest of all that is kept under ``key``: SQLite itself checks its structure, not its content."""
        digest = hashlib.sha256(str(key).encode(errors="replace"))
        for number, content in self._base.execute("SELECT number, content FROM part WHERE key = ? ORDER BY number", (key,)):
            digest.update(f"{number}:{len(content)};".encode() + content)
        return digest.digest()

    def _begin_anew(self) -> None:
        log.warning("%s is damaged: every file is read again", self._path)
        if hasattr(self, "_base"):
            self._base.close()
        for leftover in self._path.parent.glob(self._path.name + "*"):
            leftover.unlink()
        self._base = _opened(self._path)

    def keys(self) -> set[str]:
        """Return the keys that are done."""
        return {key for (key,) in self._base.execute("SELECT key FROM done")}

    def add(self, key: str, number: int, part: str) -> None:
        """Keep one part; it does not count before :meth:`finish`."""
        self._base.execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?)", (key, number, zlib.compress(part.encode(), 1)))

    def finish(self, key: str, final: bool) -> None:
        """Mark a result as whole."""
        with self._base:
            self._base.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?)", (key, int(final), self._digest(key)))

    def entries(self, key: str) -> Iterator[dict[str, Any]]:
        """Yield the documents and rejects under ``key`` in order."""
        for (part,) in self._base.execute("SELECT content FROM part WHERE key = ? ORDER BY number", (key,)):
            yield from json.loads(zlib.decompress(part))

    def keep(self, keys: Iterable[str]) -> None:
        """Forget everything but ``keys``, so that the file does not grow with every change of the parameters."""
        with self._base:
            self._base.execute("CREATE TEMP TABLE wanted (key TEXT PRIMARY KEY)")
            self._base.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((key,) for key in keys))
            for table in ("part", "done"):
                self._base.execute(f"DELETE FROM {table} WHERE key NOT IN (SELECT key FROM wanted)")  # noqa: S608 - our own table names
            self._base.execute("DROP TABLE wanted")

    def close(self) -> None:
        """Close the file."""
        self._base.close()


def _opened(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=NORMAL")
    base.execute("CREATE TABLE IF NOT EXISTS part (key TEXT, number INTEGER, content BLOB, PRIMARY KEY (key, number)) WITHOUT ROWID")
    base.execute("CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, final INTEGER, digest BLOB) WITHOUT ROWID")
    if "digest" not in [column[1] for column in base.execute("PRAGMA table_info(done)")]:  # of an earlier version
        raise sqlite3.DatabaseError("it has another form")
    base.commit()
    return base
