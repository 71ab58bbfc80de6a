"""Rules on passages: duplicates, near duplicates, evaluation overlap.

The rules only judge; :mod:`tasks.ingest.collect` counts and writes.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash

#: Scripts without spaces between words: each character is a word.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
#: Vowels and accents that are characters of their own, as in Hindi: they are part of their word.
_SIGNS = "".join(
    sign
    for sign in map(chr, range(0x300, 0x1E00))
    if unicodedata.category(sign) in ("Mn", "Mc") and not re.match(f"[{UNSPACED}]", sign)
)
_WORD = re.compile(f"[{UNSPACED}]|[^\\W_{UNSPACED}]+(?:[{_SIGNS}\u200c\u200d]+[^\\W_{UNSPACED}]*)*")
_PERMUTATIONS = 128
_SHINGLE = 5
#: Earlier passages that one is compared with at a time.
_COMPARED = 4096
#: Shorter texts occur everywhere: they are no evidence of overlap.
_LEAST_WORDS = 5


def normalise(text: str) -> str:
    """Return ``text`` in NFKC, case-folded, with single spaces: equal texts are the same text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def split_words(text: str) -> list[str]:
    """Return the words of ``text``, normalised."""
    return _WORD.findall(normalise(text))


class EvaluationOverlap:
    """``text in overlap``: does it share ``length`` words in a row with an evaluation passage?

    A shorter text overlaps if an evaluation passage contains it, or it contains one.
    """

    def __init__(self, passages: Iterable[str], length: int) -> None:
        self.length = length
        #: Length in words -> hashes of the sequences of that length. Passages shorter than
        #: ``length`` count by all their words.
        self._sequences: dict[int, set[int]] = {}
        # The texts with a space around every word: passages shorter than a sequence are searched
        # for in them.
        self._texts: list[str] = []
        for text in dict.fromkeys(passages):
            words = split_words(text)
            if len(words) >= min(_LEAST_WORDS, length):
                size = min(length, len(words))
                self._sequences.setdefault(size, set()).update(_hash_sequences(words, size))
                self._texts.append(_spaced(text))

    def __contains__(self, text: str) -> bool:
        words = split_words(text)
        if min(_LEAST_WORDS, self.length) <= len(words) < self.length and any(
            f" {' '.join(words)} " in evaluation for evaluation in self._texts
        ):
            return True
        return any(
            not hashes.isdisjoint(_hash_sequences(words, size))
            for size, hashes in self._sequences.items()
        )


class Leaks:
    """The labelled items that the corpus answers: a passage has an item's question, word by word,
    and a right answer. The item's own passage is no such passage, unless it asks the question.
    """

    def __init__(self, items: Iterable[tuple[str, str, str, Iterable[str]]]) -> None:
        """``items`` are id, question, passage and right answers of each. A question of fewer than
        five words is not looked for.
        """
        self.found: set[str] = set()
        #: Hash of a question's first words -> the items that it may be of.
        self._items: dict[int, list[tuple[str, str, list[str]]]] = {}
        for name, question, context, answers in items:
            words, asked = split_words(question), _spaced(question)
            if len(words) >= _LEAST_WORDS and asked not in _spaced(context):
                (first,) = _hash_sequences(words[:_LEAST_WORDS], _LEAST_WORDS)
                told = [_spaced(answer) for answer in answers if answer.strip()]
                self._items.setdefault(first, []).append((name, asked, told))

    def look(self, text: str) -> None:
        """Add to ``found`` the items that a passage answers."""
        if not self._items:
            return
        words = split_words(text)
        hashes = set(_hash_sequences(words, _LEAST_WORDS))
        for first in hashes & self._items.keys():
            spaced = f" {' '.join(words)} "
            for name, asked, answers in self._items[first]:
                rest = spaced.replace(asked, "  ")
                if rest != spaced and any(answer in rest for answer in answers):
                    self.found.add(name)


def _spaced(text: str) -> str:
    """Return the words of a text with a space around each."""
    return f" {' '.join(split_words(text))} "


def _hash_sequences(words: list[str], size: int) -> Iterator[int]:
    return (
        xxhash.xxh3_64_intdigest(" ".join(words[place : place + size]).encode())
        for place in range(len(words) - size + 1)
    )


def make_signature(text: str) -> bytes:
    """Return the MinHash signature of the 5-word sequences of ``text``: 128 unsigned 32-bit
    integers, the same on every machine.
    """
    from rensa import RMinHash

    words = split_words(text)
    places = range(max(len(words) - _SHINGLE + 1, 1))
    sketch = RMinHash(num_perm=_PERMUTATIONS, seed=1)
    sketch.update([" ".join(words[place : place + _SHINGLE]) for place in places])
    return b"".join(value.to_bytes(4, "little") for value in sketch.digest())


class Seen:
    """The passages so far, on disk, so that memory is bounded. The first copy is kept."""

    def __init__(self, path: Path, similarity: float) -> None:
        path.unlink(missing_ok=True)
        self._path = path
        self._similarity = similarity
        self._rows = _rows_a_band(similarity) if similarity else 0
        self._base = sqlite3.connect(path, isolation_level=None)
        # Rebuilt by every run: it need not survive a crash.
        self._base.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;"
            "CREATE TABLE exact (hash BLOB PRIMARY KEY, passage TEXT) WITHOUT ROWID;"
            "CREATE TABLE near (number INTEGER PRIMARY KEY, signature BLOB, passage TEXT);"
            "CREATE TABLE band (hash INTEGER, number INTEGER, PRIMARY KEY (hash, number)) "
            "WITHOUT ROWID;"
        )

    def duplicate(self, digest: bytes, passage: str) -> str:
        """Return the earlier passage with the same normalised text; remember this one if there is
        none.
        """
        earlier = self._base.execute(
            "SELECT passage FROM exact WHERE hash = ?", (digest,)
        ).fetchone()
        if earlier is None:
            self._base.execute("INSERT INTO exact VALUES (?, ?)", (digest, passage))
        return str(earlier[0]) if earlier else ""

    def near_duplicate(self, sketch: bytes, passage: str) -> tuple[str, float]:
        """Return the first earlier passage that is similar enough, and the estimated Jaccard
        similarity; remember this one if there is none.
        """
        import numpy as np  # the processes that read files do without

        own = np.frombuffer(sketch, np.uint32)
        bands = [
            xxhash.xxh3_64_intdigest(sketch[place : place + 4 * self._rows], seed=place) >> 1
            for place in range(0, len(sketch), 4 * self._rows)
        ]
        marks = ",".join("?" * len(bands))
        query = "SELECT signature, passage FROM near WHERE number IN (SELECT number FROM band "
        condition = f"WHERE hash IN ({marks})) ORDER BY number"  # question marks alone
        rows = self._base.execute(f"{query} {condition}", bands)
        # Letters of one form are alike in some band, and not enough: there may be very many.
        while earlier := rows.fetchmany(_COMPARED):
            others = np.frombuffer(b"".join(other for other, _ in earlier), np.uint32)
            alike = (others.reshape(-1, _PERMUTATIONS) == own).mean(axis=1)
            if len(found := np.flatnonzero(alike >= self._similarity)):
                return str(earlier[found[0]][1]), float(alike[found[0]])
        number = self._base.execute(
            "INSERT INTO near (signature, passage) VALUES (?, ?)", (sketch, passage)
        ).lastrowid
        self._base.executemany(
            "INSERT OR IGNORE INTO band VALUES (?, ?)", [(band, number) for band in bands]
        )
        return "", 0.0

    def close(self) -> None:
        """Delete the file."""
        self._base.close()
        self._path.unlink(missing_ok=True)


def _rows_a_band(similarity: float) -> int:
    """Return the longest band that finds 99 of 100 pairs of this similarity."""
    return next(
        (
            rows
            for rows in (32, 16, 8, 4, 2)
            if (1 - similarity**rows) ** (_PERMUTATIONS // rows) <= 0.01
        ),
        1,
    )
