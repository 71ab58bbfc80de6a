"""What has been done to which file, kept across runs: a killed run continues, and ten new documents
cost ten.

A SQLite file; every entry is a part of one file's result under a key made of the file's content and
everything else the result depends on. The list of the corpus's files lies in it too, so that memory
does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.ingest.discovery import Found
from tasks.ingest.readers.document import Unreadable

log = logging.getLogger(__name__)
_PAGE = 500


class Journal:
    """Results by key, whole or absent.

    A damaged journal is begun anew: it saves time and holds nothing that cannot be made again.
    """

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
        # Parts without an end are of a killed run; results that another run may better (a timeout)
        # are tried again.
        with self._base:
            self._base.execute("DELETE FROM done WHERE final = 0")
            self._base.execute("DELETE FROM part WHERE key NOT IN (SELECT key FROM done)")
            self._base.execute("DELETE FROM file")
        if self._base.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("its pages do not fit together")
        damaged = [
            key
            for key, digest in self._base.execute("SELECT key, digest FROM done")
            if self._digest(key) != digest
        ]
        if damaged:
            log.warning("%s is damaged: %d files are read again", self._path, len(damaged))
            with self._base:
                for table in ("part", "done"):
                    statement = f"DELETE FROM {table} WHERE key = ?"  # noqa: S608 - our own names
                    self._base.executemany(statement, ((key,) for key in damaged))

    def _digest(self, key: str) -> bytes:
        """Return a digest of all that is kept under ``key``: SQLite itself checks its structure,
        not its content.
        """
        digest = hashlib.sha256(str(key).encode(errors="replace"))
        for number, content in self._base.execute(
            "SELECT number, content FROM part WHERE key = ? ORDER BY number", (key,)
        ):
            digest.update(f"{number}:{len(content)};".encode() + content)
        return digest.digest()

    def _begin_anew(self) -> None:
        log.warning("%s is damaged: every file is read again", self._path)
        if hasattr(self, "_base"):
            self._base.close()
        for leftover in self._path.parent.glob(self._path.name + "*"):
            leftover.unlink()
        self._base = _opened(self._path)

    def list(self, files: Iterable[tuple[Found, str]]) -> None:
        """Note files of the corpus with the keys of their results; a file that cannot be read has a
        problem and no key.
        """
        rows = [
            (
                file.name,
                file.rows_before,
                os.fsencode(file.place),
                key,
                file.problem.reason if file.problem else None,
                file.problem.detail if file.problem else None,
            )
            for file, key in files
        ]
        with self._base:
            self._base.executemany("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?)", rows)

    def plan(self) -> tuple[int, int]:
        """Return how many files there are and how many of them are still to be read. What no file
        needs any more is forgotten.

        Forgetting keeps the journal from growing with every change of the parameters.
        """
        with self._base:
            for table in ("part", "done"):
                self._base.execute(f"DELETE FROM {table} WHERE key NOT IN (SELECT key FROM file)")  # noqa: S608 - our own table names
            self._base.execute("DROP TABLE IF EXISTS todo")
            self._base.execute(
                "CREATE TEMP TABLE todo AS SELECT key, min(place) AS place, count(*) AS "
                "files FROM file "
                "WHERE key <> '' AND key NOT IN (SELECT key FROM done) GROUP BY key ORDER "
                "BY min(name), min(rows_before)"
            )
        files = self._base.execute("SELECT count(*) FROM file").fetchone()[0]
        return int(files), int(
            self._base.execute("SELECT coalesce(sum(files), 0) FROM todo").fetchone()[0]
        )

    def todo(self) -> Iterator[tuple[str, str, int]]:
        """Yield (key, place, how many files of this content there are) of what :meth:`plan` found
        to be read.
        """
        last = 0
        while rows := self._base.execute(
            "SELECT rowid, key, place, files FROM todo WHERE rowid > ? ORDER BY rowid LIMIT ?",
            (last, _PAGE),
        ).fetchall():
            for _, key, place, files in rows:
                yield key, os.fsdecode(place), files
            last = rows[-1][0]

    def files(self) -> Iterator[tuple[Found, str]]:
        """Yield every file and the key of its result, by name."""
        query = (
            "SELECT name, rows_before, place, key, reason, detail FROM file ORDER BY name, "
            "rows_before"
        )
        for name, rows_before, place, key, reason, detail in self._base.execute(query):
            problem = Unreadable(reason, detail) if reason else None
            yield Found(name, os.fsdecode(place), problem, rows_before=rows_before), key

    def add(self, key: str, number: int, part: str) -> None:
        """Keep one part; it does not count before :meth:`finish`."""
        self._base.execute(
            "INSERT OR REPLACE INTO part VALUES (?, ?, ?)",
            (key, number, zlib.compress(part.encode(), 1)),
        )

    def finish(self, key: str, final: bool) -> None:
        """Mark a result as whole."""
        with self._base:
            self._base.execute(
                "INSERT OR REPLACE INTO done VALUES (?, ?, ?)", (key, int(final), self._digest(key))
            )

    def entries(self, key: str) -> Iterator[dict[str, Any]]:
        """Yield the documents and rejects under ``key`` in order."""
        for (part,) in self._base.execute(
            "SELECT content FROM part WHERE key = ? ORDER BY number", (key,)
        ):
            yield from json.loads(zlib.decompress(part))

    def close(self) -> None:
        """Close the file."""
        self._base.close()


def _opened(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=NORMAL")
    base.execute(
        "CREATE TABLE IF NOT EXISTS part (key TEXT, number INTEGER, content BLOB, PRIMARY "
        "KEY (key, number)) WITHOUT ROWID"
    )
    base.execute(
        "CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, final INTEGER, digest "
        "BLOB) WITHOUT ROWID"
    )
    base.execute(
        "CREATE TABLE IF NOT EXISTS file (name TEXT, rows_before INTEGER, place BLOB, key "
        "TEXT, reason TEXT, detail TEXT, "
        "PRIMARY KEY (name, rows_before)) WITHOUT ROWID"
    )
    base.execute("CREATE INDEX IF NOT EXISTS file_key ON file (key)")
    if "digest" not in [
        column[1] for column in base.execute("PRAGMA table_info(done)")
    ]:  # of an earlier version
        raise sqlite3.DatabaseError("it has another form")
    base.commit()
    return base
