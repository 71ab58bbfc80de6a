"""Builds paragraphs and headings from the lines of pages; joins words divided at a line's end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from tasks.ingest.readers.document import Builder, Document
from tasks.ingest.readers.page import Line, PdfPage

_ENDS = re.compile(r"[.!?:;\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*$")
_BULLET = re.compile(r"^(?:[\u2022\u25cf\u25aa\u2013*-]|\(?[0-9a-zA-Z]{1,3}[.)])\s")
#: A hyphen of line breaking: the file's soft hyphen, or pdfium's mark in a divided word.
SOFT_HYPHEN = "\ufffe"
_DIVIDED = re.compile(rf"(?<![^\W\d_])([^\W\d_]+){SOFT_HYPHEN}([^\W\d_A-Z][^\W\d_]*)")


def build_document(pages: list[PdfPage], recognised: dict[int, list[str]]) -> Document:
    """Build a document from lines; recognised pages (number -> paragraphs) are in paragraphs."""
    lines = [line for page in pages for line in page.lines]
    body = (
        median(line.size for line in lines for _ in range(1 + len(line.text) // 20))
        if lines
        else 0.0
    )
    vocabulary = set(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", " ".join(line.text for line in lines)))
    builder = Builder()
    waiting = sorted(recognised)
    for block in _paragraphs(pages) if lines else ():
        while waiting and waiting[0] < block[0][0]:
            _add_recognised(builder, waiting[0], recognised[waiting.pop(0)])
        _add_paragraph(builder, block, vocabulary, body)
    for number in waiting:
        _add_recognised(builder, number, recognised[number])
    return builder.document("pdf", encoding="ocr" if any(recognised.values()) else "")


def _add_paragraph(
    builder: Builder, block: list[tuple[int, Line]], vocabulary: set[str], body: float
) -> None:
    text = ""
    for number, line in block:
        text = _append(text, line.text, vocabulary)
        # A paragraph may continue on the next page, which then starts inside it.
        while len(builder.pages) < number:
            builder.pages.append(builder.length + len(text) - len(line.text))
    if SOFT_HYPHEN in text:
        text = _DIVIDED.sub(lambda match: _join_word(match[1], match[2], vocabulary), text)
        text = text.replace(SOFT_HYPHEN, "-")
    level = _heading_level([line for _, line in block], text, body)
    if level:
        builder.heading(level, text)
    else:
        builder.paragraph(text)


def _add_recognised(builder: Builder, number: int, paragraphs: list[str]) -> None:
    while len(builder.pages) < number:
        builder.page()
    for paragraph in paragraphs:
        builder.paragraph(paragraph)


def _paragraphs(pages: list[PdfPage]) -> Iterator[list[tuple[int, Line]]]:
    """Yield the lines of each paragraph with the number of their page."""
    pitch = _pitch(pages)
    block: list[tuple[int, Line]] = []
    for number, page in enumerate(pages, 1):
        for line in page.lines:
            if block and _is_start(
                line, [above for _, above in block], pitch, same_page=block[-1][0] == number
            ):
                yield block
                block = []
            block.append((number, line))
    if block:
        yield block


def _is_start(line: Line, block: list[Line], pitch: float, same_page: bool) -> bool:
    """Tell whether a line begins a paragraph, given the lines of the paragraph so far."""
    above = block[-1]
    if abs(line.size - above.size) > 0.15 * max(line.size, above.size):
        return True
    ended = bool(_ENDS.search(above.text))
    below = above.bottom - line.first
    if not same_page or below <= 0:
        # The next page or column: the paragraph continues only if its sentence does.
        return ended or not (
            line.text[:1].islower() or above.text.endswith(("-", SOFT_HYPHEN, ","))
        )
    if below > 1.4 * max(pitch, 1.2 * line.size):
        return True
    edge = max(line.right, *(other.right for other in block))
    short = above.right < edge - 0.15 * (edge - above.left)
    indented = line.left > above.left + line.size and len(block) > 1
    return ended and (short or indented)


def _pitch(pages: list[PdfPage]) -> float:
    """Return the usual distance from line to line, in points."""
    usual = [
        step
        for page in pages
        for above, line in pairwise(page.lines)
        if 0.5 * line.size < (step := above.bottom - line.first) < 2.2 * line.size
    ]
    if usual:
        return median(usual)
    return 1.2 * median(line.size for page in pages for line in page.lines)


def _append(text: str, line: str, vocabulary: set[str]) -> str:
    """Return a paragraph's text with its next line: rows and list items on lines of their own,
    without hyphens that only divide a word.
    """
    if not text:
        return line
    if " | " in line or " | " in text.rpartition("\n")[2] or _BULLET.match(line):
        return f"{text}\n{line}"
    if text.endswith(SOFT_HYPHEN):
        return text + line
    first, last = re.match(r"[^\W\d_]+", line), re.search(r"([^\W\d_]+)-$", text)
    if first and last and line[0].islower():
        return (
            text[: -len(last[0])]
            + _join_word(last[1], first[0], vocabulary)
            + line[len(first[0]) :]
        )
    return f"{text} {line}"


def _join_word(first: str, last: str, vocabulary: set[str]) -> str:
    """Return a divided word in one piece, with the hyphen that the document has elsewhere."""
    whole, divided = first + last, f"{first}-{last}"
    return divided if divided in vocabulary and whole not in vocabulary else whole


def _heading_level(lines: list[Line], text: str, body: float) -> int:
    """Return a paragraph's level as a heading, by size or capitals; 0: it is no heading."""
    size = min(line.size for line in lines)
    if (
        len(text) > 150
        or not any(character.isalpha() for character in text)
        or "\n" in text
        or " | " in text
    ):
        return 0
    if size > 1.15 * body and not text.endswith((".", ",", ";")):
        return 1 if size > 1.5 * body else 2
    return (
        3
        if len(lines) == 1 and len(text) > 3 and text.isupper() and not text.endswith((",", ";"))
        else 0
    )
