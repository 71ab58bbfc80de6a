"""Chooses a file's reader by its signature, else by its suffix, and reads it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

from tasks.ingest.readers.document import (
    Alive,
    Begin,
    Budget,
    Document,
    Reader,
    ReaderItem,
    ReadOptions,
    Reject,
    Unreadable,
    explain,
)

#: Suffix -> the module beside this one that reads it.
SUFFIXES = {
    **dict.fromkeys((".txt", ".text", ".log", ".rst", ".tex", ".org"), "text"),
    **dict.fromkeys((".md", ".markdown", ".mdown"), "markdown"),
    **dict.fromkeys(
        (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather"),
        "tables",
    ),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".tbz2", ".txz"), "archives"),
    **dict.fromkeys((".mbox", ".mbx"), "archives"),
    **dict.fromkeys((".xlsx", ".xlsm"), "xlsx"),
    **dict.fromkeys((".pptx", ".pptm", ".ppsx"), "pptx"),
    ".docx": "docx",
    ".odt": "odt",
    ".pdf": "pdf",
    ".rtf": "rtf",
    ".epub": "epub",
    ".eml": "eml",
    ".ipynb": "notebook",
}
PARQUET, ARROW = b"PAR1", b"ARROW1\0\0"
#: First bytes that decide before the suffix.
_SIGNATURES = (
    (b"%PDF-", "pdf"),
    (b"{\\rtf", "rtf"),
    (PARQUET, "tables"),
    (ARROW, "tables"),
    (b"\x1f\x8b", "archives"),
    (b"BZh", "archives"),
    (b"\xfd7zXZ\0", "archives"),
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
#: Modules that do not hold a whole file in memory.
STREAMED = ("tables", "archives")
_ZIPPED = ("docx", "xlsx", "pptx", "odt", "epub", "archives")
#: Formats that are ZIP files inside and that no reader here reads.
_UNREAD = (
    *(".ods", ".odp", ".odg", ".docm", ".dotx", ".xlsb", ".xltx", ".potx"),
    *(".key", ".numbers", ".pages", ".jar", ".apk"),
)
#: A file of e-mail messages: each begins with such a line, which has a date, then its headers.
_MBOX = re.compile(
    rb"From [^\r\n]{1,300}(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? +[A-Z][a-z]{2} +\d[^\r\n]*\r?\n[\w-]+:"
)
_NOTEBOOK = re.compile(rb'\s*\{\s*"(?:cells|metadata|nbformat|worksheets)"')
_CELLS = re.compile(rb'"(?:cells|worksheets)"\s*:\s*\[')
#: What may stand before a page's first element.
_PROLOG = re.compile(r"(?:\s|<\?xml.*?\?>|<!--.*?-->)*", re.DOTALL)
_XML = re.compile(r"\s*<\?xml|<[\w:.-]+\s[^<>]*\bxmlns\b")
#: A PDF file's first bytes may have others before them, such as those of a mail or a printer.
_PDF_HEAD = 1024


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the documents of one file, and rejects for parts that cannot be read.

    Raises :class:`Unreadable` where the whole file cannot be read.
    """
    if path.stat().st_size == 0:
        raise Unreadable("empty", "zero bytes")
    name = reader_name(path)
    check_size(path, options.max_bytes)
    if options.budget is None:
        # One for the file of the corpus, and all that is nested in it.
        budget = Budget.whole(options.max_bytes, options.max_members)
        options = replace(options, budget=budget)
    reader = cast(Reader, importlib.import_module(f"tasks.ingest.readers.{name}").read)
    is_empty = True
    try:
        for item in reader(path, options):
            if isinstance(item, Document) and not item.text.strip():
                item = Reject(item.member, "empty", "no text in it")
            is_empty = is_empty and isinstance(item, Alive | Begin)
            yield item
    except (MemoryError, Unreadable):
        raise
    except Exception as error:  # a parser may raise anything
        raise explain(error) from error
    if is_empty and not options.skip:
        raise Unreadable("empty", "nothing in it")


def check_size(path: Path, most: int) -> None:
    """Raise :class:`Unreadable` (``too_large``) for a file that its reader would hold in memory and
    that has more than ``most`` bytes.
    """
    size = path.stat().st_size
    if size > most and reader_name(path) not in STREAMED:
        raise Unreadable("too_large", f"{size >> 20} MiB, the most is {most >> 20}: split it")


def reader_name(path: Path) -> str:
    """Return the name of the module that reads ``path``.

    Raises :class:`Unreadable` (``unsupported_format``) with a remedy.
    """
    with path.open("rb") as stream:
        head = stream.read(4096)
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    suffix = path.suffix.lower()
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _choose_zipped(suffix)
    if head.startswith(_OLE):
        _refuse_ole(suffix)
    name = _choose_text(suffix, head)
    if name:
        return name
    if suffix in SUFFIXES:
        if SUFFIXES[suffix] in (*_ZIPPED, "pdf") and suffix != ".tar":
            raise Unreadable("damaged", f"named {suffix} but does not begin like one")
        return SUFFIXES[suffix]
    if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        raise Unreadable("unsupported_format", f"{suffix or 'no suffix'}, not a text file")
    return _choose_markup(suffix, head)


def _refuse_ole(suffix: str) -> None:
    if SUFFIXES.get(suffix) in ("docx", "xlsx", "pptx"):
        raise Unreadable("encrypted", "a password protects it: save it without one")
    if suffix == ".msg":
        raise Unreadable("unsupported_format", "an Outlook message (.msg): save it as .eml")
    raise Unreadable(
        "unsupported_format",
        "an old binary Office file (.doc, .xls, .ppt): save it as .docx, .xlsx, .pptx or PDF",
    )


def _choose_text(suffix: str, head: bytes) -> str:
    """Return the reader of a format that has no signature at its first byte; empty: none.

    Raises :class:`Unreadable` for a web page saved with its pictures: it is a message, most of it
    pictures.
    """
    if suffix == ".pdf" and b"%PDF-" in head[:_PDF_HEAD]:
        return "pdf"
    if suffix in (".mht", ".mhtml") or head.startswith(b"From: <Saved by "):
        raise Unreadable(
            "unsupported_format", "a web page in one file (.mhtml): save it as HTML or PDF"
        )
    is_mailbox = suffix in (".mbox", ".mbx") and head.startswith(b"From ")
    if is_mailbox or (suffix != ".eml" and _MBOX.match(head)):
        return "archives"
    if suffix in (".jsonl", ".ndjson"):
        return ""
    is_notebook = _NOTEBOOK.match(head) and _CELLS.search(head) and b'"cell_type"' in head
    return "notebook" if is_notebook else ""


def _choose_markup(suffix: str, head: bytes) -> str:
    """Return the reader of a text of unknown suffix.

    Raises :class:`Unreadable` where it is XML: its tags are no text, and what they mean is unknown.
    """
    is_wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = head.decode("utf-16" if is_wide else "utf-8", errors="ignore").lstrip("\ufeff")
    body = text[_PROLOG.match(text).end() :]  # type: ignore[union-attr]  # it matches nothing, too
    if body[:14].lower().startswith(("<!doctype html", "<html")):
        return "html"
    if _XML.match(text) or _XML.match(body) or (suffix == ".xml" and body.startswith("<")):
        raise Unreadable(
            "unsupported_format",
            f"XML ({suffix or 'no suffix'}), not a web page: save it as HTML, PDF or text",
        )
    return "text"


def _choose_zipped(suffix: str) -> str:
    if SUFFIXES.get(suffix) in _ZIPPED:
        return SUFFIXES[suffix]
    if suffix in _UNREAD:
        raise Unreadable("unsupported_format", f"{suffix}: save it as .docx, .xlsx, .odt or PDF")
    return "archives"


def prefix_member(item: ReaderItem, prefix: str) -> ReaderItem:
    """Return ``item`` with ``prefix`` before its place in the file."""
    return replace(item, member=prefix + item.member)
