"""What readers yield: documents with text, headings and pages, or the reason why there is none."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol


class Unreadable(Exception):
    """A file, or a part of one, that cannot be read.

    ``reason`` is a key of :data:`tasks.ingest.reasons.REASONS`, ``detail`` describes the fault.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = printable(detail)


def printable(text: str) -> str:
    """Return valid Unicode: names inside archives and keys of JSON may hold half characters."""
    return text.encode(errors="backslashreplace").decode()


def explain(error: Exception) -> Unreadable:
    """Return what any error of a parser says about the file, or part of one, that it read.

    An error of the system (a full disk, a file that is gone) is ``unreadable``: the file may be
    whole, and the next run tries again.
    """
    if isinstance(error, Unreadable):
        return error
    if isinstance(error, RecursionError):
        return Unreadable("nested_too_deep", "elements inside elements inside elements ...")
    transient = isinstance(error, OSError) and error.errno is not None
    return Unreadable(
        "unreadable" if transient else "damaged", f"{type(error).__name__}: {error}"[:500]
    )


@dataclass(frozen=True)
class Heading:
    """A heading at ``text[start:end]``: it names a section, and no passage starts with it."""

    start: int
    end: int
    level: int
    title: str


@dataclass(frozen=True)
class Document:
    """One document's extracted text. All offsets are characters of ``text``."""

    text: str
    format: str
    #: Place in the file: ``""`` the whole file, ``"#17"`` row 17 of a table, ``"!a/b.txt"`` a
    #: member of an archive.
    member: str = ""
    headings: tuple[Heading, ...] = ()
    #: Where each page starts; empty where the format has no pages.
    pages: tuple[int, ...] = ()
    #: Encoding the text was decoded from; empty where the format fixes it.
    encoding: str = ""
    #: (start, end, kind) of parts that the format itself marks as no prose, such as an infobox.
    marks: tuple[tuple[int, int, str], ...] = ()
    #: (kind, pieces) that the reader left out: navigation, running heads, deleted text.
    left_out: tuple[tuple[str, int], ...] = ()
    #: Clause numbers that the reader put before their clause.
    joined: int = 0

    def page(self, offset: int) -> int:
        """Return the number of the page with ``offset``, from 1; 0 where there are no pages."""
        return bisect_right(self.pages, offset)


@dataclass(frozen=True)
class Reject:
    """A part of a file (a row, a member of an archive) that cannot be read, unlike the rest."""

    member: str
    reason: str
    detail: str


@contextmanager
def spare(rejects: list[Reject], member: str) -> Iterator[None]:
    """Turn what a parser raises in the block into a reject of ``member``, and go on: a broken part
    does not cost the rest of the file.
    """
    try:
        yield
    except MemoryError:  # the pool says so, and reads on without the part
        raise
    except Exception as error:  # noqa: BLE001  a parser may raise anything
        problem = explain(error)
        rejects.append(Reject(member, problem.reason, problem.detail))


@dataclass
class Budget:
    """What may still be unpacked of one file of the corpus, at all depths together.

    Without it a zip of zips of zips has a budget of its own in each: 54 KB hold 9 GB.
    """

    size: int
    members: int

    @classmethod
    def whole(cls, max_bytes: int, max_members: int) -> Budget:
        """Return the budget of a file of the corpus: four times what one member may take."""
        return cls(4 * max_bytes, 4 * max_members)

    def spend(self, size: int) -> None:
        """Take bytes of unpacked content; raise :class:`Unreadable` where they are too many."""
        self.size -= size
        if self.size < 0:
            raise Unreadable("too_large", "the archive, with all in it, unpacks to too much")

    @contextmanager
    def share(self, size: int, members: int) -> Iterator[Budget]:
        """Lend at most so much to a member; what it leaves comes back."""
        lent = Budget(min(size, max(self.size, 0)), min(members, max(self.members, 0)))
        share = replace(lent)
        try:
            yield share
        finally:
            self.size -= lent.size - share.size
            self.members -= lent.members - share.members

    def begin_member(self) -> None:
        """Take one member; raise :class:`Unreadable` where they are too many."""
        self.members -= 1
        if self.members < 0:
            raise Unreadable("too_large", "too many members, with those of archives inside")


@dataclass(frozen=True)
class ReadOptions:
    """Settings of the readers."""

    #: Column that holds the text in tables; a dotted path reaches into nested objects. Empty:
    #: "text", and CSV files without it are read whole.
    text_column: str = ""
    #: Largest file, row or unpacked archive member, in bytes.
    max_bytes: int = 256 << 20
    #: Most levels of archives inside archives and messages inside messages.
    max_depth: int = 3
    #: Most members of one archive, with those of all archives in one of its members.
    max_members: int = 100_000
    #: Languages, in tesseract's names ("eng+deu"), of the recognition of pages without text; empty:
    #: no recognition.
    ocr: str = ""
    #: So many members of an archive or attachments of a message are passed over: they have been
    #: read, and the last of them ended its process.
    skip: int = 0
    #: Mark infoboxes of web pages; put a clause's number beside its clause.
    infoboxes: bool = False
    clause_numbers: bool = False
    #: Shared by all that is nested in a file; None: the file is the corpus's own.
    budget: Budget | None = None


@dataclass(frozen=True)
class Alive:
    """A reader's sign during long work: it restarts the time limit, and is not counted."""

    member: str = ""


@dataclass(frozen=True)
class Begin:
    """An archive or message begins to read its member ``number``, from 1: if the process dies of
    it, only this member is lost.
    """

    member: str
    number: int


#: What a reader yields.
ReaderItem = Document | Reject | Alive | Begin


class Reader(Protocol):
    """A format's ``read(path, options)``: yields documents and rejects, or raises
    :class:`Unreadable`.
    """

    def __call__(self, path: Path, options: ReadOptions) -> Iterator[ReaderItem]: ...


@dataclass
class Builder:
    """Builds a document from blocks, with ``separator`` after each."""

    parts: list[str] = field(default_factory=list)
    headings: list[Heading] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    length: int = 0
    separator: str = "\n\n"
    marks: list[tuple[int, int, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def paragraph(self, text: str) -> None:
        """Add a block of text, unless it is blank."""
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

    def marked(self, text: str, kind: str) -> None:
        """Add a block of text that is no prose."""
        start = self.length
        self.paragraph(text)
        self.marks.append((start, self.length, kind))

    def page(self) -> None:
        """Start a page."""
        self.pages.append(self.length)

    def document(self, format: str, encoding: str = "", member: str = "") -> Document:
        """Return the document of all blocks so far."""
        return Document(
            "".join(self.parts),
            format,
            member,
            headings=tuple(self.headings),
            pages=tuple(self.pages),
            encoding=encoding,
            marks=tuple(self.marks),
            left_out=tuple(sorted((+self.left_out).items())),
        )
