"""Bytes to text, never mojibake in silence: what cannot be decoded with confidence is refused by
name.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

from tasks.ingest.readers.document import Unreadable

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Encodings that exports are really found in. Fewer candidates make fewer wrong guesses on short
#: files.
_CANDIDATES = [
    "cp932",
    "euc_jp",
    "gb18030",
    "big5",
    "euc_kr",
    "cp1252",
    "cp1250",
    "cp1251",
    "koi8_r",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
]
_SAMPLE = 1 << 16
_TWO_ALPHABETS = re.compile("[A-Za-z][\u0370-\u07ff]|[\u0370-\u07ff][A-Za-z]")
# Tabs and newlines are text; other control characters are traces of a binary format or of old
# printers. UTF-8 that was once taken for Latin-1 and saved so shows itself by control characters
# that no text has.
_C1 = re.compile("[\x80-\x9f]")
_DECODED_TWICE = re.compile("[\xc2-\xf4][\x80-\xbf]{1,3}")
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff\ud800-\udfff]")


def decode(data: bytes) -> tuple[str, str]:
    """Return the tidied text of ``data`` and the encoding it was in.

    A byte-order mark decides; else UTF-16 and UTF-32 are known by their zero bytes; else UTF-8 if
    it is valid; else a detector chooses. Raises :class:`Unreadable` (``binary`` or
    ``unknown_encoding``) where none fits.
    """
    encoding = detect(data)
    try:
        return tidy(data.decode(encoding)), encoding
    except UnicodeDecodeError as error:
        raise Unreadable(
            "unknown_encoding",
            f"looks like {encoding}, but {error.reason} at byte {error.start}: save it as UTF-8",
        ) from error


def detect(data: bytes) -> str:
    """Return the name of the encoding of ``data`` (see :func:`decode`)."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    if b"\0" in data[:_SAMPLE]:
        return _wide(data[:_SAMPLE])
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
        return "utf-8"
    except UnicodeDecodeError:
        return _guess(data)


def tidy(text: str) -> str:
    """Return ``text`` with ``\\n`` line ends, plain spaces for no-break ones, and no control
    characters.
    """
    if _C1.search(text):
        text = _DECODED_TWICE.sub(_decoded_once, text)
    text = (
        text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n").replace("\u00a0", " ")
    )
    return _CONTROL.sub("", text)


def _decoded_once(match: re.Match[str]) -> str:
    try:
        return match[0].encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return match[0]


def _wide(data: bytes) -> str:
    data = data[: len(data) // 4 * 4]
    zeros = [data[place::4].count(0) * 4 / max(len(data), 1) for place in range(4)]
    # Where zeros must stand in each group of four bytes. UTF-32 first: its text has all the zeros
    # of UTF-16 and more.
    for encoding, high in (
        ("utf-32-le", (2, 3)),
        ("utf-32-be", (0, 1)),
        ("utf-16-le", (1, 3)),
        ("utf-16-be", (0, 2)),
    ):
        least, most = (0.9, 1.0) if encoding.startswith("utf-32") else (0.4, 0.1)
        if (
            all(zeros[place] >= least for place in high)
            and min(zeros[place] for place in range(4) if place not in high) <= most
        ):
            return encoding
    raise Unreadable("binary", "zero bytes, and neither UTF-16 nor UTF-32")


def _guess(data: bytes) -> str:
    from charset_normalizer import from_bytes

    found = {
        match.encoding: match
        for match in from_bytes(data[: 1 << 20], cp_isolation=_CANDIDATES, enable_fallback=False)
    }
    if not found:
        raise Unreadable(
            "unknown_encoding", "neither Unicode nor a known legacy encoding: save it as UTF-8"
        )
    best = min(found.values(), key=_implausibility)
    return (
        "cp1252"
        if best.encoding != "cp1252" and _western(data, found.get("cp1252"), best)
        else str(best.encoding)
    )


def _implausibility(match: Any) -> tuple[float, ...]:
    # No one writes two alphabets within a word: "k\u0446nnen" is "k\u00f6nnen" read by the wrong
    # table.
    mixed = len(_TWO_ALPHABETS.findall(str(match)))
    return (
        mixed,
        round(match.chaos, 2),
        -round(match.coherence, 1),
        _CANDIDATES.index(match.encoding),
    )


def _western(data: bytes, western: Any, best: Any) -> bool:
    """Tell whether Windows-1252, by far the most frequent of all, is as likely as the encoding that
    was found.
    """
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    if best.encoding == "cp1250":
        # Western European text reads almost alike in both.
        return text == str(best) or (western is not None and western.chaos <= best.chaos + 0.02)
    return bool(_TWO_ALPHABETS.search(str(best))) and not _TWO_ALPHABETS.search(text)
