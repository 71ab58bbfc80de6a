"""Boilerplate: lines that many documents repeat word for word, such as disclaimers and notices.

A process that reads one file cannot know them. It records the lines of its passages; when all files
are read, the lines are counted, and frequent ones are cut out of the passages.
"""

from __future__ import annotations

import math
import re
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from tasks.ingest.cleaning import UNSPACED, normalise
from tasks.ingest.readers.document import Document

#: Shorter lines (table rules, brackets of code, single words) repeat without being boilerplate.
_LEAST_WORDS = 4
_LINE = re.compile(r"[^\n]+")
#: A word of two letters or more; of scripts without spaces two letters count as one.
_LETTERS = re.compile(rf"[{UNSPACED}]{{2}}|[^\W\d_{UNSPACED}]{{2,}}")
#: A line in fewer documents is no boilerplate, whatever the share.
LEAST_DOCUMENTS = 5


def find_lines(document: Document, start: int, end: int) -> list[tuple[int, int, int]]:
    """Return (start, end, hash) of the lines of ``document.text[start:end]`` that may be
    boilerplate. Headings never are.
    """
    first = bisect_right(document.headings, start, key=lambda heading: heading.end)
    last = bisect_left(document.headings, end, key=lambda heading: heading.start)
    headings = document.headings[first:last]
    hashed = []
    for match in _LINE.finditer(document.text, start, end):
        if len(_LETTERS.findall(match[0])) < _LEAST_WORDS or any(
            match.start() < heading.end and match.end() > heading.start for heading in headings
        ):
            continue
        # 63 bits: SQLite's integers are signed.
        line = xxhash.xxh3_64_intdigest(normalise(match[0]).encode()) >> 1
        hashed.append((*match.span(), line))
    return hashed


class Repeated:
    """Counts the documents of each line, on disk.

    Copies of a whole document count once: they are duplicates, not boilerplate.
    """

    def __init__(self, path: Path, share: float) -> None:
        path.unlink(missing_ok=True)
        self._path, self._share = path, share
        self._base = sqlite3.connect(path, isolation_level=None)
        self._base.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;"
            "CREATE TABLE line (hash INTEGER PRIMARY KEY, documents INTEGER, last INTEGER);"
            "CREATE TABLE document (hash BLOB PRIMARY KEY) WITHOUT ROWID;"
        )
        self.documents = 0
        self._copy = False
        self._frequent: dict[int, int] = {}

    def count(self, entry: dict[str, Any]) -> None:
        """Count the lines of a document's entry; the first of several entries is marked."""
        if entry["first"]:
            content = xxhash.xxh3_128_digest(
                "".join(passage["same"] for passage in entry["passages"]).encode()
            )
            self._copy = (
                self._base.execute("INSERT OR IGNORE INTO document VALUES (?)", (content,)).rowcount
                == 0
            )
            self.documents += not self._copy
        if not self._copy:
            hashes = {line for passage in entry["passages"] for *_, line in passage["lines"]}
            self._base.executemany(
                (
                    "INSERT INTO line VALUES (?, 1, ?) ON CONFLICT (hash) DO UPDATE SET "
                    "documents = documents + (last <> excluded.last), last = excluded.last"
                ),
                ((line, self.documents) for line in sorted(hashes)),
            )

    def finish(self) -> None:
        """Decide which lines are boilerplate."""
        rows = self._base.execute(
            "SELECT hash, documents FROM line WHERE documents >= ?", (self.threshold,)
        )
        self._frequent = dict(rows.fetchall())

    @property
    def threshold(self) -> int:
        """Return the number of documents from which a line is boilerplate."""
        return max(LEAST_DOCUMENTS, math.ceil(self._share * self.documents))

    def spans(self, passage: dict[str, Any]) -> list[tuple[int, int, int]]:
        """Return (start, end, documents with it) of the boilerplate in a passage, in order."""
        if not self._frequent:
            return []
        counted = (
            (start, end, self._frequent.get(line, 0)) for start, end, line in passage["lines"]
        )
        return [span for span in counted if span[2]]

    def close(self) -> None:
        """Delete the file."""
        self._base.close()
        self._path.unlink(missing_ok=True)


def split_around(
    passage: dict[str, Any], spans: list[tuple[int, int, int]]
) -> Iterator[tuple[int, int]]:
    """Yield (start, end), in characters of the document, of the text between ``spans``, without
    blank parts.
    """
    text, offset = passage["text"], passage["start"]
    position = offset
    for start, end, _ in [*spans, (passage["end"], passage["end"], 0)]:
        part = text[position - offset : start - offset]
        if bare := part.strip():
            first = position + len(part) - len(part.lstrip())
            yield first, first + len(bare)
        position = end
