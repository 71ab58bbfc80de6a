"""Excel workbooks."""

from __future__ import annotations

import time
from datetime import datetime
from datetime import time as clock
from pathlib import Path

import openpyxl
import pytest

from tasks.ingest.readers.document import Document, Reject
from tests.ingest.office_files import BOMB, STORY, book, parts_of, sheet_xml, text_cell, zipped
from tests.ingest.reading import read, read_one, refusal


def test_rows_of_a_sheet_are_those_of_a_csv_file(tmp_path: Path) -> None:
    rows = [["Pump", "Hours"], ["P-3", 410], [None, None], ["P-4\nnew", 7.5]]
    document = read_one(book(tmp_path / "a.xlsx", Costs=rows))
    (tmp_path / "a.csv").write_text('Pump,Hours\nP-3,410\n,\n"P-4\nnew",7.5\n')
    assert document.text == "Costs\n" + read_one(tmp_path / "a.csv").text
    assert document.text == "Costs\nPump: P-3 | Hours: 410\nPump: P-4 new | Hours: 7.5\n"
    assert (document.member, document.format) == ("!Costs", "xlsx")
    assert [heading.title for heading in document.headings] == ["Costs"]


def test_values_are_shown_as_excel_shows_them(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", S=[["Kind", "Value"]])
    file = openpyxl.load_workbook(path)
    shown = {
        "share": (0.07, "0.0%"),
        "literal": (3, '0"%"'),
        "sum": (0.1 + 0.2, "General"),
        "day": (datetime.fromisoformat("2024-03-01"), "dd/mm/yy"),
        "moment": (datetime.fromisoformat("2024-03-01 14:30"), "dd/mm/yy hh:mm"),
        "hour": (clock(3, 4), "hh:mm"),
        "truth": (True, "General"),
        "escaped": ("two_x000D_\nlines", "General"),
    }
    for name, (value, form) in shown.items():
        file.active.append([name, value])
        file.active.cell(file.active.max_row, 2).number_format = form
    file.save(path)
    lines = read_one(path).text.splitlines()[1:]
    assert [line.partition("Value: ")[2] for line in lines] == [
        "7%",
        "3",
        "0.3",
        "2024-03-01",
        "2024-03-01 14:30",
        "03:04:00",
        "TRUE",
        "two lines",
    ]


def test_titles_stand_above_the_header_and_columns_without_a_name_keep_their_letter(
    tmp_path: Path,
) -> None:
    rows = [["Budget"], [], ["Pump", "Cost", "Cost", None], ["P-3", 1, 2, "spare"]]
    assert read_one(book(tmp_path / "a.xlsx", S=rows)).text == (
        "S\nBudget\nPump: P-3 | Cost (B): 1 | Cost (C): 2 | column D: spare\n"
    )
    (tmp_path / "a.xlsx").unlink()
    assert read_one(book(tmp_path / "a.xlsx", S=[[1, 2], [3, 4]])).text == "S\n1 | 2\n3 | 4\n"
    (tmp_path / "a.xlsx").unlink()
    lines = [[f"Line {number}"] for number in range(50)]
    text = read_one(book(tmp_path / "a.xlsx", S=lines)).text
    assert text.splitlines() == ["S", *(line for (line,) in lines)]


def test_a_column_of_texts_gives_a_document_a_row(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", S=[["id", "text"], [1, STORY], [2, None]], T=[["b"], ["x"]])
    first, second, third = read(path)
    assert isinstance(first, Document) and (first.member, first.text) == ("!S#2", STORY)
    assert isinstance(second, Reject) and (second.member, second.reason) == ("!S#3", "empty")
    assert third.member == "!T"
    other = read(path, text_column="b")
    assert [item.member for item in other] == ["!S", "!T#2"]
    assert isinstance(other[0], Reject) and other[0].reason == "no_text_column"
    assert "there are: id, text" in other[0].detail


def test_hidden_empty_and_broken_sheets_are_rejects(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", Good=[["a", "b"], [1, 2]], Secret=[["x", "y"]], Blank=[])
    file = openpyxl.load_workbook(path)
    file["Secret"].sheet_state = "veryHidden"
    file.create_sheet("Broken").append(["a", "b"])
    file.save(path)
    parts = parts_of(path)
    parts["xl/worksheets/sheet4.xml"] = parts["xl/worksheets/sheet4.xml"][:-40]
    found = read(zipped(path, parts))
    assert [(item.member, getattr(item, "reason", "")) for item in found] == [
        ("!Good", ""),
        ("!Secret", "hidden"),
        ("!Blank", "empty"),
        ("!Broken", "damaged"),
    ]


def test_formulas_without_a_value_errors_and_comments_are_counted(tmp_path: Path) -> None:
    from openpyxl.comments import Comment

    path = book(tmp_path / "a.xlsx", S=[["a", "b"], [1, "=A2*2"], ["#DIV/0!", 4]])
    file = openpyxl.load_workbook(path)
    file.active["A1"].comment = Comment("Is that so?", "Ann")
    file.save(path)
    document = read_one(path)
    assert document.text == "S\na: 1\nb: 4\n"
    assert dict(document.left_out) == {"comment": 1, "error_value": 1, "formula": 1}
    cells = f'<row r="1">{text_cell("A1", "a")}{text_cell("B1", "b")}</row>'
    cells += '<row r="2"><c r="A2"><f>1+1</f><v>2</v></c><c r="B2"><f>cmd</f><v>3</v></c></row>'
    saved = read_one(sheet_xml(tmp_path / "b.xlsx", cells))
    assert saved.text == "Sheet\na: 2 | b: 3\n" and not saved.left_out
    alone = sheet_xml(tmp_path / "c.xlsx", '<row r="1"><c r="A1"><f>1+1</f></c></row>')
    (reject,) = read(alone)
    assert isinstance(reject, Reject) and reject.reason == "empty"
    assert reject.detail.startswith("1 formulas without a saved value")


def test_a_long_sheet_is_read_in_parts_that_name_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.ingest.readers import tables

    monkeypatch.setattr(tables, "_TABLE_CHARS", 40)
    rows = [["a", "b"], *([number, "some text here"] for number in range(6))]
    found = read(book(tmp_path / "a.xlsx", S=rows))
    assert [item.member for item in found] == ["!S#2-3", "!S#4-5", "!S#6-7"]
    assert all(isinstance(item, Document) and item.text.startswith("S\na: ") for item in found)


def test_a_million_empty_rows_cost_little(tmp_path: Path) -> None:
    """The sheet has one cell, in the last column of the last row that Excel allows."""
    rows = '<row r="1048576">' + text_cell("XFD1048576") + "</row>"
    began = time.process_time()
    document = read_one(sheet_xml(tmp_path / "a.xlsx", rows))
    assert document.text == f"Sheet\n{STORY}\n" and time.process_time() - began < 20
    beyond = sheet_xml(tmp_path / "b.xlsx", f'<row r="4000000000">{text_cell("A1")}</row>')
    (reject,) = read(beyond)
    assert isinstance(reject, Reject) and reject.reason == "damaged"
    assert "1,048,576 rows" in reject.detail


def test_one_text_in_very_many_cells_is_a_bomb(tmp_path: Path) -> None:
    """Some kilobytes that hold gigabytes of text, in cells or as the name of a column."""
    cells = "".join(f'<row r="{n}"><c t="s"><v>0</v></c></row>' for n in range(1, 5000))
    path = sheet_xml(tmp_path / "a.xlsx", cells, strings="long text " * 20_000)
    assert path.stat().st_size < 100_000
    (reject,) = read(path, max_bytes=2 << 20)
    assert isinstance(reject, Reject) and reject.reason == "too_large"
    cells = '<row r="1"><c t="s"><v>0</v></c><c t="inlineStr"><is><t>b</t></is></c></row>'
    cells += "".join(f'<row r="{n}"><c><v>1</v></c></row>' for n in range(2, 12_000))
    found = read(
        sheet_xml(tmp_path / "b.xlsx", cells, strings="long text " * 29), max_bytes=2 << 20
    )
    assert isinstance(found[-1], Reject) and found[-1].reason == "too_large"
    assert sum(len(item.text) for item in found if isinstance(item, Document)) < 4 << 20


def test_entities_of_a_workbook_are_not_expanded(tmp_path: Path) -> None:
    canary = tmp_path / "secret"
    canary.write_text("CANARY")
    path = tmp_path / "a.xlsx"
    for head in (BOMB, f'<!DOCTYPE x [<!ENTITY l9 SYSTEM "file://{canary}">]>'):
        row = f'<row r="1">{text_cell("A1", "&l9;")}</row>'
        (reject,) = read(sheet_xml(path, row, head))
        assert isinstance(reject, Reject) and "EntitiesForbidden" in reject.detail
        for name in ("xl/sharedStrings.xml", "xl/workbook.xml"):
            parts = parts_of(sheet_xml(path, '<row><c t="s"><v>0</v></c></row>', strings="x"))
            parts[name] = head + parts[name].replace("<t>x</t>", "<t>&l9;</t>")
            assert refusal(zipped(path, parts)).reason == "damaged"
