"""Takes out of a document what is not its prose, and joins a clause's number to the clause.

:mod:`tasks.ingest.apparatus` finds it. Nothing is lost: every piece is a reject with its place.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from tasks.ingest.apparatus import (
    AUTHOR,
    CITATION,
    CLAUSE,
    REFERENCES,
    Edit,
    Spans,
    find_authors,
    find_citations,
    find_clauses,
    find_references,
)
from tasks.ingest.readers.document import Document, Heading
from tasks.ingest.readers.markdown import FENCED
from tasks.ingest.running_heads import RUNNING_HEAD, find_running_heads

_CODE = re.compile(rf"{FENCED}|`[^`\n]+`", re.MULTILINE)


def trim(document: Document, kinds: Sequence[str]) -> tuple[Document, list[Edit]]:
    """Return ``document`` without the pieces of ``kinds``, and what was done to its text."""
    edits = find_edits(document, kinds)
    if not edits:
        return document, []
    parts, position = [], 0
    for edit in edits:
        parts += [document.text[position : edit.start], edit.instead]
        position = edit.end
    text = "".join([*parts, document.text[position:]])
    shifts = Shifts(edits)
    headings = tuple(_move_headings(document, text, edits, shifts))
    pages = tuple(map(shifts.move, document.pages))
    return replace(document, text=text, headings=headings, pages=pages, marks=()), edits


def _move_headings(
    document: Document, text: str, edits: Sequence[Edit], shifts: Shifts
) -> Iterator[Heading]:
    """Yield the headings at their places in the trimmed ``text``, those that are left."""
    # A number on a line before a heading is the heading's.
    numbers = {
        edit.end: document.text.rfind("\n", 0, edit.start) + 1
        for edit in edits
        if edit.kind == CLAUSE
    }
    for heading in document.headings:
        start = shifts.move(numbers.get(heading.start, heading.start))
        end = shifts.move(heading.end)
        is_changed = heading.start in numbers or shifts.touch(heading)
        title = " ".join(text[start:end].split()) if is_changed else heading.title
        if start < end:
            yield replace(heading, start=start, end=end, title=title)


def find_edits(document: Document, kinds: Sequence[str]) -> list[Edit]:
    """Return what :func:`trim` does, in order and without overlaps."""
    text, taken = document.text, [*_code(document)]
    marks = (mark for mark in document.marks if mark[2] in kinds and mark[0] < mark[1])
    found = _free([Edit(*mark) for mark in marks], taken)
    if REFERENCES in kinds:
        found += find_references(document)
    if RUNNING_HEAD in kinds:
        found += _free(find_running_heads(document), taken)
    taken += [(edit.start, edit.end) for edit in found]
    if CITATION in kinds:
        found += _free(find_citations(text, Spans(taken)), taken)
    if AUTHOR in kinds:
        found += _free(find_authors(text), taken)
    if CLAUSE in kinds:
        found += _free(find_clauses(document), taken)
    ordered: list[Edit] = []
    for edit in sorted(found, key=lambda edit: (edit.start, -edit.end)):
        if not ordered or edit.start >= ordered[-1].end:
            ordered.append(edit)
    return ordered


class Shifts:
    """Where the characters of a trimmed text are in the document, and the other way round."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._edits = edits
        self._starts = [edit.start for edit in edits]
        #: Characters that the edits so far take out: before the first edit, then behind each.
        removed = (edit.end - edit.start - len(edit.instead) for edit in edits)
        self._shifts = [*accumulate(removed, initial=0)]
        #: The end of each edit in the trimmed text.
        self._places = [
            edit.end - shift for edit, shift in zip(edits, self._shifts[1:], strict=True)
        ]

    def of(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return (offset in the trimmed text, what to add for the offset in the document) for a
        passage ``start:end`` of the trimmed text: that of its start, and every change inside.
        """
        first, last = bisect_right(self._places, start), bisect_left(self._places, end)
        inside = zip(self._places[first:last], self._shifts[first + 1 : last + 1], strict=True)
        return [(start, self._shifts[first]), *inside]

    def move(self, offset: int) -> int:
        """Return the offset in the trimmed text of a character of the document; of one that was
        taken out where it was.
        """
        place = bisect_right(self._starts, offset)
        if place and offset < self._edits[place - 1].end:
            return self._starts[place - 1] - self._shifts[place - 1]
        return offset - self._shifts[place]

    def touch(self, heading: Heading) -> bool:
        """Tell whether an edit begins in the heading."""
        return bisect_left(self._starts, heading.start) < bisect_left(self._starts, heading.end)


def original(places: Sequence[Sequence[int]], offset: int) -> int:
    """Return the offset in the document of a character of the trimmed text."""
    if not places:
        return offset
    place = bisect_right(places, offset, key=lambda entry: entry[0]) - 1
    return offset + places[max(place, 0)][1]


def _free(edits: Sequence[Edit], taken: list[tuple[int, int]]) -> list[Edit]:
    spans = Spans(taken)
    return [edit for edit in edits if edit.start not in spans and edit.end - 1 not in spans]


def _code(document: Document) -> Iterator[tuple[int, int]]:
    if document.format in ("markdown", "notebook"):
        for match in _CODE.finditer(document.text):
            yield match.span()
