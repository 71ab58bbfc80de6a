"""Whether a table's first row names its columns, or is a row of values like those below it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice

#: Most lines above a header.
MOST_TITLES = 10
#: Rows, and about how many characters of them, that a first row is compared with.
SAMPLE_ROWS, _SAMPLE_CHARS = 100, 1 << 20
#: Characters above which a cell is long; up to which it may be a question of a survey; and of its
#: answers, where they are short.
_LONG, _LONGEST, _SHORT = 60, 300, 30
_NUMBER = re.compile(r"[-+(]?[$€£]?\s?\d[\d.,' ]*(?:[eE][-+]?\d+)?\s?[%€$£)]?")
_YEAR = re.compile(r"(?:19|20)\d\d")

#: The texts of a row by column; blank ones may be left out.
Cells = Mapping[int, str]


def find_header(
    rows: Iterator[list[str]], column: str
) -> tuple[list[list[str]], list[str], Iterator[list[str]]]:
    """Return the lines above the header, the header (empty where there is none), and those below.

    The header is the first line with the text's column. Or it is the first with two cells that have
    text, or with a blank first cell, as of a column of numbers; else the first line: but only if
    none of its cells looks like a value (:func:`is_header`).
    """
    seen: list[list[str]] = []
    for cells in islice(rows, MOST_TITLES):
        filled = [bool(cell.strip()) for cell in cells]
        if column in cells:
            return seen, cells, rows
        if not any(filled):
            continue
        if sum(filled) > 1 or not filled[0]:
            return seen, *_divide(cells, rows)
        seen.append(cells)
    return [], *_divide(seen[0] if seen else [], chain(seen[1:], rows))


def _divide(first: list[str], rows: Iterator[list[str]]) -> tuple[list[str], Iterator[list[str]]]:
    """Return the header that ``first`` is, and the rows; if it is none, an empty one, and all."""
    ahead, size = [], 0
    for cells in islice(rows, SAMPLE_ROWS):
        ahead.append(cells)
        size += len(cells) + sum(map(len, cells))
        if size > _SAMPLE_CHARS:
            break
    below = [dict(enumerate(cells)) for cells in ahead]
    if is_header(dict(enumerate(first)), below):
        return first, chain(ahead, rows)
    return [], chain([first], ahead, rows)


def is_header(cells: Cells, below: Sequence[Cells]) -> bool:
    """Tell whether ``cells`` name the columns of the rows ``below``.

    One cell that looks like a value decides against it: a name too few loses nothing, since the
    row is then read as the others are, but a wrong header would be repeated in every row.
    """
    # Files that were put together repeat their header.
    others = [row for row in below if row != cells]
    return not any(
        _is_value(cell.strip(), [row[place].strip() for row in others if row.get(place)])
        for place, cell in cells.items()
        if cell.strip()
    )


def _is_value(cell: str, values: list[str]) -> bool:
    """Tell whether ``cell`` looks like one of the ``values`` of its column."""
    if cell in values:
        return True
    if len(cell) > (_LONGEST if _is_question(cell, values) else _LONG):
        return True
    if _NUMBER.fullmatch(cell) and not _YEAR.fullmatch(cell):
        return True
    if not values or not any(map(str.isdigit, cell)):
        return False
    alike = sum(_form(value) == _form(cell) for value in values)
    return alike * 2 >= len(values)


def _is_question(cell: str, values: list[str]) -> bool:
    """Tell whether ``cell`` may be a question of a survey: they stand above short answers, or end
    with a question mark or a colon.
    """
    return cell.endswith(("?", ":")) or bool(values and max(map(len, values)) <= _SHORT)


def _form(text: str) -> str:
    """Return what dates, times and ids of one kind have in common: all but their digits."""
    return "year" if _YEAR.fullmatch(text) else re.sub(r"\d+", "9", text)
