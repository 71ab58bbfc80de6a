"""Makes Office files, books and archives for tests, and reads them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import openpyxl

STORY = "The pump was stopped at noon. Its bearing had run hot since Monday."


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)


_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


BOMB = f'<!DOCTYPE x [<!ENTITY l0 "ha">{_LAUGHS}]>'


def zipped(path: Path, members: Mapping[str, str | bytes]) -> Path:
    """Write a ZIP archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def parts_of(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def relations(*entries: tuple[str, str]) -> str:
    """Return the XML of relations r1, r2, ... of (kind, target)."""
    lines = (
        f'<Relationship Id="r{number}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(entries, 1)
    )
    return f"<Relationships>{''.join(lines)}</Relationships>"


# --- workbooks


def book(path: Path, **sheets: Sequence[Sequence[Any]]) -> Path:
    file = openpyxl.Workbook()
    file.remove(file.active)
    for title, rows in sheets.items():
        sheet = file.create_sheet(title)
        for row in rows:
            sheet.append(row)
    file.save(path)
    return path


def sheet_xml(path: Path, rows: str, head: str = "", strings: str = "") -> Path:
    """Write a workbook whose one sheet has these rows, in XML, and declares a million."""
    parts = parts_of(book(path, Sheet=[["a"]]))
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    parts["xl/worksheets/sheet1.xml"] = (
        f'{head}<worksheet {space}><dimension ref="A1:XFD1048576"/><sheetData>{rows}</sheetData>'
        "</worksheet>"
    )
    if strings:
        parts["xl/sharedStrings.xml"] = f"<sst {space}><si><t>{strings}</t></si></sst>"
        kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
        parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace(
            "</Types>",
            f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>',
        )
    return zipped(path, parts)


def text_cell(place: str, text: str = STORY) -> str:
    return f'<c r="{place}" t="inlineStr"><is><t>{text}</t></is></c>'


# --- presentations

SPACES = (
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:dgm="http://schemas.openxmlformats.org/drawingml/2006/diagram" '
    'xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    f'xmlns:r="{_OFFICE}"'
)


def shape(*lines: str, kind: str = "") -> str:
    place = f'<p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr>' if kind else ""
    paragraphs = "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in lines)
    return f"<p:sp>{place}<p:txBody>{paragraphs}</p:txBody></p:sp>"


def slide(*shapes: str, show: str = "1", name: str = "sld") -> str:
    tree = f"<p:cSld><p:spTree>{''.join(shapes)}</p:spTree></p:cSld>"
    return f'<p:{name} {SPACES} show="{show}">{tree}</p:{name}>'


def slides(path: Path, *parts: str, head: str = "", **more: str) -> Path:
    """Write a presentation of these slides; ``more`` are other parts by the name of their file."""
    entries = "".join(f'<p:sldId r:id="r{number}"/>' for number in range(1, len(parts) + 1))
    root = f"<p:presentation {SPACES}><p:sldIdLst>{entries}</p:sldIdLst></p:presentation>"
    targets = [("slide", f"slides/s{number}.xml") for number in range(1, len(parts) + 1)]
    return zipped(
        path,
        {
            "_rels/.rels": relations(("officeDocument", "ppt/presentation.xml")),
            "ppt/presentation.xml": head + root,
            "ppt/_rels/presentation.xml.rels": relations(*targets),
            **{f"ppt/slides/s{number}.xml": part for number, part in enumerate(parts, 1)},
            **more,
        },
    )


# --- OpenDocument texts

ODF = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{long}:1.0"'
    for name, long in (
        ("office", "office"),
        ("text", "text"),
        ("table", "table"),
        ("style", "style"),
        ("draw", "drawing"),
        ("manifest", "manifest"),
    )
)


def odt(path: Path, body: str, styles: str = "", head: str = "", **more: str) -> Path:
    content = (
        f"{head}<office:document-content {ODF}><office:automatic-styles>{styles}"
        f"</office:automatic-styles><office:body><office:text>{body}</office:text></office:body>"
        "</office:document-content>"
    )
    return zipped(
        path,
        {"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content, **more},
    )


# --- books


def epub(path: Path, pages: Mapping[str, str], spine: Sequence[str] = ()) -> Path:
    """Write a book of chapters (name -> page), in the order of ``spine`` if there is one."""
    items = "".join(
        f'<item id="{name}" href="{name}" media-type="application/xhtml+xml"/>' for name in pages
    )
    order = "".join(f'<itemref idref="{name}"/>' for name in spine or pages)
    return zipped(
        path,
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<c><rootfile full-path="o/b.opf"/></c>',
            "o/b.opf": f"<package>{items}{order}</package>",
            **{f"o/{name}": page for name, page in pages.items()},
        },
    )
