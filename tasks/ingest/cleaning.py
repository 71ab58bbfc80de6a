"""Which passages stay: duplicates, near duplicates, language, personal data, overlap with the
evaluation set.

Every rule answers with a reason (``""``: keep it) and changes nothing by itself;
``tasks.ingest.stage`` counts and writes them.
"""

from __future__ import annotations

import ipaddress
import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash

#: Words of any script: Chinese, Japanese and Thai write none apart, so there each character is one.
_WORD = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)
_PERMUTATIONS = 128
_SHINGLE = 5
#: Texts of fewer words stand in everything: they are evidence of nothing.
_LEAST_WORDS = 5

_MASKS = (
    ("EMAIL", re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")),
    ("IBAN", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")),
    ("CARD", re.compile(r"(?<![\w.+-])(?:\d[ -]?){12,18}\d(?![\w-])")),
    (
        "IP",
        re.compile(
            r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)|(?<![\w:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])"
        ),
    ),
    ("SSN", re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")),
    (
        "PHONE",
        re.compile(
            r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{1,5}\)[ .-]?)?\d{2,5}(?:[ "
            r".-]\d{2,5}){1,4}(?![\w.])|(?<![\w.])\+\d{9,14}(?![\w.])"
        ),
    ),
)
_PHONE_DIGITS = range(9, 16)


def normalised(text: str) -> str:
    """Return ``text`` in NFKC, without case, its white space collapsed: what "the same text" means
    here.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """Return the words of ``text``, normalised."""
    return _WORD.findall(normalised(text))


class EvaluationOverlap:
    """Knows whether a passage stands, wholly or for ``length`` words in a row, in the evaluation
    set's passages, or holds one of them.
    """

    def __init__(self, passages: Iterable[str], length: int) -> None:
        self.length = length
        #: Length in words -> hashes of the sequences of that length. Passages shorter than
        #: ``length`` count by all their words.
        self._sequences: dict[int, set[int]] = {}
        # The texts with a space around every word: where a passage too short for a sequence is
        # looked for.
        self._texts: list[str] = []
        for text in dict.fromkeys(passages):
            found = words(text)
            if len(found) >= min(_LEAST_WORDS, length):
                size = min(length, len(found))
                self._sequences.setdefault(size, set()).update(_sequences(found, size))
                self._texts.append(f" {' '.join(found)} ")

    def __contains__(self, text: str) -> bool:
        found = words(text)
        if min(_LEAST_WORDS, self.length) <= len(found) < self.length and any(
            f" {' '.join(found)} " in known for known in self._texts
        ):
            return True
        return any(
            not known.isdisjoint(_sequences(found, size)) for size, known in self._sequences.items()
        )


def _sequences(found: list[str], size: int) -> Iterator[int]:
    return (
        xxhash.xxh3_64_intdigest(" ".join(found[place : place + size]).encode())
        for place in range(len(found) - size + 1)
    )


def signature(text: str) -> bytes:
    """Return the MinHash signature of the 5-word sequences of ``text``: 128 unsigned 32-bit
    integers, the same on every machine.
    """
    from rensa import RMinHash

    found = words(text)
    sketch = RMinHash(num_perm=_PERMUTATIONS, seed=1)
    sketch.update(
        [
            " ".join(found[place : place + _SHINGLE])
            for place in range(max(len(found) - _SHINGLE + 1, 1))
        ]
    )
    return b"".join(value.to_bytes(4, "little") for value in sketch.digest())


class Seen:
    """Passages met so far, on disk, so that memory does not grow with the corpus.

    The first to come wins.
    """

    def __init__(self, path: Path, similarity: float) -> None:
        path.unlink(missing_ok=True)
        self._path = path
        self._similarity = similarity
        self._rows = _rows_a_band(similarity) if similarity else 0
        self._base = sqlite3.connect(path, isolation_level=None)
        # Rebuilt by every run: nothing of it has to survive a crash.
        self._base.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;"
            "CREATE TABLE exact (hash BLOB PRIMARY KEY, passage TEXT) WITHOUT ROWID;"
            "CREATE TABLE near (number INTEGER PRIMARY KEY, signature BLOB, passage TEXT);"
            "CREATE TABLE band (hash INTEGER, number INTEGER, PRIMARY KEY (hash, number)) "
            "WITHOUT ROWID;"
        )

    def duplicate(self, digest: bytes, passage: str) -> str:
        """Return which earlier passage has the same normalised text; remember this one where none
        has.
        """
        known = self._base.execute("SELECT passage FROM exact WHERE hash = ?", (digest,)).fetchone()
        if known is None:
            self._base.execute("INSERT INTO exact VALUES (?, ?)", (digest, passage))
        return str(known[0]) if known else ""

    def near_duplicate(self, sketch: bytes, passage: str) -> tuple[str, float]:
        """Return the first earlier passage that is similar enough and the estimated Jaccard
        similarity; remember this one where none is.
        """
        bands = [
            xxhash.xxh3_64_intdigest(sketch[place : place + 4 * self._rows], seed=place) >> 1
            for place in range(0, len(sketch), 4 * self._rows)
        ]
        marks = ",".join("?" * len(bands))
        query = "SELECT DISTINCT near.number, signature, passage FROM band JOIN near USING (number)"
        condition = f"WHERE hash IN ({marks}) ORDER BY near.number"  # question marks alone
        rows = self._base.execute(f"{query} {condition}", bands)
        for _, other, name in rows:
            alike = (
                sum(
                    sketch[place : place + 4] == other[place : place + 4]
                    for place in range(0, len(sketch), 4)
                )
                / _PERMUTATIONS
            )
            if alike >= self._similarity:
                return str(name), alike
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
    """Return the longest band that still brings 99 of 100 pairs of this similarity together."""
    return next(
        (
            rows
            for rows in (32, 16, 8, 4, 2)
            if (1 - similarity**rows) ** (_PERMUTATIONS // rows) <= 0.01
        ),
        1,
    )


def language(text: str) -> str:
    """Return the ISO 639-1 code of the language ``text`` is most likely in."""
    from py3langid.langid import classify

    return str(classify(text)[0])


def masked(text: str) -> tuple[str, dict[str, int]]:
    """Return ``text`` with personal data as ``[EMAIL]``, ``[IBAN]``, ``[CARD]``, ``[IP]``,
    ``[SSN]`` and ``[PHONE]``, and how many of each there were.

    IBANs and card numbers must have right check digits, addresses of machines must be ones;
    telephone numbers are known by their form alone.
    """
    counts: Counter[str] = Counter()
    for name, pattern in _MASKS:

        def mask(match: re.Match[str], name: str = name) -> str:
            found = match[0]
            # Capitals that follow an IBAN look like more of it.
            while name == "IBAN" and " " in found and not _plausible(name, found):
                found = found.rpartition(" ")[0]
            if not _plausible(name, found):
                return match[0]
            counts[name] += 1
            return f"[{name}]{match[0][len(found) :]}"

        text = pattern.sub(mask, text)
    return text, dict(counts)


def _plausible(name: str, found: str) -> bool:
    digits = [int(character) for character in found if character.isdigit()]
    if name == "IP":
        try:
            # Two colons alone, or times such as 12:30:45, are parsed by no one as an address worth
            # hiding.
            return bool(ipaddress.ip_address(found)) and (
                "." in found or sum(character.isalnum() for character in found) > 3
            )
        except ValueError:
            return False
    if name == "PHONE":
        # Dates and amounts are shorter, and come without a country code.
        return len(digits) in _PHONE_DIGITS and not re.fullmatch(
            r"\d{4}[ .-]\d{2}[ .-]\d{2}.*|\d{2}[ .-]\d{2}[ .-]\d{4}.*", found
        )
    if name == "CARD":
        doubled = [
            sum(divmod(2 * digit, 10)) if place % 2 else digit
            for place, digit in enumerate(reversed(digits))
        ]
        return sum(doubled) % 10 == 0 and any(digits)
    if name == "IBAN":
        # ISO 13616: the country and check digits go to the end, letters count from 10, and the
        # whole leaves 1 when divided by 97.
        bare = found.replace(" ", "")
        return (
            15 <= len(bare) <= 34
            and int("".join(str(int(character, 36)) for character in bare[4:] + bare[:4])) % 97 == 1
        )
    return True
