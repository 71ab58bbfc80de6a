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

from tasks.ingest.readers.document import Builder, ReaderItem, ReadOptions, Unreadable
from tasks.ingest.readers.office import W, refuse_bomb, table_lines, text_of

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


def _count_left_out(document: Any) -> dict[str, int]:
    """Return how much is left out, by kind: deletions, comments, footnotes and endnotes, headers
    and footers with text.
    """
    body = document.element.body
    deleted = sum(any(True for _ in cut.iter(f"{W}delText")) for cut in body.iter(f"{W}del"))
    comments = sum(1 for _ in body.iter(f"{W}commentReference"))
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
        if element.tag == f"{W}p":
            style = element.find(f"{W}pPr/{W}pStyle")
            level = styles.get(style.get(f"{W}val"), 0) if style is not None else 0
            if level:
                builder.heading(level, text_of(element))
            else:
                builder.paragraph(text_of(element))
        elif element.tag == f"{W}tbl":
            builder.paragraph("\n".join(table_lines(element, W)))
        elif element.tag in (f"{W}sdt", f"{W}sdtContent", f"{W}ins", f"{W}customXml"):
            _add(element, styles, builder)
