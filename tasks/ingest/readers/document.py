"""What a reader gives: the extracted text of one document, where its headings and pages are, or the
reason why there is none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class Unreadable(Exception):
    """A file, or a part of one, that cannot be used.

    ``reason`` is a short name to count by, ``detail`` says what was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Heading:
    """A heading at ``text[start:end]``.

    It names the section below it and is not itself part of a passage's beginning.
    """

    start: int
    end: int
    level: int
    title: str


@dataclass(frozen=True)
class Document:
    """One document's extracted text. All offsets are characters of ``text``."""

    text: str
    format: str
    #: Place inside the file: ``""`` the whole file, ``"#17"`` row 17 of a table, ``"!a/b.txt"`` a
    #: member of an archive.
    member: str = ""
    headings: tuple[Heading, ...] = ()
    #: Where each page starts; empty where the format has no pages.
    pages: tuple[int, ...] = ()
    #: Encoding the text was decoded from; empty where the format fixes it.
    encoding: str = ""

    def page(self, offset: int) -> int:
        """Return the number of the page that holds ``offset``, from 1; 0 where there are no
        pages.
        """
        return bisect_right(self.pages, offset)


@dataclass(frozen=True)
class Reject:
    """A part of a file (a row, a member of an archive) that could not be used while the rest
    could.
    """

    member: str
    reason: str
    detail: str


@dataclass(frozen=True)
class ReadOptions:
    """What readers need to know."""

    #: Column that holds the text in tables; a dotted path reaches into nested objects. Empty:
    #: "text", and CSV files without it are read whole.
    text_column: str = ""
    #: Largest file, row or unpacked archive member, in bytes.
    max_bytes: int = 256 << 20
    #: Archives inside archives, and messages inside messages, are followed so far.
    max_depth: int = 3
    #: Members of one archive.
    max_members: int = 100_000
    #: Languages, in tesseract's names ("eng+deu"), that pages without text are recognised in;
    #: empty: they are not.
    ocr: str = ""


@dataclass(frozen=True)
class Alive:
    """A reader's sign that it is still at work on something long: the clock runs anew, and nothing
    is counted.
    """

    member: str = ""


#: What a reader yields.
ReaderItem = Document | Reject | Alive


class Reader(Protocol):
    """Every format's entry point: ``read(path, options)`` yields documents and rejects, or raises
    :class:`Unreadable`.
    """

    def __call__(self, path: Path, options: ReadOptions) -> Iterator[ReaderItem]: ...


@dataclass
class Builder:
    """Puts a document together from blocks, with a blank line (or another ``separator``) between
    them.
    """

    parts: list[str] = field(default_factory=list)
    headings: list[Heading] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    length: int = 0
    separator: str = "\n\n"

    def paragraph(self, text: str) -> None:
        """Add a block of text; blank ones are left out."""
        text = text.strip()
        if text:
            self.parts.append(text + self.separator)
            self.length += len(text) + len(self.separator)

    def heading(self, level: int, text: str) -> None:
        """Add a heading, 1 the highest."""
        title = " ".join(text.split())
        if title:
            self.headings.append(Heading(self.length, self.length + len(title), level, title))
            self.paragraph(title)

    def page(self) -> None:
        """Start a page."""
        self.pages.append(self.length)

    def document(self, format: str, encoding: str = "", member: str = "") -> Document:
        """Return what was put together."""
        return Document(
            "".join(self.parts),
            format,
            member,
            headings=tuple(self.headings),
            pages=tuple(self.pages),
            encoding=encoding,
        )
