"""Word documents through python-docx: paragraphs, headings and tables in reading order, without
deleted text, comments, footnotes and endnotes, headers and footers. Text that was moved is read
where it is now.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.ingest.readers.decoding import tidy
from tasks.ingest.readers.document import Builder, ReaderItem, ReadOptions, Unreadable

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_TEXT = {f"{_W}t", f"{_M}t"}
#: How the parts of a formula are written in a line.
_MATHS = {f"{_M}num": "", f"{_M}den": "/", f"{_M}sup": "^", f"{_M}sub": "_", f"{_M}rad": "\u221a"}
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
#: Not the document's text, or no longer here.
_SKIPPED = {_FALLBACK, *(f"{_W}{name}" for name in ("del", "moveFrom", "pPr", "rPr", "instrText"))}
_BREAKS = {f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}tab": " ", f"{_W}noBreakHyphen": "-"}
_ONE_TERM = re.compile(r"[-\u2212]?[\w.\u2218\u00b0]*|\([^()]*\)")
_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the file as one document."""
    import docx

    refuse_bomb(path, options)
    try:
        file = docx.Document(str(path))
        body, styles = file.element.body, _heading_styles(file)
        left_out = _count_left_out(file)
    except (KeyError, ValueError, zipfile.BadZipFile, AttributeError, SyntaxError) as error:
        raise Unreadable("damaged", f"not readable as a Word document: {error}") from error
    builder = Builder()
    _add(body, styles, builder)
    builder.left_out.update(left_out)
    yield builder.document("docx")


def refuse_bomb(path: Path, options: ReadOptions) -> None:
    """Raise :class:`Unreadable` where a ZIP file cannot be opened, or declares that it unpacks to
    more than ``max_bytes``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError) as error:
        raise Unreadable("damaged", f"not a whole ZIP file: {error}") from error
    size = sum(entry.file_size for entry in entries)
    if size > options.max_bytes:
        raise Unreadable(
            "too_large", f"unpacks to {size >> 20} MiB, the most is {options.max_bytes >> 20}"
        )
    if any(entry.flag_bits & 1 for entry in entries):
        raise Unreadable("encrypted", "a password protects it")


def _count_left_out(document: Any) -> dict[str, int]:
    """Return how much is left out, by kind: deletions, comments, footnotes and endnotes, headers
    and footers with text.
    """
    body = document.element.body
    deleted = sum(any(True for _ in cut.iter(f"{_W}delText")) for cut in body.iter(f"{_W}del"))
    comments = sum(1 for _ in body.iter(f"{_W}commentReference"))
    # Where text was moved from, its notes are a second time.
    notes = body.xpath(
        "count(.//*[self::w:footnoteReference or self::w:endnoteReference]"
        "[not(ancestor::w:moveFrom or ancestor::w:del)])"
    )
    parts = {
        part.part.partname: "".join(paragraph.text for paragraph in part.paragraphs).strip()
        for section in document.sections
        for part in (section.header, section.footer)
        if not part.is_linked_to_previous
    }
    heads = sum(1 for text in parts.values() if text)
    return {
        "deleted_text": deleted,
        "comment": comments,
        "note": int(notes),
        "running_head": heads,
    }


def _heading_styles(document: Any) -> dict[str, int]:
    """Return the level of each style that is a heading, by style id."""
    levels = {}
    for style in document.styles:
        name = style.name or ""
        match = _HEADING.fullmatch(name)
        if match or name == "Title":
            levels[style.style_id] = int(match[1]) if match else 1
    return levels


def _add(parent: Any, styles: dict[str, int], builder: Builder) -> None:
    for element in parent:
        if element.tag == f"{_W}p":
            style = element.find(f"{_W}pPr/{_W}pStyle")
            level = styles.get(style.get(f"{_W}val"), 0) if style is not None else 0
            if level:
                builder.heading(level, _text(element))
            else:
                builder.paragraph(_text(element))
        elif element.tag == f"{_W}tbl":
            builder.paragraph("\n".join(_rows(element)))
        elif element.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml"):
            _add(element, styles, builder)


def _rows(table: Any) -> Iterator[str]:
    """Yield a table's rows as lines, cells divided by " | ", tables inside a cell in its line."""
    for row in table.iter(f"{_W}tr"):
        cells = (
            " ".join(" ".join(_text(paragraph) for paragraph in cell.iter(f"{_W}p")).split())
            for cell in row.findall(f"{_W}tc")
        )
        line = " | ".join(cell for cell in cells if cell)
        if line:
            yield line


def _text(element: Any) -> str:
    """Return an element's text.

    Deleted text has its own tag; moved text is in both places; a fallback repeats the text of its
    shape.
    """
    parts: list[str] = []
    for child in element:
        if child.tag in _TEXT:
            parts.append(child.text or "")
        elif child.tag in _BREAKS:
            parts.append(_BREAKS[child.tag])
        elif child.tag in _MATHS:
            inner, sign = _text(child), _MATHS[child.tag]
            # More than one number or name needs brackets to stay together.
            if inner and not _ONE_TERM.fullmatch(inner):
                inner = f"({inner})"
            parts.append(sign + inner if inner else "")
        elif child.tag not in _SKIPPED:
            parts.append(_text(child))
    # U+2061, between a function and its argument, is invisible.
    return tidy("".join(parts).replace("\u2061", " "))
