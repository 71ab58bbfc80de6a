"""Word documents: paragraphs, headings and tables in reading order, without deleted text, comments,
footnotes and endnotes, headers and footers. Text that was moved is read where it is now.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.ingest.readers.document import Builder, ReaderItem, ReadOptions, Reject, spare
from tasks.ingest.readers.office import (
    R,
    Relation,
    W,
    find_main_part,
    open_package,
    parse_part,
    read_relations,
    table_lines,
    text_of,
)

_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
#: The levels of the headings' styles in a file that does not say which styles it has.
_USUAL_STYLES = {"Title": 1, **{f"Heading{level}": level for level in range(1, 10)}}


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the file as one document, and a reject for each part beside the text that is broken."""
    builder = Builder()
    rejects: list[Reject] = []
    with open_package(path, options, "a Word document") as archive:
        main = find_main_part(archive)
        body = parse_part(archive, main).find(f"{W}body")
        if body is None:
            raise ValueError(f"{main} is no Word document")
        relations: dict[str, Relation] = {}
        with spare(rejects, f"!{main} relations"):
            relations = read_relations(archive, main)
        styles = _USUAL_STYLES
        for relation in relations.values():
            if relation.kind == "styles":
                with spare(rejects, f"!{relation.target}"):
                    styles = _heading_styles(parse_part(archive, relation.target))
        _add(body, styles, builder)
        builder.left_out.update(_count_left_out(body))
        builder.left_out["running_head"] += _count_heads(archive, body, relations, rejects)
    yield from rejects
    yield builder.document("docx")


def _count_left_out(body: Any) -> dict[str, int]:
    """Return how much is left out, by kind: deletions, comments, footnotes and endnotes."""
    deleted = sum(any(True for _ in cut.iter(f"{W}delText")) for cut in body.iter(f"{W}del"))
    comments = sum(1 for _ in body.iter(f"{W}commentReference"))
    # Where text was moved from, its notes are a second time.
    notes = body.xpath(
        "count(.//*[self::w:footnoteReference or self::w:endnoteReference]"
        "[not(ancestor::w:moveFrom or ancestor::w:del)])",
        namespaces={"w": W.strip("{}")},
    )
    return {"deleted_text": deleted, "comment": comments, "note": int(notes)}


def _count_heads(
    archive: zipfile.ZipFile,
    body: Any,
    relations: dict[str, Relation],
    rejects: list[Reject],
) -> int:
    """Return the number of headers and footers with text; a broken one is a reject."""
    names = {
        relations[reference.get(f"{R}id")].target
        for reference in body.iter(f"{W}headerReference", f"{W}footerReference")
        if reference.get(f"{W}type") == "default" and reference.get(f"{R}id") in relations
    }
    heads = 0
    for name in sorted(names):
        with spare(rejects, f"!{name}"):
            paragraphs = parse_part(archive, name).iterfind(f"{W}p")
            heads += any(text_of(paragraph).strip() for paragraph in paragraphs)
    return heads


def _heading_styles(root: Any) -> dict[str, int]:
    """Return the level of each style that is a heading, by style id."""
    levels = {}
    for style in root.iterfind(f"{W}style"):
        name = style.find(f"{W}name")
        text = name.get(f"{W}val", "") if name is not None else ""
        match = _HEADING.fullmatch(text)
        if match or text == "Title":
            levels[style.get(f"{W}styleId", "")] = int(match[1]) if match else 1
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
