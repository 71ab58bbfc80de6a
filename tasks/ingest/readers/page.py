"""A page as lines with boxes: joins the cells of a row, orders columns, removes running heads and
page numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

#: Share of the page's height at its top and bottom that may hold headers and footers.
_MARGIN = 0.1
#: In this narrower band a line apart from the body is furniture even on a single page.
_EDGE = 0.065
#: Distance to the body in font sizes from which a line stands apart: more than a blank line of
#: single-spaced text (2 x 1.2), which may follow the last line of a paragraph.
_APART = 2.5
_PAGE_NUMBER = re.compile(
    r"(?:page\s*)?[-\u2013(]*\s*(?:\d{1,4}|[ivxlc]{1,7})\s*[-\u2013)]*(?:\s*(?:of|/)\s*\d{1,4})?",
    re.IGNORECASE,
)
#: A line such as "Page 3 of 9" is furniture anywhere: text that was paged before holds it in the
#: middle of a page.
_PAGE_LINE = re.compile(
    r"[-\u2013(\s]*page\s*\d{1,4}(?:\s*(?:of|/)\s*\d{1,4})?[-\u2013)\s]*", re.IGNORECASE
)
#: A running title with a page number before or after it.
_RUNNING = re.compile(r"(\d{1,4})\s+(\D*[^\W\d]\D*)|(\D*[^\W\d]\D*?)\s+(\d{1,4})")
#: The marker of a list item: it is not a cell.
_MARKER = re.compile(r"[\u2022\u25cf\u25aa\u2013*-]|\(?\w{1,5}[.)]|(?:\d+\.)+\d*")
#: The number of a clause; a bare "3" may be anything.
_CLAUSE_NUMBER = re.compile(r"\d{1,3}(?:\.\d{1,3}){0,4}\.|\d{1,3}(?:\.\d{1,3}){1,4}|\(?[a-z]\)")
#: Rows from which two columns are columns.
_ROWS = 4


@dataclass(frozen=True)
class Line:
    """A line of text, its box and the size of its font in points; ``bottom`` and ``top`` grow
    upwards.
    """

    text: str
    left: float
    right: float
    bottom: float
    top: float
    size: float
    upright: bool = True
    #: ``bottom`` of its first character: pdfium joins a word divided at a line's end, so one of its
    #: lines may be two on the page.
    first: float = 0.0


@dataclass(frozen=True)
class PdfPage:
    """A page's lines in reading order, its height in points, whether it shows images, and how many
    clause numbers were joined to a line.
    """

    lines: tuple[Line, ...]
    height: float
    images: bool
    joined: int = 0


def join_numbers(lines: list[Line]) -> list[Line]:
    """Put each clause's number, a line of its own at the left, before the line beside it.

    Some writers set all numbers of a page first: they would be a column of their own.
    """
    joined: dict[int, Line] = {}
    numbers: set[int] = set()
    for place, number in enumerate(lines):
        if not _CLAUSE_NUMBER.fullmatch(number.text):
            continue
        row = [
            (other.left, at)
            for at, other in enumerate(lines)
            if at != place and _beside(number, other)
        ]
        if not row or any(lines[at].right <= number.left + 0.3 * number.size for _, at in row):
            continue
        left, target = min(row)
        nearest = lines[target]
        if left < number.right - 0.3 * number.size:
            continue
        if target in joined or _CLAUSE_NUMBER.fullmatch(nearest.text):
            continue
        text = f"{number.text} {nearest.text}"
        joined[target] = replace(nearest, text=text, left=number.left)
        numbers.add(place)
    return [joined.get(place, line) for place, line in enumerate(lines) if place not in numbers]


def _beside(one: Line, other: Line) -> bool:
    """Tell whether two lines are at the same height."""
    overlap = min(one.top, other.top) - max(one.bottom, other.bottom)
    return overlap > 0.5 * min(one.top - one.bottom, other.top - other.bottom)


def join_rows(lines: list[Line]) -> list[Line]:
    """Join the lines of a row: raised marks and index figures to their word, cells by " | "."""
    rows: list[Line] = []
    for line in lines:
        if rows and _same_row(rows[-1], line):
            row = rows.pop()
            gap = line.left - row.right
            size = max(row.size, line.size)
            marker = bool(_MARKER.fullmatch(row.text))
            between = " | " if gap > 1.5 * size and not marker else " " if gap > 0.1 * size else ""
            larger = row if row.size >= line.size else line
            text = row.text + between + line.text
            line = replace(larger, text=text, left=row.left, right=line.right)
        rows.append(line)
    return rows


def _same_row(row: Line, line: Line) -> bool:
    """Tell whether a line is beside a row, behind its end."""
    return _beside(row, line) and line.left >= row.right - 0.3 * row.size


def order_columns(lines: list[Line]) -> list[Line]:
    """Return the lines of a page in reading order where its columns were set row by row.

    Columns differ from the cells of a table by their running text: lines of several words, most of
    them about as long as the longest.
    """
    pairs = [
        (left, right)
        for left, right in pairwise(lines)
        if _same_row(left, right) and right.left - left.right > 0.8 * left.size
    ]
    if len(pairs) < _ROWS:
        return lines
    edge = Counter(round(right.left / 3) for _, right in pairs).most_common(1)[0][0] * 3
    pairs = [
        (left, right) for left, right in pairs if abs(right.left - edge) <= 3 and left.right < edge
    ]
    if len(pairs) < _ROWS:
        return lines
    words = min(
        median(len(line.text.split()) for line in side) for side in zip(*pairs, strict=True)
    )
    widths = [left.right - left.left for left, _ in pairs]
    if words < 4 or median(widths) < 0.6 * max(widths):
        return lines
    ordered: list[Line] = []
    left_column: list[Line] = []
    right_column: list[Line] = []
    for line in lines:
        if line.left < edge - 3 and line.right > edge:
            # A line across both, such as a title, ends the columns above it.
            ordered += [*left_column, *order_columns(right_column), line]
            left_column, right_column = [], []
        else:
            (right_column if line.left >= edge - 3 else left_column).append(line)
    return [*ordered, *left_column, *order_columns(right_column)]


def remove_furniture(pages: list[PdfPage]) -> list[PdfPage]:
    """Return the pages without running headers, footers and page numbers."""
    repeated = Counter(
        key
        for page in pages
        for key in {_key(line, page) for line in page.lines if _near_edge(line, page, _MARGIN)}
    )
    running = Counter(
        head
        for number, page in enumerate(pages, 1)
        for head in {_head(line, number) for line in _ends_of(page)}
        if head
    )
    least = max(2, len(pages) // 3) if len(pages) > 2 else 3

    def is_furniture(page: PdfPage, line: Line, number: int, ends: tuple[Line, ...]) -> bool:
        head = _head(line, number) if line in ends else None
        if head and (running[head] >= least or (head[1] == 0 and _set_off(line, page))):
            return True
        if _PAGE_LINE.fullmatch(line.text):
            return True
        if not _near_edge(line, page, _MARGIN):
            return False
        return (
            repeated[_key(line, page)] >= least
            or bool(_PAGE_NUMBER.fullmatch(line.text))
            or _apart(line, page)
        )

    cleaned = []
    for number, page in enumerate(pages, 1):
        ends = _ends_of(page)
        kept = [line for line in page.lines if not is_furniture(page, line, number, ends)]
        cleaned.append(replace(page, lines=tuple(kept)))
    # A page without a body is a slide or a label: there the rule is wrong.
    return cleaned if any(page.lines for page in cleaned) else pages


def _ends_of(page: PdfPage) -> tuple[Line, ...]:
    """Return the highest and the lowest line of a page."""
    by_height = sorted(page.lines, key=lambda line: line.bottom)
    return (by_height[0], by_height[-1]) if len(by_height) > 2 else ()


def _head(line: Line, page: int) -> tuple[str, int] | None:
    """Return a running title without its page number, and that number minus ``page``; None where
    the line has no number at its start or end.
    """
    match = _RUNNING.fullmatch(line.text) if len(line.text) <= 90 else None
    if match is None:
        return None
    return (match[2] or match[3]).casefold(), int(match[1] or match[4]) - page


def _set_off(line: Line, page: PdfPage) -> bool:
    """Tell whether a line at a page's end is further from the next line than usual, in letters that
    are not larger.
    """
    others = [other for other in page.lines if other is not line]
    nearest = min(others, key=lambda other: abs(other.bottom - line.bottom))
    return abs(nearest.bottom - line.bottom) > 1.8 * line.size and line.size <= median(
        other.size for other in others
    )


def _key(line: Line, page: PdfPage) -> tuple[str, bool]:
    """Return the text without its numbers, and whether it is in the page's upper half: furniture
    repeats at the same edge, a signature line may repeat at the other one.
    """
    return re.sub(r"\d+", "#", line.text.casefold()), 2 * line.bottom > page.height


def _near_edge(line: Line, page: PdfPage, share: float) -> bool:
    return line.bottom > (1 - share) * page.height or line.top < share * page.height


def _apart(line: Line, page: PdfPage) -> bool:
    others = [
        other for other in page.lines if other is not line and not _near_edge(other, page, _EDGE)
    ]
    if not _near_edge(line, page, _EDGE) or not others or len(line.text) > 120:
        return False
    middle = (line.top + line.bottom) / 2
    nearest = min(abs((other.top + other.bottom) / 2 - middle) for other in others)
    return nearest > _APART * line.size
