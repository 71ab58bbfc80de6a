"""Finds what of a document is not its prose: citation markers, lists of references, and numbers of
clauses that stand apart from them.

A rule works only where the document itself shows that it applies: a number in brackets is a marker
where others are numbered too, a list below "References" is one where its entries look like
references. What is in doubt stays.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tasks.ingest.readers.document import Document

#: What is found; the first four are settings too (``ingest.citations`` also finds superscripts).
CITATION, AUTHOR, REFERENCES, INFOBOX = "citation", "author_citation", "references", "infobox"
SUPERSCRIPT, CLAUSE, COMMENT = "superscript", "clause_number", "comment"

#: Markers with different numbers from which a document has them.
_LEAST_MARKERS = 3
_NUMBERS = r"[1-9]\d{0,3}(?:[ ]?[,;\u2013-][ ]?[1-9]\d{0,3}){0,19}"
#: Pages behind a marker.
_PAGES = (
    r"(?::[ ]?\d{1,4}(?:[\u2013-]\d{1,4})?(?:,[ ]\d{1,4}(?:[\u2013-]\d{1,4})?)*(?=[ \n\[]|\Z))?"
)
#: A marker that stands at its word, as on Wikipedia. Not an index (:data:`_ARRAY`), nor a link's
#: text.
_ATTACHED = re.compile(
    rf"(?:(?<=[.,;!?\"\u201d])\[{_NUMBERS}\]{_PAGES}"
    rf"|(?:(?<=[^\W\d_]{{2}})|(?<=[\da-z]\])|(?<=[:'\u2019)%\d]))\[{_NUMBERS}\])"
    r"(?![\w(=])"
)
#: Notes of editors at a word; only in documents that have numbered markers.
_NOTE = re.compile(
    r"(?<=[\w.,;:!?\"'\u201d\u2019)\]])\[(?:[a-z]|(?:needs )?update|note \d+|citation needed"
    r"|clarification needed|dubious[^][\n]{0,20}|who\?|when\?|which\?)\](?![\w(=])"
)
#: A marker after a space, as in papers; "[30] days" is a blank of a form, "in [12]" a word of the
#: sentence.
_APART = re.compile(rf"[ ]\[({_NUMBERS})\](?=[.,;:)]|[ ]|\n|\Z)")
_NEEDED = re.compile(
    r"(?:\b(?:by|in|of|from|see|and|or|to|with|than|within|for|at|least|most|about|between|range"
    r"|interval|ref|refs|cf|exceed|exceeds|after|is|are|was|January|February|March|April|May|June"
    r"|July|August|September|October|November|December)|[=<>\u2208(])\.?$",
    re.IGNORECASE,
)
#: At the start of a line whose sentence is wrapped.
_WRAPPED = re.compile(rf"(?<=[^\n]\n)\[{_NUMBERS}\](?:[ ]?(?=[^\s])|\n(?=[^\s]))")
_RAISED = re.compile(
    r"(?:(?<=[a-z]{5}[.,;])|(?<=[a-z]{5}))[\u00b9\u00b2\u00b3\u2070\u2074-\u2079]{1,3}(?!\w)"
    r"|(?<=[a-z]{5}[,;])[1-9]\d?(?=[ \n][a-z])"
)
#: A raised number behind one of these is its power, not a note.
_UNIT = re.compile(r"(?:met(?:er|re|ro)|inche|yard|mile|second)s?$", re.IGNORECASE)
#: An array of a program, as its use shows: counted from 0, or in an assignment, a sum or a call.
_ARRAY = re.compile(
    r"\b(?P<used>\w+)\[(?:0\]|\d+\](?:[ ]?[-+*/]?=|[ ][+*/<>%][ ]))"
    r"|(?:=[ ]?|[+*/<>%][ ]|\w\()(?:\w+\.)*(?P<read>\w+)\[\d+\]"
)
_AMOUNT = re.compile(r"\d,\d{3}(?!\d)")
_COUNTED = re.compile(
    r"(?:section|figure|table|chapter|article|clause|schedule|annex|appendix|paragraph|exhibit"
    r"|number|volume|issue|version)s?[.,;]$",
    re.IGNORECASE,
)
_NAME = r"(?:(?:de|van|von|der|den|la|le|Mc|Mac|O')[ ]?)*[A-Z\u00c0-\u00de][\w'\u2019-]+"
_CITE = (
    rf"{_NAME}(?:(?:,[ ]{_NAME}){{0,3}},?[ ](?:and|&)[ ]{_NAME}|[ ]et[ ]al\.?)?,?[ ]"
    r"(?:19|20)\d\d[a-z]?(?:,[ ](?:19|20)\d\d[a-z]?){0,3}(?:,[ ]pp?\.[ ]?\d+(?:[\u2013-]\d+)?)?"
)
_AUTHORS = re.compile(
    rf"[ ]?\((?:(?:see|see also|e\.g\.|cf\.),?[ ])?{_CITE}(?:;[ ]?{_CITE}){{0,19}}\)"
)
_STRICT = re.compile(r"[ ]et[ ]al|[ ](?:and|&)[ ]|;")
_DATED = re.compile(
    r"\((?:Jan|Febr)uary|\((?:March|April|May|June|July|August|September|October|November|December"
    r"|Spring|Summer|Autumn|Fall|Winter|Since|Until|Before|After|Born|Founded)\b"
)

_TITLE = re.compile(
    r"^[# \t*]*(?:\d{1,2}\.?[ ])?(?:references|bibliography|works cited|literature cited|literature"
    r"|notes and references|endnotes|references and notes|literatur|literaturverzeichnis"
    r"|einzelnachweise|quellen|r\u00e9f\u00e9rences|bibliographie|referencias|bibliograf\u00eda)"
    r"[ \t:*#]*$",
    re.IGNORECASE | re.MULTILINE,
)
#: Titles that follow a list of references and end it.
_NEXT_TITLE = re.compile(
    r"^(?:see also|external links|further reading|appendix\b.{0,60}|acknowledge?ments|notes"
    r"|bibliography|references|weblinks|siehe auch)$",
    re.IGNORECASE,
)
_ENTRY = re.compile(
    r"^[ \t]*(?:[-*\u2022^]|\[?\d{1,4}[.\]]|\(\d{1,4}\))[ \t]+|\n[ \t]*\n", re.MULTILINE
)
_REFERENCE = re.compile(
    r"https?:\s?//|\bdoi\b|\barxiv\b|\bISBN\b|\bISSN\b|\bpp?\.[ ]?\d|\bRetrieved\b|\bVol\."
    r"|\bPress\b|\bet al\b|\bop\. cit|\bibid|\(\d{4}\)|\((?:19|20)\d\d[a-z]?\)"
    r"|\b(?:19|20)\d\d[a-z]?\.",
    re.IGNORECASE,
)
_LINE = re.compile(r"[^\n]+")
#: Longest entry, and the share of entries that must look like references.
_LONGEST_ENTRY, _LEAST_SHARE = 900, 0.6
#: A list without a title: so many lines in a row with the next number each, and a source in each.
_LEAST_NOTES = 3
_NOTE_LINE = re.compile(r"^\[(\d{1,4})\][ \t]*[^\n]*$", re.MULTILINE)
#: Most numbers that such a list leaves out, and most characters of an entry's further lines.
_LEFT_OUT, _FURTHER = 3, 300

_CLAUSE = re.compile(
    r"^[ \t]*(?P<number>(?P<path>\d{1,3}(?:\.\d{1,3})*)(?P<dot>\.?)|\((?P<letter>[a-z])\))"
    r"(?P<gap>[ \t]*\n\s*|[ \t]+)(?!\([a-z]\))(?=[\"\u201c'(]?[^\W\d_])",
    re.MULTILINE,
)
#: A line that is only the number of a clause.
_ALONE = re.compile(r"\d{1,3}(?:\.\d{1,3})*\.?|\([a-z]\)")


@dataclass(frozen=True)
class Edit:
    """``text[start:end]`` of a document becomes ``instead``."""

    start: int
    end: int
    kind: str
    instead: str = ""


class Spans:
    """``offset in spans``: is it in one of them?"""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        ordered = sorted(spans)
        self._starts = [start for start, _ in ordered]
        #: Spans may lie in others: the furthest end of each span and those before it.
        self._ends = [*accumulate((end for _, end in ordered), max)]

    def __contains__(self, offset: int) -> bool:
        place = bisect_right(self._starts, offset)
        return place > 0 and offset < self._ends[place - 1]


def find_citations(text: str, taken: Spans) -> list[Edit]:
    """Return the markers of sources and notes outside ``taken``."""
    arrays = {match["used"] or match["read"] for match in _ARRAY.finditer(text)}
    attached = [
        match
        for match in _ATTACHED.finditer(text)
        if match.start() not in taken and _last_word(text, match.start()) not in arrays
    ]
    apart = [
        match
        for match in _APART.finditer(text)
        if match.start() not in taken and _is_aside(text, match)
    ]
    numbers = {number for match in (*attached, *apart) for number in re.findall(r"\d+", match[0])}
    raised = [
        Edit(*match.span(), SUPERSCRIPT)
        for match in _RAISED.finditer(text)
        if not any(
            other.search(text[max(match.start() - 12, 0) : match.start()])
            for other in (_COUNTED, _UNIT)
        )
    ]
    if len(numbers) < _LEAST_MARKERS:
        return raised
    wrapped = list(_WRAPPED.finditer(text)) if len(attached) >= _LEAST_MARKERS else []
    notes = [*_NOTE.finditer(text)]
    return [
        *raised,
        *(Edit(*match.span(), CITATION) for match in (*attached, *apart, *wrapped, *notes)),
    ]


def _last_word(text: str, end: int) -> str:
    """Return the word that ends at ``end``, of a long one the end; empty if there is none."""
    return re.split(r"\W", text[max(end - 60, 0) : end])[-1]


def _is_aside(text: str, match: re.Match[str]) -> bool:
    """Tell whether the sentence is whole without the marker."""
    before = text[max(match.start() - 12, 0) : match.start()]
    if _NEEDED.search(before) or _AMOUNT.search(match[1]):
        return False
    single = match[1].isdigit()
    return not single or text[match.end() : match.end() + 1] != " "


def find_authors(text: str) -> list[Edit]:
    """Return the sources in brackets."""
    matches = [match for match in _AUTHORS.finditer(text) if not _DATED.search(match[0])]
    strict = [match for match in matches if _STRICT.search(match[0])]
    # "(Berlin, 2019)" has the form of one; a document with several clear ones cites like this.
    chosen = matches if len(strict) >= _LEAST_MARKERS else strict
    return [Edit(*match.span(), AUTHOR) for match in chosen]


def find_references(document: Document) -> list[Edit]:
    """Return the lists of references."""
    text = document.text
    found = []
    for title in _TITLE.finditer(text):
        if (end := _list_end(document, title.end())) > title.end():
            found.append(Edit(title.start(), end, REFERENCES))
    lines: list[re.Match[str]] = []
    for line in [*_NOTE_LINE.finditer(text), None]:
        if line and lines and _follows(text, lines[-1], line):
            lines.append(line)
            continue
        if len(lines) >= _LEAST_NOTES and all(_REFERENCE.search(entry[0]) for entry in lines):
            found.append(Edit(lines[0].start(), lines[-1].end(), REFERENCES))
        lines = [line] if line else []
    return found


def _follows(text: str, line: re.Match[str], after: re.Match[str]) -> bool:
    between = text[line.end() : after.start()].strip()
    is_next = 1 <= int(after[1]) - int(line[1]) <= 1 + _LEFT_OUT
    further = len(between) <= _FURTHER and bool(_REFERENCE.search(between))
    return is_next and (not between or further)


def _list_end(document: Document, start: int) -> int:
    """Return where the list of references that may begin at ``start`` ends; ``start``: there is
    none.
    """
    text = document.text
    place = bisect_left(document.headings, start, key=lambda heading: heading.start)
    limit = document.headings[place].start if place < len(document.headings) else len(text)
    end, good, total, doubtful = start, 0, 0, 0
    for left, right in _entries(text, start, limit):
        entry = text[left:right].strip()
        if not entry:
            continue
        total += 1
        if len(entry) <= _LONGEST_ENTRY and _REFERENCE.search(entry):
            end, good, doubtful = left + len(text[left:right].rstrip()), good + 1, 0
        else:
            doubtful += 1
        if doubtful > 2:  # prose follows, without a heading
            break
    return end if good >= 2 and good >= _LEAST_SHARE * (total - doubtful) else start


def _entries(text: str, start: int, limit: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of what may be entries of a list, up to the title of what follows it."""
    right = start
    while right < limit:
        # No further than an entry may go: a book may follow, and many titles without a list.
        left, most = right, min(limit, right + 2 * _LONGEST_ENTRY)
        edge = _ENTRY.search(text, left + 1, most)
        right = edge.start() if edge else most
        for line in _LINE.finditer(text, left, right):
            if _NEXT_TITLE.fullmatch(line[0].strip()):
                yield left, line.start()
                return
        yield left, right


def find_clauses(document: Document) -> list[Edit]:
    """Return the line ends between a clause's number, alone on its line, and the clause.

    A number counts where its neighbour among the numbers at the lines' starts is the one before or
    after it: a figure or a page number has none.
    """
    matches = list(_CLAUSE.finditer(document.text))
    found = []
    for place, match in enumerate(matches):
        is_bare = (match["path"] or "").isdigit() and not match["dot"]
        if is_bare or "\n" not in match["gap"]:
            continue
        above = (
            document.text[max(match.start() - 80, 0) : match.start()].rstrip().rpartition("\n")[2]
        )
        above = above.strip()
        if _ALONE.fullmatch(above) and not match["number"].startswith(above.rstrip(".")):
            continue  # a column of numbers
        before = matches[place - 1] if place else None
        after = matches[place + 1] if place + 1 < len(matches) else None
        if (before and _is_next(before, match)) or (after and _is_next(match, after)):
            found.append(Edit(match.start("gap"), match.end("gap"), CLAUSE, " "))
    # The same text after several numbers is a page's foot, not a clause.
    following = [document.text[edit.end : edit.end + 80].partition("\n")[0] for edit in found]
    counts = Counter(following)
    return [edit for edit, text in zip(found, following, strict=True) if counts[text] == 1]


def _is_next(first: re.Match[str], second: re.Match[str]) -> bool:
    if first["letter"] and second["letter"]:
        return ord(second["letter"]) == ord(first["letter"]) + 1
    if not (first["path"] and second["path"]):
        # "(a)" is the first below a number, which may follow the last letter.
        return second["letter"] == "a" or bool(second["path"] and first["letter"])
    one, two = ([int(part) for part in match["path"].split(".")] for match in (first, second))
    return two == [*one, 1] or any(
        two == [*one[:depth], one[depth] + 1] for depth in range(len(one))
    )
