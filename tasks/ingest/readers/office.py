"""What the readers of Office files and books share: ZIP files of XML parts, opened within limits,
parsed without entities; the text and the tables of Word and PowerPoint.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tasks.ingest.readers.decoding import tidy
from tasks.ingest.readers.document import Builder, ReadOptions, Unreadable, explain

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
#: A copy of a part in an older form, for programs that do not know the newer one.
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_STRICT = "{http://purl.oclc.org/ooxml/"
_TEXT = {f"{W}t", f"{A}t", f"{_M}t"}
#: How the parts of a formula are written in a line.
_MATHS = {f"{_M}num": "", f"{_M}den": "/", f"{_M}sup": "^", f"{_M}sub": "_", f"{_M}rad": "\u221a"}
_BREAKS = {
    f"{W}br": "\n",
    f"{W}cr": "\n",
    f"{W}tab": " ",
    f"{W}noBreakHyphen": "-",
    f"{A}br": "\n",
}
#: Not the document's text, or no longer here.
_UNREAD = {FALLBACK, *(f"{W}{name}" for name in ("del", "moveFrom", "pPr", "rPr", "instrText"))}
_ONE_TERM = re.compile(r"[-\u2212]?[\w.\u2218\u00b0]*|\([^()]*\)")


class Relation(NamedTuple):
    """What one part says of another: ``kind`` such as ``slide``, and the other's name."""

    kind: str
    target: str


@contextmanager
def open_package(path: Path, options: ReadOptions, kind: str) -> Iterator[zipfile.ZipFile]:
    """Open a ZIP file of parts that may unpack to ``max_bytes``.

    What a parser raises in the block becomes :class:`Unreadable`, ``damaged``: not ``kind``.
    """
    refuse_bomb(path, options)
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (MemoryError, RecursionError, Unreadable):
        raise
    except Exception as error:
        # openpyxl names what it was doing, in several lines, and what was wrong as the cause.
        cause = error.__cause__
        problem = explain(cause if isinstance(cause, Exception) else error)
        detail = f"not readable as {kind}: {' '.join(problem.detail.split())}"
        raise Unreadable(problem.reason, detail) from error


def refuse_bomb(path: Path, options: ReadOptions) -> None:
    """Raise :class:`Unreadable` where a ZIP file cannot be opened, or declares that it unpacks to
    more than ``max_bytes``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise Unreadable("damaged", f"not a whole ZIP file: {error}") from error
    size = sum(entry.file_size for entry in entries)
    if size > options.max_bytes:
        raise Unreadable(
            "too_large", f"unpacks to {size >> 20} MiB, the most is {options.max_bytes >> 20}"
        )
    if any(entry.flag_bits & 1 for entry in entries):
        raise Unreadable("encrypted", "a password protects it")


def refuse_long(builder: Builder, options: ReadOptions) -> None:
    """Raise :class:`Unreadable` where a document has more text than ``max_bytes``: parts may be
    named more than once.
    """
    if builder.length > options.max_bytes:
        raise Unreadable("too_large", f"holds more than {options.max_bytes >> 20} MiB of text")


def parse_xml(data: bytes) -> Any:
    """Return the root of an XML document. Entities stay as they are, nothing is fetched."""
    from lxml import etree

    return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True))


def parse_part(archive: zipfile.ZipFile, name: str) -> Any:
    """Return the root of a part. Raises :class:`Unreadable` where it declares entities, which no
    Office program does, or is Strict Open XML.
    """
    root = parse_xml(archive.read(name))
    declared = root.getroottree().docinfo.internalDTD
    if declared is not None and any(True for _ in declared.iterentities()):
        raise Unreadable("damaged", f"{name} declares entities: no Office program does")
    if str(root.tag).startswith(_STRICT):
        raise Unreadable(
            "unsupported_format", "Strict Open XML: save it as an ordinary .docx, .xlsx or .pptx"
        )
    return root


def read_relations(archive: zipfile.ZipFile, part: str = "") -> dict[str, Relation]:
    """Return the parts that ``part`` (empty: the file) names, by id. What it names outside the
    file is not among them.
    """
    folder, name = posixpath.split(part)
    path = posixpath.join(folder, "_rels", f"{name}.rels")
    if path not in archive.namelist():
        return {}
    found = {}
    for entry in parse_part(archive, path):
        if entry.get("TargetMode") != "External" and entry.get("Id"):
            target = posixpath.normpath(posixpath.join("/", folder, entry.get("Target", "")))
            kind = posixpath.basename(entry.get("Type", ""))
            found[entry.get("Id")] = Relation(kind, target.lstrip("/"))
    return found


def find_main_part(archive: zipfile.ZipFile) -> str:
    """Return the name of the part that an Open XML file begins with."""
    for relation in read_relations(archive).values():
        if relation.kind == "officeDocument":
            return relation.target
    raise ValueError("it does not say which part it begins with")


def table_lines(table: Any, space: str) -> Iterator[str]:
    """Yield a table's rows as lines, cells divided by " | ", tables inside a cell in its line.

    ``space`` is the namespace of its elements, :data:`W` or :data:`A`.
    """
    for row in table.iter(f"{space}tr"):
        if next(row.iterancestors(f"{space}tbl")) is not table:
            continue
        cells = (
            " ".join(" ".join(text_of(paragraph) for paragraph in cell.iter(f"{space}p")).split())
            for cell in row.findall(f"{space}tc")
        )
        line = " | ".join(cell for cell in cells if cell)
        if line:
            yield line


def text_of(element: Any) -> str:
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
            inner, sign = text_of(child), _MATHS[child.tag]
            # More than one number or name needs brackets to stay together.
            if inner and not _ONE_TERM.fullmatch(inner):
                inner = f"({inner})"
            parts.append(sign + inner if inner else "")
        elif child.tag not in _UNREAD:
            parts.append(text_of(child))
    # U+2061, between a function and its argument, is invisible.
    return tidy("".join(parts).replace("\u2061", " "))
