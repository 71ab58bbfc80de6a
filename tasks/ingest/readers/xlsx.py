"""Excel workbooks through openpyxl: every sheet that is shown is a table, read as a stream, with
the values that the formulas had when it was saved; without comments and errors.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, time
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from tasks.ingest.readers import headers, tables
from tasks.ingest.readers.columns import get_text
from tasks.ingest.readers.decoding import tidy
from tasks.ingest.readers.detect import prefix_member
from tasks.ingest.readers.document import (
    Budget,
    Document,
    ReaderItem,
    ReadOptions,
    Reject,
    Unreadable,
    spare,
)
from tasks.ingest.readers.office import (
    A,
    R,
    Relation,
    find_main_part,
    open_package,
    parse_part,
    read_relations,
)

_S = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
#: Rows that Excel has at most.
_MOST_ROWS = 1 << 20
#: Most rows of one cell above a table's header.
_MOST_TITLES = 20
_QUOTED = re.compile(r'"[^"]*"|\\.')

#: A row's number, and its texts by column, both from 1.
_Row = tuple[int, dict[int, str]]


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the rows of each sheet as those of a CSV file; a sheet that is hidden, empty or broken
    is a reject.

    Raises :class:`Unreadable` where what all sheets share cannot be read: their texts, and the
    styles, without which a date is a number.
    """
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet

    warnings.filterwarnings("ignore", module="openpyxl")
    budget = Budget(options.max_bytes, 0)
    with open_package(path, options, "an Excel workbook") as archive, path.open("rb") as stream:
        book, texts = _open_book(stream)
        there = frozenset(archive.namelist())
        for title, state, part in _sheets(archive):
            member = f"!{title}"
            lost: list[Reject] = []
            with spare(lost, member):
                if part not in there:
                    raise Unreadable("damaged", "the file names this sheet, and has none")
                if state != "visible":
                    yield Reject(member, "hidden", "a hidden sheet: show it to have it read")
                    continue
                found = _Sheet(ReadOnlyWorksheet(book, title, part, texts), budget)
                found.count_left_out(archive, part, lost, member)
                for item in found.read(options.text_column):
                    yield prefix_member(item, member)
            yield from lost


def _open_book(stream: IO[bytes]) -> tuple[Any, Any]:
    """Return openpyxl's workbook without its sheets, and the texts that they share.

    ``openpyxl.load_workbook`` would refuse the file for one broken sheet, or a broken part that is
    not read here, such as its theme.
    """
    from openpyxl.reader.excel import ExcelReader
    from openpyxl.styles.stylesheet import apply_stylesheet

    # What is kept of other workbooks that it refers to can be large, and is not read.
    reader = ExcelReader(stream, read_only=True, data_only=True, keep_links=False)
    reader.read_manifest()
    reader.read_strings()
    reader.read_workbook()
    apply_stylesheet(reader.archive, reader.wb)
    return reader.wb, reader.shared_strings


def _sheets(archive: zipfile.ZipFile) -> Iterator[tuple[str, str, str]]:
    """Yield each sheet's title, state, and the name of its part, empty where it has none."""
    main = find_main_part(archive)
    relations, root = read_relations(archive, main), parse_part(archive, main)
    for sheet in root.iterfind(f"{_S}sheets/{_S}sheet"):
        relation = relations.get(sheet.get(f"{R}id", ""), Relation("", ""))
        if relation.kind != "chartsheet":
            yield sheet.get("name", ""), sheet.get("state", "visible"), relation.target


@dataclass
class _Sheet:
    """One sheet; the characters that it may still give are in ``budget``."""

    sheet: Any
    budget: Budget
    left_out: Counter[str] = field(default_factory=Counter)

    def count_left_out(
        self, archive: zipfile.ZipFile, part: str, rejects: list[Reject], member: str
    ) -> None:
        """Count comments, charts, boxes with text, and formulas without a saved value: a program
        that does not calculate writes those. A part of them that is broken is one of ``rejects``.
        """
        from lxml import etree

        relations: dict[str, Relation] = {}
        with spare(rejects, f"{member} relations"):
            relations = read_relations(archive, part)
        for relation in relations.values():
            with spare(rejects, f"{member} {relation.kind}"):
                self._count_part(archive, relation)
        with archive.open(part) as stream:
            rows = etree.iterparse(stream, tag=f"{_S}row", resolve_entities=False, no_network=True)
            for _, row in rows:
                self.left_out["formula"] += sum(
                    cell.find(f"{_S}f") is not None and not cell.findtext(f"{_S}v") for cell in row
                )
                row.clear()

    def _count_part(self, archive: zipfile.ZipFile, relation: Relation) -> None:
        if relation.kind == "comments":
            comments = parse_part(archive, relation.target).iter(f"{_S}comment")
            self.left_out["comment"] += sum(1 for _ in comments)
        elif relation.kind == "drawing":
            drawing = parse_part(archive, relation.target)
            self.left_out["chart"] += sum(1 for _ in drawing.iter("{*}chart"))
            self.left_out["text_box"] += sum(
                any(True for _ in shape.iter(f"{A}t")) for shape in drawing.iter("{*}sp")
            )

    def read(self, text_column: str) -> Iterator[ReaderItem]:
        """Yield the sheet's rows as documents, each with a heading, the sheet's name."""
        above, header, rows = self._divide(text_column or "text")
        if not above and not header:
            unsaved = self.left_out["formula"]
            hint = "open it in a spreadsheet program and save it"
            detail = f"{unsaved} formulas without a saved value: {hint}" if unsaved else ""
            yield Reject("", "empty", detail or "no text in it")
            return
        names = _name_columns(header)
        named = ((place, self._name(row, names)) for place, row in rows)
        column = text_column or "text"
        if text_column or column in names.values():
            # Raises what the first row of a CSV file would.
            get_text(dict.fromkeys(names.values()), column)
            items = tables.read_texts(named, "xlsx", column)
        else:
            lines = ((place, {"": " | ".join(row.values())}) for place, row in above)
            items = tables.read_table(chain(lines, named), "xlsx", self.sheet.title)
        for item in items:
            if isinstance(item, Document):
                item = replace(item, left_out=tuple(sorted((+self.left_out).items())))
                self.left_out.clear()
            yield item

    def _divide(self, column: str) -> tuple[list[_Row], dict[int, str], Iterator[_Row]]:
        """Return the rows above the header, the header, and those below it.

        The header is the first row with the text's column; or the first with two cells, if none of
        them looks like a value (:func:`headers.is_header`). Without one, all rows are above or
        below an empty header.
        """
        rows = self._rows()
        above: list[_Row] = []
        for place, row in rows:
            if column in row.values():
                return above, row, rows
            if len(row) > 1:
                ahead = list(islice(rows, headers.SAMPLE_ROWS))
                if headers.is_header(row, [below for _, below in ahead]):
                    return above, row, chain(ahead, rows)
                return [*above, (place, row)], {}, chain(ahead, rows)
            above.append((place, row))
            if len(above) == _MOST_TITLES:
                break
        return above, {}, rows

    def _rows(self) -> Iterator[_Row]:
        """Yield the rows that are not blank."""
        self.sheet.reset_dimensions()  # they are often wrong, and then cost cells without end
        for place, cells in enumerate(self.sheet.rows, 1):
            if place > _MOST_ROWS:
                raise Unreadable("damaged", f"more than the {_MOST_ROWS:,} rows that Excel has")
            row = {}
            for cell in cells:
                text = "" if cell.value is None else self._show(cell)
                if text:
                    # One text may be the value of any number of cells.
                    self.budget.spend(len(text))
                    row[cell.column] = text
            if row:
                yield place, row

    def _name(self, row: dict[int, str], names: dict[int, str]) -> dict[str, str]:
        """Return a row's texts by the names of their columns, by the letter of a column that has
        none; where no column has a name, all in one text.
        """
        from openpyxl.utils import get_column_letter

        if not names:
            return {"": " | ".join(row.values())}
        # A name is repeated in every row.
        self.budget.spend(sum(len(names.get(column, "")) for column in row))
        texts = {
            names.get(column) or f"column {get_column_letter(column)}": text
            for column, text in row.items()
        }
        return texts | {name: "" for name in names.values() if name not in texts}

    def _show(self, cell: Any) -> str:
        """Return a cell's value much as Excel shows it; dates in the order year, month, day."""
        from openpyxl.utils.escape import unescape

        value = cell.value
        if cell.data_type == "e":
            self.left_out["error_value"] += 1
            return ""
        if isinstance(value, bool):
            return str(value).upper()
        if isinstance(value, int | float):
            percent = "%" in _QUOTED.sub("", cell.number_format or "")
            return f"{value * 100:.15g}%" if percent else _number(value)
        if isinstance(value, datetime):
            if value.time() == time():
                return value.date().isoformat()
            return value.isoformat(" ", "seconds" if value.second else "minutes")
        text = str(value)
        return (unescape(text) if "_x" in text else text).strip()


def _number(value: float) -> str:
    # Fifteen digits are all that Excel has: 0.1 + 0.2 is 0.3.
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _name_columns(header: dict[int, str]) -> dict[int, str]:
    """Return each column's name, with its letter where two have one name."""
    from openpyxl.utils import get_column_letter

    names = {column: " ".join(tidy(text).split()) for column, text in header.items()}
    counts = Counter(names.values())
    return {
        column: name if counts[name] == 1 else f"{name} ({get_column_letter(column)})"
        for column, name in names.items()
    }
