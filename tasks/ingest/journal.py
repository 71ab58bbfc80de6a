"""The results of files, kept across runs: a killed run continues, and only new files are read.

A SQLite file. Each entry is a part of one file's result, under a key of the file's content and all
else that the result depends on. The list of the corpus's files is in it too, so that memory does
not grow with the corpus.
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

from tasks.ingest.discovery import CorpusFile
from tasks.ingest.readers.document import Unreadable

log = logging.getLogger(__name__)
_PAGE = 500
#: Runs in a row in which a file's fault is taken for one that may pass.
_TRIES = 3
#: Files whose result may be another one when they are read again.
_OPEN = (
    "SELECT name, rows_before FROM file LEFT JOIN done USING (key) "
    "WHERE done.final = 0 OR file.reason = 'unreadable'"
)


class Journal:
    """Results by key, whole or absent.

    A damaged journal is replaced by an empty one: its results can be made again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._base = _open_database(path)
            self._check()
        except sqlite3.OperationalError as error:
            # With SQLite's code it is a full disk, a lock: nothing is damaged. Without one a text
            # could not be decoded.
            if hasattr(error, "sqlite_errorcode"):
                raise
            self._start_over()
        except (sqlite3.DatabaseError, ValueError, TypeError):
            self._start_over()

    def _check(self) -> None:
        """Delete unfinished and damaged results."""
        # Parts without an end are of a killed run. Results that are not final, such as a timeout,
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
        """Return a digest of the result under ``key``: SQLite checks structure, not content."""
        digest = hashlib.sha256(str(key).encode(errors="replace"))
        for number, content in self._base.execute(
            "SELECT number, content FROM part WHERE key = ? ORDER BY number", (key,)
        ):
            digest.update(f"{number}:{len(content)};".encode() + content)
        return digest.digest()

    def _start_over(self) -> None:
        log.warning("%s is damaged: every file is read again", self._path)
        if hasattr(self, "_base"):
            self._base.close()
        for leftover in self._path.parent.glob(self._path.name + "*"):
            leftover.unlink()
        self._base = _open_database(self._path)

    def list(self, files: Iterable[tuple[CorpusFile, str]]) -> None:
        """Record files with the keys of their results; a file with a problem has no key."""
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
        """Return how many files there are, and how many are still to be read.

        Results that no file needs are deleted, so that changed parameters do not grow the journal.
        """
        with self._base:
            for table in ("part", "done"):
                self._base.execute(f"DELETE FROM {table} WHERE key NOT IN (SELECT key FROM file)")  # noqa: S608 - our own table names
            self._base.execute("DROP TABLE IF EXISTS todo")
            self._base.execute(
                "CREATE TEMP TABLE todo AS "
                "SELECT key, min(place) AS place, count(*) AS files FROM file "
                "WHERE key <> '' AND key NOT IN (SELECT key FROM done) "
                "GROUP BY key ORDER BY min(name), min(rows_before)"
            )
        files = self._base.execute("SELECT count(*) FROM file").fetchone()[0]
        return int(files), int(
            self._base.execute("SELECT coalesce(sum(files), 0) FROM todo").fetchone()[0]
        )

    def todo(self) -> Iterator[tuple[str, str, int]]:
        """Yield (key, place, how many files have this content) of the files to read, after
        :meth:`plan`.
        """
        last = 0
        while rows := self._base.execute(
            "SELECT rowid, key, place, files FROM todo WHERE rowid > ? ORDER BY rowid LIMIT ?",
            (last, _PAGE),
        ).fetchall():
            for _, key, place, files in rows:
                yield key, os.fsdecode(place), files
            last = rows[-1][0]

    def files(self) -> Iterator[tuple[CorpusFile, str]]:
        """Yield every file and the key of its result, by name."""
        query = (
            "SELECT name, rows_before, place, key, reason, detail FROM file ORDER BY name, "
            "rows_before"
        )
        for name, rows_before, place, key, reason, detail in self._base.execute(query):
            problem = Unreadable(reason, detail) if reason else None
            yield CorpusFile(name, os.fsdecode(place), problem, rows_before=rows_before), key

    def add(self, key: str, number: int, part: str) -> None:
        """Store one part; it does not count before :meth:`finish`."""
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

    def count_unsettled(self) -> int:
        """Return how many files may give another result in the next run: their reader was ended,
        their store did not answer, or they changed meanwhile. Call it once, at the end of a run.

        What ends so in three runs in a row counts no longer, though each run of the stage tries it.
        """
        with self._base:
            self._base.execute(
                f"DELETE FROM tried WHERE (name, rows_before) NOT IN ({_OPEN})"  # noqa: S608 - our own text
            )
            self._base.execute(
                f"INSERT INTO tried SELECT name, rows_before, 1 FROM ({_OPEN}) WHERE true "  # noqa: S608
                "ON CONFLICT (name, rows_before) DO UPDATE SET times = times + 1"
            )
        ask = "SELECT count(*) FROM tried WHERE times < ?"
        return int(self._base.execute(ask, (_TRIES,)).fetchone()[0])

    def entries(self, key: str) -> Iterator[dict[str, Any]]:
        """Yield the documents and rejects under ``key`` in order."""
        for (part,) in self._base.execute(
            "SELECT content FROM part WHERE key = ? ORDER BY number", (key,)
        ):
            yield from json.loads(zlib.decompress(part))

    def close(self) -> None:
        """Close the file."""
        self._base.close()


def _open_database(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=NORMAL")
    base.execute(
        "CREATE TABLE IF NOT EXISTS part (key TEXT, number INTEGER, content BLOB, "
        "PRIMARY KEY (key, number)) WITHOUT ROWID"
    )
    base.execute(
        "CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, final INTEGER, digest BLOB) "
        "WITHOUT ROWID"
    )
    base.execute(
        "CREATE TABLE IF NOT EXISTS file (name TEXT, rows_before INTEGER, place BLOB, key TEXT, "
        "reason TEXT, detail TEXT, PRIMARY KEY (name, rows_before)) WITHOUT ROWID"
    )
    base.execute(
        "CREATE TABLE IF NOT EXISTS tried (name TEXT, rows_before INTEGER, times INTEGER, "
        "PRIMARY KEY (name, rows_before)) WITHOUT ROWID"
    )
    base.execute("CREATE INDEX IF NOT EXISTS file_key ON file (key)")
    columns = [column[1] for column in base.execute("PRAGMA table_info(done)")]
    if "digest" not in columns:  # of an earlier version
        raise sqlite3.DatabaseError("it has another form")
    base.commit()
    return base
