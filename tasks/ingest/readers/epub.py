"""EPUB books: the chapters in the order of the book's spine."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from tasks.ingest.readers import html
from tasks.ingest.readers.document import Builder, ReaderItem, ReadOptions, Unreadable
from tasks.ingest.readers.office import open_package, parse_xml, refuse_long


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the book as one document."""
    builder = Builder()
    with open_package(path, options, "EPUB") as archive:
        chapters = list(dict.fromkeys(_chapters(archive)))  # a spine may name one many times
        _refuse_locked(archive, chapters)
        for name in chapters:
            html.build(html.decode_page(archive.read(name))[0], builder, whole=True)
            refuse_long(builder, options)
    yield builder.document("epub")


def _chapters(archive: zipfile.ZipFile) -> Iterator[str]:
    roots = parse_xml(archive.read("META-INF/container.xml")).xpath(
        "//*[local-name()='rootfile']/@full-path"
    )
    if not roots:
        raise ValueError("container.xml names no book")
    package = parse_xml(archive.read(roots[0]))
    pages = {
        item.get("id"): item.get("href")
        for item in package.xpath("//*[local-name()='item']")
        if "html" in (item.get("media-type") or "")
    }
    for reference in package.xpath("//*[local-name()='itemref']/@idref"):
        if pages.get(reference):
            yield posixpath.normpath(
                posixpath.join(posixpath.dirname(roots[0]), unquote(pages[reference]))
            )


def _refuse_locked(archive: zipfile.ZipFile, chapters: list[str]) -> None:
    # Free books often scramble their fonts; only digital rights management locks chapters.
    if "META-INF/encryption.xml" in archive.namelist():
        locked = parse_xml(archive.read("META-INF/encryption.xml")).xpath(
            "//*[local-name()='CipherReference']/@URI"
        )
        if set(locked) & set(chapters):
            raise Unreadable("encrypted", "digital rights management locks its chapters")
