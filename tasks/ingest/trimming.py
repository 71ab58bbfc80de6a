"""Takes out of a document what is not its prose, and joins a clause's number to the clause.

:mod:`tasks.ingest.apparatus` finds it. Nothing is lost: every piece is a reject with its place.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace

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
    move = _Mover(edits)
    # A number on a line before a heading is the heading's.
    numbers = {
        edit.end: document.text.rfind("\n", 0, edit.start) + 1
        for edit in edits
        if edit.kind == CLAUSE
    }
    headings = tuple(
        replace(
            heading,
            start=start,
            end=end,
            title=" ".join(text[start:end].split())
            if heading.start in numbers or move.touches(heading)
            else heading.title,
        )
        for heading in document.headings
        if (start := move(numbers.get(heading.start, heading.start))) < (end := move(heading.end))
    )
    pages = tuple(move(page) for page in document.pages)
    return replace(document, text=text, headings=headings, pages=pages, marks=()), edits


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
    """Where the characters of a trimmed text are in the document."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._places: list[int] = []
        self._shifts: list[int] = [0]
        for edit in edits:
            self._places.append(edit.start - self._shifts[-1] + len(edit.instead))
            self._shifts.append(self._shifts[-1] + edit.end - edit.start - len(edit.instead))

    def of(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return (offset in the trimmed text, what to add for the offset in the document) for a
        passage ``start:end`` of the trimmed text: that of its start, and every change inside.
        """
        first, last = bisect_right(self._places, start), bisect_left(self._places, end)
        inside = zip(self._places[first:last], self._shifts[first + 1 : last + 1], strict=True)
        return [(start, self._shifts[first]), *inside]


def original(places: Sequence[Sequence[int]], offset: int) -> int:
    """Return the offset in the document of a character of the trimmed text."""
    if not places:
        return offset
    place = bisect_right(places, offset, key=lambda entry: entry[0]) - 1
    return offset + places[max(place, 0)][1]


class _Mover:
    """Offsets of the document's text -> offsets of the trimmed text."""

    def __init__(self, edits: list[Edit]) -> None:
        self._edits = edits
        self._starts = [edit.start for edit in edits]
        self._lengths = [0]
        for edit in edits:
            self._lengths.append(self._lengths[-1] + edit.end - edit.start - len(edit.instead))

    def __call__(self, offset: int) -> int:
        place = bisect_right(self._starts, offset)
        if place and offset < self._edits[place - 1].end:
            # Inside a piece: where it was.
            edit = self._edits[place - 1]
            return edit.start - self._lengths[place - 1]
        return offset - self._lengths[place]

    def touches(self, heading: Heading) -> bool:
        """Tell whether an edit is in the heading."""
        return bisect_right(self._starts, heading.start - 1) < bisect_right(
            self._starts, heading.end - 1
        )


def _free(edits: Sequence[Edit], taken: list[tuple[int, int]]) -> list[Edit]:
    spans = Spans(taken)
    return [edit for edit in edits if edit.start not in spans and edit.end - 1 not in spans]


def _code(document: Document) -> Iterator[tuple[int, int]]:
    if document.format in ("markdown", "notebook"):
        for match in _CODE.finditer(document.text):
            yield match.span()
