"""Bytes to text, never silent mojibake: what cannot be decoded with confidence is an error."""

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
#: Encodings of real exports. Fewer candidates make fewer wrong guesses on short files.
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
# UTF-8 that was saved as if it were Latin-1 holds control characters that no text has.
_C1 = re.compile("[\x80-\x9f]")
_DECODED_TWICE = re.compile("[\xc2-\xf4][\x80-\xbf]{1,3}")
# A vertical tab is a line's end inside a paragraph, as Office programs and databases export it.
_LINE_ENDS = (("\r\n", "\n"), ("\r", "\n"), ("\v", "\n"), ("\f", "\n\n"))
# No-break spaces: the usual one, that of digits, and the narrow one of French numbers and marks.
_SPACE = re.compile("[\u00a0\u2007\u202f]")
# Tabs and newlines are text; other control characters are traces of binary formats or old printers.
# Soft hyphens and the marks where a word may be divided are not seen, and would divide the word.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f\u00ad\u200b\u2060\ufeff\ud800-\udfff]")


def decode(data: bytes) -> tuple[str, str]:
    """Return the tidied text of ``data`` and the encoding it was in.

    In this order: a byte-order mark; zero bytes of UTF-16 and UTF-32; valid UTF-8; a detector.
    Raises :class:`Unreadable` (``binary`` or ``unknown_encoding``) where none fits.
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
    characters or soft hyphens.
    """
    if _C1.search(text):
        text = _DECODED_TWICE.sub(_decode_once, text)
    for mark, instead in _LINE_ENDS:
        text = text.replace(mark, instead)
    return _CONTROL.sub("", _SPACE.sub(" ", text))


def _decode_once(match: re.Match[str]) -> str:
    try:
        return match[0].encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return match[0]


def _wide(data: bytes) -> str:
    data = data[: len(data) // 4 * 4]
    zeros = [data[place::4].count(0) * 4 / max(len(data), 1) for place in range(4)]
    # Which bytes of each four must be zero. UTF-32 first: its text has all the zeros of UTF-16.
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

    matches = {
        match.encoding: match
        for match in from_bytes(data[: 1 << 20], cp_isolation=_CANDIDATES, enable_fallback=False)
    }
    if not matches:
        raise Unreadable(
            "unknown_encoding", "neither Unicode nor a known legacy encoding: save it as UTF-8"
        )
    best = min(matches.values(), key=_implausibility)
    return (
        "cp1252"
        if best.encoding != "cp1252" and _is_western(data, matches.get("cp1252"), best)
        else str(best.encoding)
    )


def _implausibility(match: Any) -> tuple[float, ...]:
    # No word has two alphabets: "k\u0446nnen" is "k\u00f6nnen" in the wrong encoding.
    mixed = len(_TWO_ALPHABETS.findall(str(match)))
    return (
        mixed,
        round(match.chaos, 2),
        -round(match.coherence, 1),
        _CANDIDATES.index(match.encoding),
    )


def _is_western(data: bytes, western: Any, best: Any) -> bool:
    """Tell whether Windows-1252, the most frequent encoding, is as likely as the best match."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    if best.encoding == "cp1250":
        # Western European text reads almost alike in both.
        return text == str(best) or (western is not None and western.chaos <= best.chaos + 0.02)
    return bool(_TWO_ALPHABETS.search(str(best))) and not _TWO_ALPHABETS.search(text)
