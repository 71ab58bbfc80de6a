"""Tables with and without a header; rows without the text's column; texts inside objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.ingest.readers.document import Document, Reject
from tests.ingest.office_files import book
from tests.ingest.reading import read, read_one, refusal

STORY = "The pump was stopped at noon. Its bearing had run hot since Monday, and a fitter came."
_QUESTION = "How satisfied were you with the repair of the pump in the northern station in 2019?"


def _lines(path: Path, rows: list[list[str]]) -> list[str]:
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return read_one(path).text.splitlines()


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([["0", STORY], ["1", f"{STORY} Again."]], id="a number and a text"),
        pytest.param([[f"{STORY} {n}", ""] for n in range(3)], id="long texts"),
        pytest.param([["Ann", "yes"], ["Bob", "no"], ["Cy", "yes"]], id="a value again"),
        pytest.param([["08:00", "Stopped"], ["08:15", "Restarted"]], id="times"),
        pytest.param([["2019-11-29", "Stopped"], ["2019-12-01", "Restarted"]], id="dates"),
        pytest.param([["P-3", "running"], ["P-14", "stopped"]], id="ids"),
        pytest.param([["Oslo", "2019", "a"], ["Rome", "2017", "b"]], id="years"),
        pytest.param([["Pump", "$1,200.50"], ["Valve", "3 €"]], id="amounts"),
        pytest.param([["1", "Oslo"]], id="one row"),
    ],
)
def test_a_first_row_of_values_names_no_column(tmp_path: Path, rows: list[list[str]]) -> None:
    shown = [" | ".join(filter(None, row)) for row in rows]
    assert _lines(tmp_path / "a.tsv", rows) == shown
    assert read_one(book(tmp_path / "a.xlsx", S=rows)).text.splitlines() == ["S", *shown]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([["site", "2019", "2020"], ["Oslo", "12", "13"]], id="years above counts"),
        pytest.param([["area", "1/22/20", "1/23/20"], ["N", "4", "12"]], id="dates above counts"),
        pytest.param([["area", "0-14", "65+"], ["N", "1400", "500"]], id="ages"),
        pytest.param([["site", "Q1", "Q2"], ["Oslo", "7", "9"]], id="quarters"),
        pytest.param([["when", _QUESTION], ["2019-11-29", "Very"]], id="a survey's question"),
        pytest.param([["when", f"{_QUESTION}?"], ["Monday", STORY]], id="its answer is long"),
        pytest.param([["a", "b"], ["1", "2"], ["a", "b"], ["3", "4"]], id="files put together"),
    ],
)
def test_a_header_stays(tmp_path: Path, rows: list[list[str]]) -> None:
    head, *below = rows
    shown = [
        " | ".join(f"{name}: {cell}" for name, cell in zip(head, row, strict=True)) for row in below
    ]
    assert _lines(tmp_path / "a.tsv", rows) == shown
    assert read_one(book(tmp_path / "a.xlsx", S=rows)).text.splitlines() == ["S", *shown]


def test_lines_above_a_first_row_of_values_stay_and_blank_ones_name_nothing(
    tmp_path: Path,
) -> None:
    rows = [["Report", ""], ["", ""], ["3", "P-1"], ["4", "P-2"]]
    assert _lines(tmp_path / "a.tsv", rows) == ["Report", "3 | P-1", "4 | P-2"]
    rows[2] = ["day", "pump"]
    assert _lines(tmp_path / "a.tsv", rows) == ["Report", "day: 4 | pump: P-2"]


def test_a_column_that_is_asked_for_is_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"1,text\n1,{STORY}\n2,text\n".replace(", and", " and"))
    assert [getattr(item, "text", "") for item in read(tmp_path / "a.csv")][1] == "text"
    (tmp_path / "b.csv").write_text("1,one\n2,two\n")
    assert "there are: none, as the table has no header" in (
        refusal(tmp_path / "b.csv", text_column="body").detail
    )


def test_a_damaged_first_row_costs_itself(tmp_path: Path) -> None:
    """Not all the others, though it does not tell which columns there are."""
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfname,city\nAnn,Os\xfflo\nBob,Rome\n")
    reject, table = read(tmp_path / "a.csv")
    assert isinstance(reject, Reject) and (reject.member, reject.reason) == ("#1", "damaged")
    assert isinstance(table, Document) and table.text == "name: Bob | city: Rome\n"
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbfname,city\nAnn,Os\xfflo\n")
    assert [getattr(item, "reason", "") for item in read(tmp_path / "b.csv")] == ["damaged"]


def test_a_column_s_name_of_several_lines_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"Price\n(EUR)",city\n5,Oslo\n7,Rome\n', encoding="utf-8")
    assert read_one(tmp_path / "a.csv").text.splitlines() == [
        "Price (EUR): 5 | city: Oslo",
        "Price (EUR): 7 | city: Rome",
    ]


# --- rows without the column


def _jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_first_row_without_the_column_costs_itself(tmp_path: Path) -> None:
    rows = [{"export": "2024"}, [1], {"text": ""}, *({"text": f"{STORY} {n}"} for n in range(30))]
    found = read(_jsonl(tmp_path / "a.jsonl", rows))
    rejects = [item for item in found if isinstance(item, Reject)]
    assert [(reject.member, reject.reason) for reject in rejects] == [
        ("#1", "no_text_column"),
        ("#2", "damaged"),
        ("#3", "empty"),
    ]
    assert "there are: export" in rejects[0].detail
    assert [item.member for item in found[3:]] == [f"#{n}" for n in range(4, 34)]


def test_a_hundred_rows_without_the_column_cost_the_file(tmp_path: Path) -> None:
    rows = [{"a": n} for n in range(99)]
    found = read(_jsonl(tmp_path / "a.jsonl", [*rows, {"text": STORY}]))
    assert len(found) == 100 and isinstance(found[-1], Document)
    problem = refusal(_jsonl(tmp_path / "b.jsonl", [*rows, {"a": 1}, {"text": STORY}]))
    assert problem.reason == "no_text_column" and "there are: a" in problem.detail


def test_what_an_error_lists_is_short(tmp_path: Path) -> None:
    row = {f"{n} {'x' * 100_000}": 1 for n in range(40)}
    detail = refusal(_jsonl(tmp_path / "a.jsonl", [row])).detail
    assert len(detail) < 2000 and detail.endswith("and 20 more")


# --- texts inside objects


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"text": {"title": "A", "body": STORY}}, "text.title, text.body"),
        ({"text": [{"p": STORY}]}, "text.p"),
        ({"documents": [{"id": 1, "body": STORY}], "n": 1}, "documents.id, documents.body, n"),
    ],
)
def test_an_object_is_no_text_and_its_parts_are_named(
    tmp_path: Path, row: dict[str, Any], names: str
) -> None:
    problem = refusal(_jsonl(tmp_path / "a.jsonl", [row] * 3))
    assert problem.reason == "no_text_column" and problem.detail.endswith(f": {names}")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert refusal(tmp_path / "a.parquet").reason == "no_text_column"


def test_a_dotted_name_goes_into_objects_and_through_lists(tmp_path: Path) -> None:
    squad = {
        "data": [
            {"title": "A", "paragraphs": [{"context": "One."}, {"context": "Two."}]},
            {"title": "B", "paragraphs": [{"qas": []}, {"context": ["Three.", None, "Four."]}]},
        ]
    }
    (tmp_path / "a.json").write_text(json.dumps(squad))
    name = "data.paragraphs.context"
    assert read_one(tmp_path / "a.json", text_column=name).text == "One.\n\nTwo.\n\nThree.\n\nFour."
    problem = refusal(tmp_path / "a.json", text_column="data.paragraphs")
    assert problem.detail.endswith("with: data.paragraphs.context")
    row = {"a.b": "The literal name.", "a": {"b": "The nested one."}}
    assert read_one(_jsonl(tmp_path / "b.jsonl", [row]), text_column="a.b").text == row["a.b"]


@pytest.mark.parametrize("name", ["a.csv", "b.tsv", "c.jsonl", "d"])
def test_a_table_under_another_name_is_what_its_first_bytes_say(tmp_path: Path, name: str) -> None:
    table = pa.table({"body": [STORY]})
    pq.write_table(table, tmp_path / "parquet")
    with (
        pa.OSFile(str(tmp_path / "arrow"), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as to,
    ):
        to.write_table(table)
    for form in ("parquet", "arrow"):
        (tmp_path / form).rename(tmp_path / name)
        assert "no column 'text', there are: body" in refusal(tmp_path / name).detail
        document = read_one(tmp_path / name, text_column="body")
        assert (document.text, document.format) == (STORY, form)
    (tmp_path / "e.txt").write_text(f"ARROW1 {STORY}")
    assert read_one(tmp_path / "e.txt").format == "text"


def test_a_row_has_the_number_of_its_line_whatever_the_file_is_called(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text('\n{"text": "One."}\n\n{"text": "Two."}\n')
        assert [item.member for item in read(tmp_path / name)] == ["#2", "#4"], name


def test_bytes_are_decoded(tmp_path: Path) -> None:
    table = pa.table({"text": [b"Gr\xc3\xbc\xc3\x9fe.", bytes(range(256)) * 9]})
    pq.write_table(table, tmp_path / "a.parquet")
    good, bad = read(tmp_path / "a.parquet")
    assert isinstance(good, Document) and good.text == "Grüße."
    assert isinstance(bad, Reject) and bad.reason == "binary"
