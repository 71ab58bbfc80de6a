"""Where a text may be cut: its sentences and, in fenced code, its lines, each with what it follows.

It works in any script.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

#: What a unit follows.
HEADING, PARAGRAPH, LINE, SENTENCE, PIECE = "heading", "paragraph", "line", "sentence", "piece"
TITLE, CODE = "title", "code"

#: Start, end, and what it follows.
Unit = tuple[int, int, str]

#: A blank line, or a row of a table whose cells have names, "id: 7 | status: open": such a row is
#: clear without its neighbours.
_PARAGRAPH_END = re.compile(r"\n[ \t]*(?:\n[ \t]*)+|\n(?=[^|:\n]{1,80}: [^\n]* \| )")
#: The title of a clause in plain text, such as "6.2 Audits." or "ARTICLE 7 WARRANTIES".
_TITLE = re.compile(
    r"(?:(?i:article|section|exhibit|schedule|annex|appendix)\b|\d{1,3}(?:\.\d{1,3})*[.)]?\s"
    r"|\(?[A-Za-z]{1,4}[.)]\s)[^\n]{1,80}(?<![,;:])"
)
#: An item of a list, any other row of a table, or a line of a log, which begins with a time.
_LINE_START = re.compile(
    r"\n(?=[ \t]*(?:[-*+\u2022\u2013|>]|\(?\w{1,3}[.)])[ \t]|[^\n]* \| "
    r"|\[?(?:\d{4}-\d\d-\d\d|\d{1,2}:\d\d|\d{1,2}[./]\d{1,2}[./]\d\d))"
)
#: The end of a sentence: Latin and alike need a space after it; Chinese, Japanese do not; danda,
#: Arabic, Ethiopic, Armenian, Burmese, Khmer, Tibetan marks.
_SENTENCE_END = re.compile(
    # The lookbehind: a long row of dots is looked at once, not from each of them.
    r"(?<![.!?\u2026])[.!?\u2026]+[\"'\u2019\u201d\u00bb)\]*_]*(?=\s)|[\u3002\uff01\uff1f\uff61]+[\u300d\u300f\u201d\u2019\uff09]*|[\u0964\u0965\u061f\u06d4\u1362\u0589\u104b\u17d4\u0f0d]+"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|No|Nos|Art|Sec|Fig|Eq|vs|cf|approx|ca|al|etc|e\.g|i\.e|Inc|Ltd|Co|Corp|Nr|Bd|bzw|z\.B"
    r"|Abs|Ziff|Kap|Rn|[Vv]gl|[Gg]gf|inkl|zzgl|evtl|Tel|Str|Mio|Mrd|Mme|Mlle|Sra?)|^\s*\d+)\.$"
)
#: A decimal number that was set apart: "4. 5%", "P =. 001".
_DECIMAL = re.compile(r"(?:\b\d{1,3}|[=<>-])\.$")
#: The day of a date and what follows, as German writes it: "am 3. Mai 2024".
_DAY = re.compile(r"\b\d{1,2}\.$")
_MONTH = re.compile(
    r"\s+(?:Januar|Jänner|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember)\b"
)
_CODE_LINE = re.compile(r"\n")


def find_units(
    text: str, start: int, end: int, fences: Sequence[tuple[int, int]]
) -> Iterator[Unit]:
    """Yield the units of ``text[start:end]`` in order, without the space around them.

    ``fences`` are the places of fenced code in the text, in order: a blank line or a full stop in
    it ends nothing.
    """
    position = start
    for first, last in fences[bisect_left(fences, (start, 0)) : bisect_left(fences, (end, 0))]:
        yield from _sentences(text, position, first)
        # A heading ends it: the parser of Markdown sees no code there.
        last = min(last, end)
        kind = PARAGRAPH
        for line_start, line_end in _split(text, first, last, _CODE_LINE):
            yield from _trim(text, line_start, line_end, kind)
            kind = CODE
        position = last
    yield from _sentences(text, position, end)


def _sentences(text: str, start: int, end: int) -> Iterator[Unit]:
    """Yield (start, end, what it follows) of every sentence in ``text[start:end]``, without the
    space around it.
    """
    titled = False
    for paragraph_start, paragraph_end in _split(text, start, end, _PARAGRAPH_END):
        kind = TITLE if titled else PARAGRAPH
        titled = _is_title(text, paragraph_start, paragraph_end)
        for line_start, line_end in _split(text, paragraph_start, paragraph_end, _LINE_START):
            position = line_start
            for match in _SENTENCE_END.finditer(text, line_start, line_end):
                if _is_end(text, position, match.end(), line_end):
                    yield from _trim(text, position, match.end(), kind)
                    position, kind = match.end(), SENTENCE
            yield from _trim(text, position, line_end, kind)
            kind = LINE


def _is_title(text: str, start: int, end: int) -> bool:
    """Tell whether a paragraph is a numbered title, with its long words in capitals."""
    paragraph = text[start : min(end, start + 200)].strip()
    words = re.findall(r"[^\W\d_]{4,}", paragraph)
    return bool(words and _TITLE.fullmatch(paragraph)) and all(word[0].isupper() for word in words)


def _is_end(text: str, start: int, end: int, limit: int) -> bool:
    following = text[end : min(end + 40, limit)].lstrip()[:1]
    if not following or following.islower():
        return False
    before = text[max(start, end - 12) : end]
    is_decimal = following.isdigit() and _DECIMAL.search(before)
    is_date = _DAY.search(before) and _MONTH.match(text, end, limit)
    return not (is_decimal or is_date or _ABBREVIATION.search(before))


def _split(
    text: str, start: int, end: int, separator: re.Pattern[str]
) -> Iterator[tuple[int, int]]:
    position = start
    for match in separator.finditer(text, start, end):
        yield position, match.start()
        position = match.end()
    yield position, end


def _trim(text: str, start: int, end: int, kind: str) -> Iterator[Unit]:
    part = text[start:end]
    bare = part.strip()
    if bare:
        start += len(part) - len(part.lstrip())
        yield start, start + len(bare), kind
