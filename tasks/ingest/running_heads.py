"""Finds page numbers in a text that was printed once, and the heads and feet beside them.

A number alone on its line, or behind the word page, is a page's where others of the same form count
on from it, a page of text apart. A line beside it is a head or foot where most pages have it there.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median_low

from tasks.ingest.apparatus import Edit
from tasks.ingest.readers.document import Document

RUNNING_HEAD = "running_head"

_LINE = re.compile(r"[^\n\f]+")
_NUMBER = re.compile(
    r"[-\u2013\u2014~|\[\s]*(?P<alone>\d{1,4})(?:\s*(?:of|von|/)\s*\d{1,4})?[-\u2013\u2014~|\]\s]*"
    r"|(?:.*\W)?(?:page|seite)\s+(?P<named>\d{1,4})\b.*",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d+")
#: A head or foot is no longer than this, in characters.
_LONGEST = 250
#: Fewest pages that are counted. One page in a row may have no number.
_LEAST_PAGES = 3
#: Fewest characters from one page's number to the next, in the lower median. A column of numbers,
#: or a numbered list, has less between them.
_PAGE = 600
#: Lines on each side of a number that may be heads or feet.
_BESIDE = 3
_ENDS = re.compile(r"[.!?:;]\W*$")
#: No sentence ends so, whatever follows.
_GOES_ON = re.compile(r"\b(?:an?|and|by|for|in|of|or|the|to|with)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class _Line:
    start: int
    end: int
    #: The line with ``#`` for its numbers: pages have the same.
    form: str
    number: int | None


def find_running_heads(document: Document) -> list[Edit]:
    """Return the page numbers, heads and feet of a document whose format has no pages.

    Where a sentence goes on over the page, the edit takes the blank lines with it, so that no
    paragraph ends there.
    """
    if document.pages:
        return []
    text, titles = document.text, {heading.start for heading in document.headings}
    matches = (match for match in _LINE.finditer(text) if not match[0].isspace())
    lines = [_read(match, match.start() in titles) for match in matches]
    taken = set[int]()
    for run in _count_pages(lines, text):
        taken.update(run, _find_beside(lines, run))
    return [_edit(text, lines, first, last) for first, last in _ranges(sorted(taken))]


def _read(match: re.Match[str], is_title: bool) -> _Line:
    """Return a line; a title is neither a number nor beside one, but ends what is."""
    line = match[0]
    if is_title or len(line) > _LONGEST:
        return _Line(*match.span(), "", None)
    number = _NUMBER.fullmatch(line)
    form = " ".join(_DIGITS.sub("#", line).split())
    return _Line(*match.span(), form, int(number["alone"] or number["named"]) if number else None)


def _count_pages(lines: Sequence[_Line], text: str) -> Iterator[list[int]]:
    """Yield the places of page numbers that count on from one to the next."""
    of_form = defaultdict[str, list[int]](list)
    for place, line in enumerate(lines):
        if line.number is not None and _is_apart(lines, text, place):
            of_form[line.form].append(place)
    for places in of_form.values():
        runs: list[list[int]] = []
        #: Its last number -> the run that waits for the next one.
        waiting: dict[int, list[int]] = {}
        for place in places:
            number = lines[place].number or 0
            last = next((n for n in range(number - 1, number - 3, -1) if n in waiting), None)
            run = [] if last is None else waiting.pop(last)
            if last is None:
                runs.append(run)
            run.append(place)
            waiting[number] = run
        yield from (run for run in runs if len(run) >= _LEAST_PAGES and _are_far(lines, run))


def _is_apart(lines: Sequence[_Line], text: str, place: int) -> bool:
    """Tell whether a blank line, a page's end or an end of the text is beside a line."""
    if place in (0, len(lines) - 1):
        return True
    above = text[lines[place - 1].end : lines[place].start]
    below = text[lines[place].end : lines[place + 1].start]
    return any("\f" in gap or gap.count("\n") > 1 for gap in (above, below))


def _are_far(lines: Sequence[_Line], run: Sequence[int]) -> bool:
    starts = [lines[place].start for place in run]
    return median_low(after - before for before, after in pairwise(starts)) >= _PAGE


def _find_beside(lines: Sequence[_Line], run: Sequence[int]) -> Iterator[int]:
    """Yield the places of lines that most pages of a run have beside their number."""
    for step in (-1, 1):
        beside = list(run)
        for _ in range(_BESIDE):
            beside = [
                place + step
                for place in beside
                if 0 <= place + step < len(lines) and lines[place + step].form
            ]
            counts = Counter(lines[place].form for place in beside)
            least = max(_LEAST_PAGES, len(run) / 2)
            beside = [place for place in beside if counts[lines[place].form] >= least]
            yield from beside


def _ranges(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last of every row of neighbouring places."""
    for _, row in groupby(enumerate(places), lambda entry: entry[1] - entry[0]):
        members = [place for _, place in row]
        yield members[0], members[-1]


def _edit(text: str, lines: Sequence[_Line], first: int, last: int) -> Edit:
    start, end = lines[first].start, lines[last].end
    if first and last + 1 < len(lines):
        before, after = lines[first - 1], lines[last + 1]
        leading = text[before.start : before.end]
        following = text[after.start : after.end].lstrip()
        if _GOES_ON.search(leading) or (following[0].islower() and not _ENDS.search(leading)):
            start, end = before.end, after.end - len(following) - 1
    return Edit(start, end, RUNNING_HEAD)
