"""Cuts a document into passages within a token budget, at headings, paragraphs and sentences.

The text is first split into atoms: sentences, or pieces of those that are too long for a passage.
Each way of joining neighbouring atoms into passages has a cost: half-empty and too short passages
cost, cutting inside a paragraph costs more than between two, and so does reaching across a main
heading. Dynamic programming finds the cheapest way, so passages are full, even, and cut at natural
places. It works in any script.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from tasks.ingest.readers.document import Document, Heading
from tasks.ingest.readers.markdown import find_fences
from tasks.ingest.sentences import (
    CODE,
    HEADING,
    LINE,
    PARAGRAPH,
    PIECE,
    SENTENCE,
    TITLE,
    find_units,
)

#: Counts the tokens of each text, without special tokens.
TokenCounter = Callable[[Sequence[str]], list[int]]

#: Offset and heading path of every heading, in order.
Sections = list[tuple[int, str]]

#: The cost of starting a passage behind each.
_CUT = {
    HEADING: 0.0,
    PARAGRAPH: 0.15,
    LINE: 0.5,
    TITLE: 0.6,
    SENTENCE: 1.0,
    CODE: 1.0,
    PIECE: 1.5,
}
#: A passage that reaches across a heading of level 1-2, or a lower one; that has fewer tokens than
#: the least.
_ACROSS_MAIN, _ACROSS_LOWER, _TOO_SHORT = 1.5, 0.1, 4.0
_MAIN_LEVEL = 2
#: Atoms that are counted and joined at a time: bounds memory and time on very long documents.
_WINDOW = 20_000
#: Sentences whose tokens are counted at a time.
_COUNTED = 1000


@dataclass(frozen=True)
class Passage:
    """``document.text[start:end] == text``; ``section`` is the heading path joined by " > "."""

    text: str
    start: int
    end: int
    tokens: int
    page: int
    section: str


@dataclass(frozen=True)
class _Atom:
    """A sentence or a piece of one; ``before`` is what it follows, ``across`` the cost of the
    headings between it and the one before.
    """

    start: int
    end: int
    before: str
    across: float


def cut(document: Document, count: TokenCounter, budget: int, least: int) -> Iterator[Passage]:
    """Yield the passages of ``document`` in order, each of at most ``budget`` tokens, and of fewer
    than ``least`` only where nothing can be joined.
    """
    cutter = _Cutter(document, heading_paths(document.headings), count, budget, least)
    atoms: list[_Atom] = []
    for atom in cutter.atoms():
        # A window ends only at a natural end of a passage.
        if len(atoms) >= _WINDOW and atom.before in (HEADING, PARAGRAPH):
            yield from cutter.join(atoms)
            atoms = []
        atoms.append(atom)
    yield from cutter.join(atoms)


@dataclass(frozen=True)
class _Cutter:
    document: Document
    sections: Sections
    count: TokenCounter
    budget: int
    least: int

    def atoms(self) -> Iterator[_Atom]:
        """Yield the atoms of the document in order."""
        text, position, across = self.document.text, 0, 0.0
        fences = find_fences(self.document)
        pending: list[_Atom] = []
        for heading in [*self.document.headings, Heading(len(text), len(text), 0, "")]:
            before = HEADING if across else PARAGRAPH
            for start, end, kind in find_units(text, position, heading.start, fences):
                pending.append(_Atom(start, end, before or kind, across))
                before, across = "", 0.0
            position = heading.end
            across = max(across, _ACROSS_MAIN if heading.level <= _MAIN_LEVEL else _ACROSS_LOWER)
            if len(pending) > _COUNTED or heading.level == 0:
                yield from self._divide_long(pending)
                pending = []

    def _divide_long(self, atoms: list[_Atom]) -> Iterator[_Atom]:
        """Yield atoms; in place of one that is longer than a passage its pieces."""
        texts = [self.document.text[atom.start : atom.end] for atom in atoms]
        for atom, text, tokens in zip(atoms, texts, self.count(texts), strict=True):
            if tokens <= self.budget:
                yield atom
                continue
            before, across = atom.before, atom.across
            for left, right in self._pieces(text):
                yield _Atom(atom.start + left, atom.start + right, before, across)
                before, across = PIECE, 0.0

    def _pieces(self, text: str) -> list[tuple[int, int]]:
        """Split a sentence that is too long between clauses, else words, else characters."""
        import semchunk

        chunker = semchunk.chunkerify(
            lambda part: self.count([part])[0], self.budget, memoize=False
        )
        offsets: list[tuple[int, int]] = chunker(text, offsets=True)[1]  # type: ignore[assignment]
        return [(start, end) for start, end in offsets if text[start:end].strip()]

    def join(self, atoms: list[_Atom]) -> Iterator[Passage]:
        """Yield the passages of neighbouring atoms."""
        text = self.document.text
        sizes = self.count([text[atom.start : atom.end] for atom in atoms])
        # Joining adds the text between two atoms: at least a space, at most a heading.
        gaps = self.count([text[left.end : right.start] for left, right in pairwise(atoms)])
        for first, last in self._cheapest(atoms, sizes, [0, *gaps]):
            yield from self._split_if_over(atoms[first : last + 1])

    def _cheapest(
        self, atoms: list[_Atom], sizes: list[int], gaps: list[int]
    ) -> list[tuple[int, int]]:
        """Return the cheapest joining of atoms as (first, last) of each passage."""
        across = [0.0, *accumulate(atom.across for atom in atoms)]
        total = [0, *accumulate(size + gap for size, gap in zip(sizes, gaps, strict=False))]
        best, origin = [0.0], [0]
        for last in range(len(atoms)):
            cheapest, choice = float("inf"), last
            for first in range(last, -1, -1):
                tokens = total[last + 1] - total[first] - gaps[first]
                if tokens > self.budget and first < last:
                    break
                price = (
                    best[first]
                    + (1 - min(tokens / self.budget, 1.0)) ** 2
                    + (_TOO_SHORT if tokens < self.least else 0.0)
                )
                price += (
                    (_CUT[atoms[first].before] if first else 0.0)
                    + across[last + 1]
                    - across[first + 1]
                )
                if price < cheapest:
                    cheapest, choice = price, first
            best.append(cheapest)
            origin.append(choice)
        spans, last = [], len(atoms) - 1
        while last >= 0:
            first = origin[last + 1]
            spans.append((first, last))
            last = first - 1
        return spans[::-1]

    def _split_if_over(self, atoms: list[_Atom]) -> Iterator[Passage]:
        """Count the tokens of the joined text; where it is over the budget, cut it once more.

        Joined text can have slightly more tokens than its parts.
        """
        start, end = atoms[0].start, atoms[-1].end
        text = self.document.text[start:end]
        (tokens,) = self.count([text])
        if tokens <= self.budget or len(atoms) == 1:
            page, section = self.document.page(start), _section(self.sections, start)
            yield Passage(text, start, end, tokens, page, section)
            return
        half = min(
            range(1, len(atoms)),
            key=lambda place: (_CUT[atoms[place].before], abs(place - len(atoms) / 2)),
        )
        yield from self._split_if_over(atoms[:half])
        yield from self._split_if_over(atoms[half:])


def find_places(
    document: Document, sections: Sections, start: int, end: int
) -> list[tuple[int, int, str]]:
    """Return (offset, page, section) of every place inside ``text[start:end]`` where another page
    or section begins.
    """
    pages = document.pages[bisect_right(document.pages, start) : bisect_left(document.pages, end)]
    first, last = (
        bisect_right(sections, start, key=_offset),
        bisect_left(sections, end, key=_offset),
    )
    edges = sorted({*pages, *(place for place, _ in sections[first:last])})
    return [(edge, document.page(edge), _section(sections, edge)) for edge in edges]


def _offset(section: tuple[int, str]) -> int:
    return section[0]


def heading_paths(headings: Sequence[Heading]) -> Sections:
    """Return (offset, heading path) for every heading, in order."""
    stack: list[Heading] = []
    paths = []
    for heading in headings:
        while stack and stack[-1].level >= heading.level:
            stack.pop()
        stack.append(heading)
        paths.append((heading.start, " > ".join(entry.title for entry in stack if entry.title)))
    return paths


def _section(sections: Sections, start: int) -> str:
    place = bisect_right(sections, start, key=_offset)
    return sections[place - 1][1] if place else ""
