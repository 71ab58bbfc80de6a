"""PDF through pdfium: lines in the order they were set, page furniture removed, paragraphs put together again from their geometry."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from tasks.documents import ocr
from tasks.documents.decoding import tidy
from tasks.documents.document import Alive, Builder, Document, Item, Options, Reject, Unreadable

#: Share of the page's height at its top and bottom where headers and footers stand.
_MARGIN = 0.1
#: In this narrower band a line that stands apart from the body is furniture even on a single page.
_EDGE = 0.065
_PAGE_NUMBER = re.compile(r"(?:page\s*)?[-\u2013(]*\s*(?:\d{1,4}|[ivxlc]{1,7})\s*[-\u2013)]*(?:\s*(?:of|/)\s*\d{1,4})?", re.IGNORECASE)
#: What names a page by the word stands nowhere else; printed text that was paged before has it in the middle of a page.
_PAGE_LINE = re.compile(r"[-\u2013(\s]*page\s*\d{1,4}(?:\s*(?:of|/)\s*\d{1,4})?[-\u2013)\s]*", re.IGNORECASE)
#: A running title with a page number before or after it.
_RUNNING = re.compile(r"(\d{1,4})\s+(\D*[^\W\d]\D*)|(\D*[^\W\d]\D*?)\s+(\d{1,4})")
#: A gap within a line, in heights of its letters, that divides columns or cells; and how many rows make columns.
_GAP, _ROWS = 1.1, 4
_ENDS = re.compile(r"[.!?:;\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*$")
_BULLET = re.compile(r"^(?:[\u2022\u25cf\u25aa\u2013*-]|\(?[0-9a-zA-Z]{1,3}[.)])\s")
#: What stands alone before an item of a list: it is no cell.
_MARKER = re.compile(r"[\u2022\u25cf\u25aa\u2013*-]|\(?\w{1,5}[.)]|(?:\d+\.)+\d*")
_LIGATURE = re.compile("[\ufb00-\ufb06]")
#: Some writers map the ligature ff to an arrow, or to nothing that has a name.
_ARROW = re.compile(r"(?<=[^\W\d_])\u21b5(?=[^\W\d_])")
_UNREADABLE = re.compile("[\ufffd\ue000-\uf8ff]")
#: Stands for a hyphen of line breaking: the soft one of the file, or the one that pdfium marks where it runs a divided word on.
_SOFT_HYPHEN = "\ufffe"


_DIVIDED = re.compile(rf"([^\W\d_]+){_SOFT_HYPHEN}([^\W\d_A-Z][^\W\d_]*)")


@dataclass(frozen=True)
class Line:
    """A line of text, its box and the size of its font in points; ``bottom`` and ``top`` grow upwards."""

    text: str
    left: float
    right: float
    bottom: float
    top: float
    size: float
    upright: bool = True
    #: ``bottom`` of its first character: pdfium runs a word divided at a line's end on, so that one line of its may be two on the page.
    first: float = 0.0


@dataclass(frozen=True)
class Page:
    """A page's lines in reading order, its height in points, and whether it shows images."""

    lines: tuple[Line, ...]
    height: float
    images: bool


def read(path: Path, options: Options) -> Iterator[Item]:
    """Yield the file as one document, and a reject for pages that are images without text (and are not to be recognised)."""
    pages: list[Page] = []
    recognised: dict[int, list[str]] = {}
    for number, page, handle in _pages(path):
        pages.append(page)
        if options.ocr and page.images:
            recognised[number] = ocr.paragraphs(handle, options.ocr)
            yield Alive()
    text = "".join(line.text for page in pages for line in page.lines)
    if not text.strip() and not any(recognised.values()):
        found = "tesseract found no text either" if options.ocr else "set ingest.ocr, or recognise it first (such as with ocrmypdf)"
        raise Unreadable("no_text_layer", f"{len(pages)} pages of images without text: {found}")
    if len(_UNREADABLE.findall(text)) > 0.1 * len(text):
        raise Unreadable("unknown_encoding", "its fonts do not say which characters they show: recognise it anew (OCR)")
    yield _document(_without_furniture(pages), recognised)
    blank = [str(number) for number, page in enumerate(pages, 1) if page.images and not recognised.get(number)]
    if blank:
        yield Reject("", "no_text_layer", f"pages without text: {', '.join(blank[:20])}{' ...' if len(blank) > 20 else ''}")


def _pages(path: Path) -> Iterator[tuple[int, Page, Any]]:
    """Yield number, lines and pdfium's own page, open until the next is asked for."""
    import pypdfium2

    try:
        file = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower() or "security" in str(error).lower():
            raise Unreadable("encrypted", "a password protects it: save it without one") from error
        raise Unreadable("damaged", f"not readable as PDF: {error}") from error
    with file:
        try:
            for number in range(len(file)):
                handle = file[number]
                yield number + 1, _page(handle), handle
                handle.close()
        except pypdfium2.PdfiumError as error:
            raise Unreadable("damaged", f"a page cannot be read: {error}") from error


def _page(page: Any) -> Page:
    import pypdfium2.raw as pdfium

    text = page.get_textpage()
    try:
        lines = _joined(in_columns(_upright(list(_lines(text)))))
        images = not lines and any(True for _ in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=3))
        return Page(tuple(lines), page.get_height(), images)
    finally:
        text.close()


def _lines(text: Any) -> Iterator[Line]:
    """Yield pdfium's own lines, which end wherever the writing position jumps, divided where they jump over a wide gap."""
    import pypdfium2.raw as pdfium

    run: list[tuple[int, str]] = []
    total = text.count_chars()
    for place in range(total + 1):
        character = chr(pdfium.FPDFText_GetUnicode(text.raw, place)) if place < total else "\n"
        if character not in "\r\n":
            run.append((place, character))
        elif run:
            yield from _divided(text, run)
            run = []


def _divided(text: Any, run: list[tuple[int, str]]) -> Iterator[Line]:
    """Yield a run of characters as lines: two where a gap, as between columns or cells, is wider than any space."""
    begin = 0
    for place in range(1, len(run) - 1):
        if run[place][1].isspace() and not run[place - 1][1].isspace():
            after = next((later for later in range(place + 1, len(run)) if not run[later][1].isspace()), 0)
            if after and _gap(text, run[place - 1][0], run[after][0]):
                yield from _line(text, run[begin:place])
                begin = after
    yield from _line(text, run[begin:])


def _gap(text: Any, left: int, right: int) -> bool:
    before, after = text.get_charbox(left, loose=True), text.get_charbox(right, loose=True)
    size = max(before[3] - before[1], 1.0)
    return after[0] - before[2] > _GAP * size and min(before[3], after[3]) > max(before[1], after[1])


def _line(text: Any, run: list[tuple[int, str]]) -> Iterator[Line]:
    places = [place for place, character in run if not character.isspace()]
    if places:
        first, last = text.get_charbox(places[0], loose=True), text.get_charbox(places[-1], loose=True)
        size, upright = _font(text, places[len(places) // 2])
        characters = _clean("".join(character for _, character in run))
        yield Line(characters, first[0], last[2], min(first[1], last[1]), max(first[3], last[3]), size, upright, first[1])


def _font(text: Any, place: int) -> tuple[float, bool]:
    """Return the size a character is shown at, its font's times the scale of its matrix, and whether it stands upright."""
    import pypdfium2.raw as pdfium

    matrix = pdfium.FS_MATRIX()
    size = float(pdfium.FPDFText_GetFontSize(text.raw, place))
    if not pdfium.FPDFText_GetMatrix(text.raw, place, matrix):
        return max(size, 1.0), True
    # Some writers leave the font at size 1 and put all of the size into the matrix.
    return max(size * math.hypot(matrix.c, matrix.d), 1.0), abs(matrix.b) <= abs(matrix.a)


def _upright(lines: list[Line]) -> list[Line]:
    """Leave out what is set sideways in the margin of an upright page, such as a stamp."""
    upright = [line for line in lines if line.upright]
    return upright if 2 * len(upright) >= len(lines) else lines


def _clean(line: str) -> str:
    line = (
        _LIGATURE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), _ARROW.sub("ff", line))
        .replace("\u00ad", _SOFT_HYPHEN)
        .replace("\x02", _SOFT_HYPHEN)
    )
    return " ".join(tidy(line).split())


def _joined(lines: list[Line]) -> list[Line]:
    """Join what stands in one row: raised marks and index figures to their word, the cells of a table by " | "."""
    rows: list[Line] = []
    for line in lines:
        if rows and _same_row(rows[-1], line):
            row = rows.pop()
            gap = line.left - row.right
            size = max(row.size, line.size)
            marker = bool(_MARKER.fullmatch(row.text))
            between = " | " if gap > 1.5 * size and not marker else " " if gap > 0.1 * size else ""
            larger = row if row.size >= line.size else line
            line = Line(row.text + between + line.text, row.left, line.right, larger.bottom, larger.top, larger.size, larger.upright, larger.first)
        rows.append(line)
    return rows


def _same_row(row: Line, line: Line) -> bool:
    overlap = min(row.top, line.top) - max(row.bottom, line.bottom)
    return overlap > 0.5 * min(row.top - row.bottom, line.top - line.bottom) and line.left >= row.right - 0.3 * row.size


def in_columns(lines: list[Line]) -> list[Line]:
    """Return lines in the order of reading where a page of columns was set row by row across them; all others as they are.

    Columns are told from the cells of a table by their running text: lines of several words, most about as long as the longest.
    """
    pairs = [(left, right) for left, right in pairwise(lines) if _same_row(left, right) and right.left - left.right > 0.8 * left.size]
    if len(pairs) < _ROWS:
        return lines
    edge = Counter(round(right.left / 3) for _, right in pairs).most_common(1)[0][0] * 3
    pairs = [(left, right) for left, right in pairs if abs(right.left - edge) <= 3 and left.right < edge]
    if len(pairs) < _ROWS:
        return lines
    words = min(median(len(line.text.split()) for line in side) for side in zip(*pairs, strict=True))
    widths = [left.right - left.left for left, _ in pairs]
    if words < 4 or median(widths) < 0.6 * max(widths):
        return lines
    ordered: list[Line] = []
    left_column: list[Line] = []
    right_column: list[Line] = []
    for line in lines:
        if line.left < edge - 3 and line.right > edge:
            # A line across both, such as a title, ends the columns above it.
            ordered += [*left_column, *in_columns(right_column), line]
            left_column, right_column = [], []
        else:
            (right_column if line.left >= edge - 3 else left_column).append(line)
    return [*ordered, *left_column, *in_columns(right_column)]


def _without_furniture(pages: list[Page]) -> list[Page]:
    """Leave out running headers, footers and page numbers."""
    repeated = Counter(key for page in pages for key in {_key(line) for line in page.lines if _near_edge(line, page, _MARGIN)})
    running = Counter(head for number, page in enumerate(pages, 1) for head in {_head(line, number) for line in _ends_of(page)} if head)
    least = max(2, len(pages) // 3) if len(pages) > 2 else 3

    def furniture(page: Page, line: Line, number: int) -> bool:
        head = _head(line, number) if line in _ends_of(page) else None
        if head and (running[head] >= least or (head[1] == 0 and _set_off(line, page))):
            return True
        if _PAGE_LINE.fullmatch(line.text):
            return True
        if not _near_edge(line, page, _MARGIN):
            return False
        return repeated[_key(line)] >= least or bool(_PAGE_NUMBER.fullmatch(line.text)) or _apart(line, page)

    cleaned = [Page(tuple(line for line in page.lines if not furniture(page, line, number)), page.height, page.images) for number, page in enumerate(pages, 1)]
    # A page that is nothing but margin is a slide or a label: there the rule is wrong.
    return cleaned if any(page.lines for page in cleaned) else pages


def _ends_of(page: Page) -> tuple[Line, ...]:
    """Return the highest and the lowest line of a page."""
    by_height = sorted(page.lines, key=lambda line: line.bottom)
    return (by_height[0], by_height[-1]) if len(by_height) > 2 else ()


def _head(line: Line, page: int) -> tuple[str, int] | None:
    """Return a running title without the page's number at its begin or end, and that number less ``page``; None where it has none."""
    match = _RUNNING.fullmatch(line.text)
    if match is None or len(line.text) > 90:
        return None
    return (match[2] or match[3]).casefold(), int(match[1] or match[4]) - page


def _set_off(line: Line, page: Page) -> bool:
    """Tell whether a line at a page's end stands further from the next than lines do, in letters no larger."""
    others = [other for other in page.lines if other is not line]
    nearest = min(others, key=lambda other: abs(other.bottom - line.bottom))
    return abs(nearest.bottom - line.bottom) > 1.8 * line.size and line.size <= median(other.size for other in others)


def _key(line: Line) -> str:
    return re.sub(r"\d+", "#", line.text.casefold())


def _near_edge(line: Line, page: Page, share: float) -> bool:
    return line.bottom > (1 - share) * page.height or line.top < share * page.height


def _apart(line: Line, page: Page) -> bool:
    others = [other for other in page.lines if other is not line and not _near_edge(other, page, _EDGE)]
    if not _near_edge(line, page, _EDGE) or not others or len(line.text) > 120:
        return False
    middle = (line.top + line.bottom) / 2
    return min(abs((other.top + other.bottom) / 2 - middle) for other in others) > 2 * line.size


def _document(pages: list[Page], recognised: dict[int, list[str]]) -> Document:
    """Put lines together to paragraphs, words divided at a line's end to whole ones; recognised pages come as paragraphs already."""
    lines = [line for page in pages for line in page.lines]
    body = median(line.size for line in lines for _ in range(1 + len(line.text) // 20)) if lines else 0.0
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


def _add_paragraph(builder: Builder, block: list[tuple[int, Line]], vocabulary: set[str], body: float) -> None:
    text = ""
    for number, line in block:
        text = _appended(text, line.text, vocabulary)
        # A paragraph may run over the end of a page: the page starts inside it.
        while len(builder.pages) < number:
            builder.pages.append(builder.length + len(text) - len(line.text))
    text = _DIVIDED.sub(lambda match: _undivided(match[1], match[2], vocabulary), text).replace(_SOFT_HYPHEN, "-")
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


def _paragraphs(pages: list[Page]) -> Iterator[list[tuple[int, Line]]]:
    """Yield the lines of each paragraph with the number of their page."""
    pitch = _pitch(pages)
    block: list[tuple[int, Line]] = []
    for number, page in enumerate(pages, 1):
        for line in page.lines:
            if block and _begins(line, [above for _, above in block], pitch, same_page=block[-1][0] == number):
                yield block
                block = []
            block.append((number, line))
    if block:
        yield block


def _begins(line: Line, block: list[Line], pitch: float, same_page: bool) -> bool:
    """Tell whether a line begins a paragraph, given the lines of the paragraph so far."""
    above = block[-1]
    if abs(line.size - above.size) > 0.15 * max(line.size, above.size):
        return True
    ended = bool(_ENDS.search(above.text))
    below = above.bottom - line.first
    if not same_page or below <= 0:
        # The next page or column: only a sentence that goes on says that the paragraph does.
        return ended or not (line.text[:1].islower() or above.text.endswith(("-", _SOFT_HYPHEN, ",")))
    if below > 1.4 * max(pitch, 1.2 * line.size):
        return True
    edge = max(line.right, *(other.right for other in block))
    short = above.right < edge - 0.15 * (edge - above.left)
    indented = line.left > above.left + line.size and len(block) > 1
    return ended and (short or indented)


def _pitch(pages: list[Page]) -> float:
    """Return the usual distance from line to line, in points."""
    steps = [above.bottom - line.first for page in pages for above, line in zip(page.lines, page.lines[1:], strict=False)]
    usual = [step for step, size in zip(steps, (line.size for page in pages for line in page.lines[1:]), strict=False) if 0.5 * size < step < 2.2 * size]
    return median(usual) if usual else median(line.size for page in pages for line in page.lines) * 1.2


def _appended(text: str, line: str, vocabulary: set[str]) -> str:
    """Return a paragraph's text with its next line: a new line for rows and list items, without a hyphen that only divides a word."""
    if not text:
        return line
    if " | " in line or " | " in text.rpartition("\n")[2] or _BULLET.match(line):
        return f"{text}\n{line}"
    if text.endswith(_SOFT_HYPHEN):
        return text + line
    first, last = re.match(r"[^\W\d_]+", line), re.search(r"([^\W\d_]+)-$", text)
    if first and last and line[0].islower():
        return text[: -len(last[0])] + _undivided(last[1], first[0], vocabulary) + line[len(first[0]) :]
    return f"{text} {line}"


def _undivided(first: str, last: str, vocabulary: set[str]) -> str:
    """Return a divided word as a whole, with its hyphen where the document has it so elsewhere."""
    whole, divided = first + last, f"{first}-{last}"
    return divided if divided in vocabulary and whole not in vocabulary else whole


def _heading_level(lines: list[Line], text: str, body: float) -> int:
    """Return a paragraph's level as a heading, by the size of its letters or by capitals; 0: it is none."""
    size = min(line.size for line in lines)
    if len(text) > 150 or not any(character.isalpha() for character in text) or "\n" in text or " | " in text:
        return 0
    if size > 1.15 * body and not text.endswith((".", ",", ";")):
        return 1 if size > 1.5 * body else 2
    return 3 if len(lines) == 1 and len(text) > 3 and text.isupper() and not text.endswith((",", ";")) else 0
