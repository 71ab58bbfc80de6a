"""OpenDocument texts: paragraphs, headings, lists and tables in reading order, notes after their
paragraph; without deleted text, comments, headers, footers and tables of contents.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.ingest.readers.decoding import tidy
from tasks.ingest.readers.document import (
    Builder,
    ReaderItem,
    ReadOptions,
    Reject,
    Unreadable,
    spare,
)
from tasks.ingest.readers.office import open_package, parse_part

_SPACE = "{{urn:oasis:names:tc:opendocument:xmlns:{}:1.0}}"
_OFFICE, _TEXT, _TABLE = _SPACE.format("office"), _SPACE.format("text"), _SPACE.format("table")
_STYLE, _DRAW = _SPACE.format("style"), _SPACE.format("drawing")
_MANIFEST = _SPACE.format("manifest")
_PARAGRAPHS = (f"{_TEXT}p", f"{_TEXT}h")
_CONTAINERS = {
    f"{_TEXT}{name}"
    for name in (
        "list",
        "list-header",
        "list-item",
        "section",
        "numbered-paragraph",
        "bibliography",
        "index-body",
        "index-title",
        "note-body",
    )
}
#: What is left out, and what it is called where it is counted.
_LEFT_OUT = {
    f"{_OFFICE}annotation": "comment",
    f"{_DRAW}object": "object",
    f"{_DRAW}object-ole": "object",
    **{
        f"{_TEXT}{name}": "contents"
        for name in (
            "table-of-content",
            "alphabetical-index",
            "illustration-index",
            "table-index",
            "object-index",
            "user-index",
        )
    },
}
_ROW_GROUPS = [f"{_TABLE}{name}" for name in ("table-header-rows", "table-rows", "table-row-group")]
_BREAK = "\u2028"
_BREAKS = {f"{_TEXT}s": " ", f"{_TEXT}tab": " ", f"{_TEXT}line-break": _BREAK}
_UNREAD = (f"{_TEXT}ruby-text", f"{_TEXT}script", f"{_TEXT}hidden-text")
#: In the source any white space is one space.
_WHITE_SPACE = re.compile(r"[ \t\r\n]+")


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the file as one document, and a reject for each part beside the text that is broken."""
    rejects: list[Reject] = []
    with open_package(path, options, "an OpenDocument text") as archive:
        _refuse_encrypted(archive, rejects)
        root = parse_part(archive, "content.xml")
        body = root.find(f"{_OFFICE}body/{_OFFICE}text")
        if body is None:
            raise ValueError("content.xml holds no text document")
        text = _Text(_title_styles(root))
        with spare(rejects, "!styles.xml"):
            text.builder.left_out["running_head"] = _count_heads(archive)
        text.add(body)
    yield from rejects
    yield text.builder.document("odt")


def _refuse_encrypted(archive: zipfile.ZipFile, rejects: list[Reject]) -> None:
    name = "META-INF/manifest.xml"
    is_encrypted = False
    if name in archive.namelist():
        with spare(rejects, f"!{name}"):
            entries = parse_part(archive, name).iter(f"{_MANIFEST}encryption-data")
            is_encrypted = any(True for _ in entries)
    if is_encrypted:
        raise Unreadable("encrypted", "a password protects it")


def _title_styles(root: Any) -> set[str]:
    """Return the styles of a document's title: that one, and what was made of it by hand."""
    styles = root.iter(f"{_STYLE}style")
    made = {
        s.get(f"{_STYLE}name") for s in styles if s.get(f"{_STYLE}parent-style-name") == "Title"
    }
    return made | {"Title"}


def _count_heads(archive: zipfile.ZipFile) -> int:
    """Return the number of headers and footers with text."""
    if "styles.xml" not in archive.namelist():
        return 0
    masters = parse_part(archive, "styles.xml").iter(f"{_STYLE}master-page")
    return sum(_has_text(head) for master in masters for head in master)


class _Text:
    """Adds the blocks of a text to ``builder``."""

    def __init__(self, titles: set[str]) -> None:
        self.builder = Builder()
        self._titles = titles

    def add(self, parent: Any) -> None:
        for element in parent:
            if element.tag in _PARAGRAPHS:
                self._add_paragraph(element)
            elif element.tag == f"{_TABLE}table":
                self.builder.paragraph("\n".join(self._rows(element)))
            elif element.tag == f"{_TEXT}tracked-changes":
                deleted = element.iter(f"{_TEXT}deletion")
                self.builder.left_out["deleted_text"] += sum(map(_has_text, deleted))
            elif element.tag == f"{_TEXT}section" and element.get(f"{_TEXT}display") == "none":
                self.builder.left_out["hidden_section"] += 1
            elif element.tag in _LEFT_OUT:
                self.builder.left_out[_LEFT_OUT[element.tag]] += 1
            elif element.tag in _CONTAINERS or str(element.tag).startswith(_DRAW):
                self.add(element)

    def _add_paragraph(self, element: Any) -> None:
        later: list[Any] = []
        text = tidy(_WHITE_SPACE.sub(" ", self._inline(element, later)).replace(_BREAK, "\n"))
        if element.tag == f"{_TEXT}h":
            level = element.get(f"{_TEXT}outline-level", "1")
            self.builder.heading(int(level) if level.isdecimal() else 1, text)
        elif element.get(f"{_TEXT}style-name") in self._titles:
            self.builder.heading(1, text)
        else:
            self.builder.paragraph(text)
        for block in later:
            if block.tag == f"{_TEXT}note":
                self._add_note(block)
            else:
                self.add([block])

    def _add_note(self, note: Any) -> None:
        number, body = note.findtext(f"{_TEXT}note-citation"), note.find(f"{_TEXT}note-body")
        text = self._in_one_line(body) if body is not None else ""
        self.builder.paragraph(f"Note {(number or '').strip()}: {text}" if text else "")

    def _rows(self, table: Any) -> Iterator[str]:
        """Yield a table's rows as lines, cells divided by " | ", all that a cell holds in its line.

        The file's counts of repeated rows are not trusted.
        """
        for element in table:
            if element.tag == f"{_TABLE}table-row":
                cells = map(self._in_one_line, element.iterfind(f"{_TABLE}table-cell"))
                line = " | ".join(cell for cell in cells if cell)
                if line:
                    yield line
            elif element.tag in _ROW_GROUPS:
                yield from self._rows(element)

    def _in_one_line(self, parent: Any) -> str:
        inner = _Text(self._titles)
        inner.add(parent)
        self.builder.left_out.update(inner.builder.left_out)
        return " ".join(" ".join(inner.builder.parts).split())

    def _inline(self, element: Any, later: list[Any]) -> str:
        """Return the text of a paragraph in one piece; notes and boxes in it go to ``later``."""
        parts = [element.text or ""]
        for child in element:
            tag = child.tag
            if tag in _BREAKS:
                parts.append(_BREAKS[tag])
            elif tag in _LEFT_OUT:
                self.builder.left_out[_LEFT_OUT[tag]] += 1
            elif tag == f"{_TEXT}note" or str(tag).startswith(_DRAW):
                # A link has the prefix of drawings only around pictures.
                later.append(child)
            elif tag not in _UNREAD and isinstance(tag, str):
                parts.append(self._inline(child, later))
            parts.append(child.tail or "")
        return "".join(parts)


def _has_text(element: Any) -> bool:
    return any(
        "".join(paragraph.itertext()).strip()
        for tag in _PARAGRAPHS
        for paragraph in element.iter(tag)
    )
