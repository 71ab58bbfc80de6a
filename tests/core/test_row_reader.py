"""Rows of files: the same from every format, and one line for what cannot be read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import PipelineError
from tasks.core.row_reader import holds_rows, read_hub_rows, read_rows

_ROWS: list[dict[str, Any]] = [{"id": "01", "text": "a\nb, c"}, {"id": "2", "text": "\u00e9 NA"}]
_LINES = "".join(json.dumps(row) + "\n" for row in _ROWS)
_CSV = 'id,text\n01,"a\nb, c"\n\n2,\u00e9 NA\n'


def _write(path: Path) -> Path:
    """Write ``_ROWS`` in the format of the file's name."""
    table, name = pa.Table.from_pylist(_ROWS), path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(table, path)
    elif name.endswith(".arrow"):
        with pa.ipc.new_stream(str(path), table.schema) as stream:
            stream.write_table(table)
    else:
        text = _LINES if "json" in name else _CSV
        content = (
            text.replace("id,", "id\t").replace("01,", "01\t").replace("2,", "2\t")
            if name.endswith(".tsv")
            else text
        ).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.ndjson.gz", "a.csv", "a.csv.gz", "a.tsv", "a.parquet", "a.arrow"],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    assert holds_rows(tmp_path / name)
    assert list(read_rows(_write(tmp_path / name))) == _ROWS


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    for name, text in (("a.csv", _CSV), ("a.jsonl", _LINES)):
        (tmp_path / name).write_bytes(text.encode("utf-8-sig"))
        assert list(read_rows(tmp_path / name)) == _ROWS


def test_types_of_a_csv_file_are_inferred_on_request(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,text\n1,NA\n0,2 x\n")
    rows = list(read_rows(tmp_path / "a.csv", infer_types=True))
    assert rows == [{"label": 1, "text": "NA"}, {"label": 0, "text": "2 x"}]


@pytest.mark.parametrize(
    "cells", [("007", "12"), ("12.50", "7.00"), ("1", "NA"), ("", ""), ("1e5", "2")]
)
def test_a_number_that_would_print_otherwise_is_text(
    tmp_path: Path, cells: tuple[str, str]
) -> None:
    """An answer 12.50 became 12.5, 007 became 7, and an empty column null."""
    (tmp_path / "a.csv").write_text("answer,label\n{},0\n{},1\n".format(*cells))
    rows = list(read_rows(tmp_path / "a.csv", infer_types=True))
    assert rows == [{"answer": cell, "label": label} for label, cell in enumerate(cells)]


@pytest.mark.parametrize(
    ("cells", "values"),
    [(("4.0", "0.5"), (4.0, 0.5)), (("true", "False"), (True, False)), (("3", ""), (3, None))],
)
def test_numbers_and_truth_values_have_their_types(
    tmp_path: Path, cells: tuple[str, str], values: tuple[Any, Any]
) -> None:
    (tmp_path / "a.csv").write_text("answer,label\n{},0\n{},1\n".format(*cells))
    rows = list(read_rows(tmp_path / "a.csv", infer_types=True))
    assert [row["answer"] for row in rows] == list(values)


def test_a_long_field_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1," + "x" * 2_000_000 + "\n")
    (row,) = read_rows(tmp_path / "a.csv")
    assert len(row["text"]) == 2_000_000


_LATIN = "\u00e9".encode("latin-1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n\n{"a":\n', "line 3 is not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2 is not a JSON object"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not valid JSON"),
        ("a.jsonl", _LINES.encode("utf-16"), "line 1 is not UTF-8"),
        ("a.jsonl", b'{"a": 1}\n{"a": "' + _LATIN + b'"}\n', "line 2 is not UTF-8"),
        ("a.csv", _CSV.encode("utf-16"), "line 1 is not UTF-8"),
        ("a.csv", b"id,text\n1,a\n2," + _LATIN + b"\n", "line 3 is not UTF-8"),
        ("a.csv", b"id,text\n1,a\n2,b,c\n3,d\n", "line 3 has 3 cells, the header has 2"),
        ("a.csv", b"id,text\n1,a\n2\n", "line 3 has 1 cells, the header has 2"),
        ("a.csv.gz", b"id,text\n", "cannot be read after line 0"),
        (
            "a.jsonl.gz",
            gzip.compress(_LINES.encode() * 999, mtime=0)[:-40],
            r"cannot be read after line \d",
        ),
        ("a.csv.gz", gzip.compress(_CSV.encode() * 9, mtime=0)[:-9], "cannot be read after line"),
        ("a.parquet", b"PAR1 no Parquet", "cannot be read"),
        ("a.arrow", b"no Arrow", "cannot be read"),
        ("a.txt", b"", r"rows must be in a file of \.jsonl"),
        ("a.parquet.gz", b"", r"rows must be in a file of \.jsonl"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PipelineError, match=f"{name} {message}|{name}: {message}") as error:
        list(read_rows(tmp_path / name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.csv.gz", "a.parquet", "a.arrow"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(PipelineError, match=f"{name} does not exist"):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize(("set_to", "sent"), [("hf_mine", "hf_mine"), ("", None)])
def test_a_private_dataset_of_the_hub_is_asked_for_with_the_users_token(
    monkeypatch: pytest.MonkeyPatch, set_to: str, sent: str | None
) -> None:
    import datasets

    class Rows(list[dict[str, Any]]):
        features = None

    asked: list[Any] = []

    def load_dataset(*_: Any, token: str | None = None, **__: Any) -> Rows:
        asked.append(token)
        return Rows([{"text": "a"}])

    monkeypatch.setenv("HF_TOKEN", set_to)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(read_hub_rows("someone/private", "", "train")) == [{"text": "a"}]
    assert asked == [sent]
