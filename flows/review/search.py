"""The passages of a run that share words with a question: SQLite's full-text index (FTS5, bm25).

The index is a file in the run's ``.work/ask``, named by the hash of the passages that it holds. An
index of other passages is deleted: it may hold passages that left the corpus.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any
from unicodedata import normalize

from tasks.core.errors import PipelineError
from tasks.core.files import atomic_path, fingerprint, sha256_file
from tasks.core.lock import hold_lock
from tasks.core.parquet import Batches
from tasks.core.rows import PASSAGES

log = logging.getLogger(__name__)
#: Columns that are kept beside the text.
_PLACE = ("passage_id", "document", "page", "section", "start", "end")
_COLUMNS = (*_PLACE, "text")
#: Of the index: another one is made again.
_FORM = 2
#: English words that say nothing of what a question is about. The pipeline's generators know
#: English alone.
_COMMON = """
a about after all also an and any are as at be been before but by can could did do does
for from had has have he her his how i if in into is it its may more most must no not of
on one or our shall she should so some such than that the their them then there these they
this those to under up was we were what when where which while who whose why will with
would you your
"""
#: Letters of Chinese and Japanese, which put no spaces between words: their pairs are looked for.
_UNSPACED = (
    "\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_LETTER = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}]+")
#: Seconds to wait for another process that makes the index.
_PATIENCE = 300.0
#: Words of a question that are looked for.
_MOST_WORDS = 64


def words_of(question: str) -> list[str]:
    """Return the words to look for, each once; common ones only where there are no others. Of
    Chinese and Japanese they are pairs of letters, with a space between.
    """
    # Composed: of an accent of its own a word would end at it.
    words = _WORD.findall(normalize("NFC", question.lower()))
    found = list(dict.fromkeys(part for word in words for part in _pairs(word)))
    common = _COMMON.split()
    return ([word for word in found if word not in common] or found)[:_MOST_WORDS]


def _pairs(word: str) -> list[str]:
    if len(word) == 1 or not _LETTER.match(word):
        return [word]
    return [f"{first} {second}" for first, second in pairwise(word)]


def open_index(passages: Path, folder: Path) -> Path:
    """Return the index of a file of passages (rows.PASSAGES); make it where it is not there."""
    path = folder / f"passages-{fingerprint(_FORM, sha256_file(passages))[:24]}.sqlite"
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder.with_name(f"{folder.name}.lock"), "the index of passages", _PATIENCE):
        if not path.is_file():
            for pattern in ("passages-*", ".passages-*"):  # and what a killed indexer left
                for old in folder.glob(pattern):
                    old.unlink(missing_ok=True)
            log.info("putting the passages into an index")
            with atomic_path(path) as partial:
                _write(partial, _rows(passages))
    return path


def find(index: Path, question: str, most: int) -> list[dict[str, Any]]:
    """Return the best ``most`` passages by bm25, the best first: their place and ``text``. Passages
    that share no word with the question are not found.

    Any text is a question: its words are looked for, and none of it is read as FTS5's syntax.
    """
    words = words_of(question)
    if not words:
        return []
    wanted = " OR ".join(f'"{word}"' for word in words)
    columns = ", ".join(f'"{name}"' for name in _COLUMNS)
    asked = (
        f"SELECT {columns} FROM passages WHERE passages MATCH ? "  # noqa: S608
        "ORDER BY bm25(passages), rowid LIMIT ?"
    )
    try:
        with closing(sqlite3.connect(index)) as base:
            rows = base.execute(asked, (wanted, most)).fetchall()
    except sqlite3.DatabaseError as error:
        raise PipelineError(f"{index} cannot be read ({error}): delete it and ask again") from error
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]


def _write(path: Path, rows: Iterable[tuple[Any, ...]]) -> None:
    columns = ", ".join(f'"{name}" UNINDEXED' for name in _COLUMNS)
    places = ", ".join("?" for _ in (*_COLUMNS, "words"))
    with closing(sqlite3.connect(path)) as base:
        base.execute(
            f"CREATE VIRTUAL TABLE passages USING fts5({columns}, words, "
            "tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        base.executemany(f"INSERT INTO passages VALUES ({places})", rows)  # noqa: S608
        base.commit()


def _rows(passages: Path) -> Iterator[tuple[Any, ...]]:
    for batch in Batches(passages, PASSAGES):
        for row in batch.to_pylist():
            words = _LETTER.sub(r" \g<0> ", row["text"])
            yield (*(row[name] for name in _COLUMNS), words)
