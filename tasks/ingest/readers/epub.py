"""EPUB books: the chapters in the order of the book's spine."""

from __future__ import annotations

import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag

from tasks.ingest.readers import html
from tasks.ingest.readers.document import (
    Builder,
    ReaderItem,
    ReadOptions,
    Reject,
    Unreadable,
    spare,
)
from tasks.ingest.readers.office import open_package, parse_xml, refuse_long


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the book as one document, and a reject for each chapter that cannot be read.

    Raises :class:`Unreadable` where none can.
    """
    builder = Builder()
    rejects: list[Reject] = []
    with open_package(path, options, "EPUB") as archive:
        chapters = list(dict.fromkeys(_chapters(archive)))  # a spine may name one many times
        _refuse_locked(archive, chapters)
        there = frozenset(archive.namelist())
        for name in chapters:
            with spare(rejects, f"!{name}"):
                if name not in there:
                    raise Unreadable("damaged", "the book names this chapter, it has none")
                html.build(html.decode_page(archive.read(name))[0], builder, whole=True)
            refuse_long(builder, options)
    if rejects and len(rejects) == len(chapters):
        raise Unreadable(rejects[0].reason, f"no chapter can be read: {rejects[0].detail}")
    yield from rejects
    yield builder.document("epub")


def _chapters(archive: zipfile.ZipFile) -> Iterator[str]:
    """Yield the names of the spine's chapters, as they are in the file where they are there; of one
    that the book does not list the id, which no part has.
    """
    roots = parse_xml(archive.read("META-INF/container.xml")).xpath(
        "//*[local-name()='rootfile']/@full-path"
    )
    if not roots:
        raise ValueError("container.xml names no book")
    names = _Names(archive)
    root = names.find(roots[0])
    package = parse_xml(archive.read(root))
    items = package.xpath("//*[local-name()='item']")
    listed = {item.get("id") for item in items}
    pages = {
        item.get("id"): item.get("href")
        for item in items
        if "html" in (item.get("media-type") or "")
    }
    for reference in package.xpath("//*[local-name()='itemref']/@idref"):
        if pages.get(reference):
            href = unquote(urldefrag(pages[reference]).url)
            yield names.find(posixpath.normpath(posixpath.join(posixpath.dirname(root), href)))
        elif reference not in listed:
            yield reference


class _Names:
    """Finds the parts of a book, whose names are often written in another case."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._names = frozenset(archive.namelist())
        self._cases = Counter(map(str.casefold, self._names))
        self._by_case = {name.casefold(): name for name in self._names}

    def find(self, name: str) -> str:
        """Return the part of this name; else the only one that differs in case; else ``name``."""
        if name in self._names or self._cases[name.casefold()] != 1:
            return name
        return self._by_case[name.casefold()]


def _refuse_locked(archive: zipfile.ZipFile, chapters: list[str]) -> None:
    # Free books often scramble their fonts; only digital rights management locks chapters.
    if "META-INF/encryption.xml" in archive.namelist():
        locked = parse_xml(archive.read("META-INF/encryption.xml")).xpath(
            "//*[local-name()='CipherReference']/@URI"
        )
        if set(locked) & set(chapters):
            raise Unreadable("encrypted", "digital rights management locks its chapters")
