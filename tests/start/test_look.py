"""What ``make start`` does for corpora that the first settings do not suit: tables without a column
``text``, short texts, files that cannot be read, and items in the corpus.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.yaml_file import read_yaml
from tasks.ingest.discovery import CorpusFile, discover
from tasks.start import draw as module
from tasks.start.columns import choose_column, find_tables, tell_tables
from tasks.start.draw import Draw, draw, link
from tests.start.conftest import ENGLISH, GERMAN, begin, write_texts

_MOST = 256 << 20
_VIDEO = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 64
_SHORT = "Pump {n} stopped because its bearing ran hot, and crew {n} put in a new one by noon."


def _rows(count: int = 12, **columns: str) -> str:
    texts = (
        {"doc_id": str(n), **{name: text.replace("{n}", str(n)) for name, text in columns.items()}}
        for n in range(1, count + 1)
    )
    return "".join(json.dumps(row) + "\n" for row in texts)


def _draw(folder: Path, most: int = _MOST) -> Draw:
    return draw([file for file in discover(folder) if not file.problem], most, 1)


def _names(files: tuple[CorpusFile, ...]) -> list[str]:
    return sorted(file.name for file in files)


def _ingest(desk: Path, name: str) -> dict[str, Any]:
    section: dict[str, Any] = read_yaml(desk / f"profiles/{name}.yaml")["ingest"]
    return section


@pytest.mark.usefixtures("ingest_here")
def test_the_only_column_of_long_text_is_taken_and_said(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk / "docs.jsonl").write_text(_rows(body=ENGLISH, date="1 May"))
    asked = {"CORPUS": desk / "docs.jsonl", "NAME": "rows", "SET": "ingest.languages=[en]"}
    assert begin(monkeypatch, **asked) == 0
    assert _ingest(desk, "rows")["text_column"] == "body"
    printed = capsys.readouterr().out
    assert "are left out" not in printed
    assert "again, with the column 'body'" in printed
    assert "ingest.text_column body: the only column of docs.jsonl with long text" in printed


def test_a_stray_table_is_not_what_is_wrong_with_a_corpus(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is its only long column taken for the corpus."""
    corpus = desk / "scans"
    corpus.mkdir()
    (corpus / "about.json").write_text(json.dumps({"year": 2019, "what": ENGLISH}))
    for number in range(3):
        (corpus / f"{number}.doc").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
    assert begin(monkeypatch, CORPUS=corpus, NAME="scans") == 2
    error = capsys.readouterr().err
    assert "unsupported_format 3" in error and "no_text_column 1" in error


def test_tables_that_no_column_can_be_named_of(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"1,{ENGLISH}\n2,{ENGLISH}\n".replace(", ", " "))
    (tmp_path / "deep.json").write_text("[" * 50_000 + "]" * 50_000)
    assert find_tables(tmp_path) == []


@pytest.mark.usefixtures("ingest_here")
def test_of_two_columns_the_user_names_one(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = desk / "docs.jsonl"
    corpus.write_text(_rows(abstract=ENGLISH, **{"Full: Text (EN)": ENGLISH, "no": ENGLISH}))
    assert begin(monkeypatch, CORPUS=corpus, NAME="rows") == 2
    error = capsys.readouterr().err
    assert "(docs.jsonl: doc_id, abstract, Full: Text (EN), no)" in error
    assert "make start ... SET=ingest.text_column=NAME" in error
    setting = """'ingest.text_column="Full: Text (EN)"' ingest.citations=false"""
    assert begin(monkeypatch, CORPUS=corpus, NAME="rows", SET=setting) == 0
    written = _ingest(desk, "rows")
    assert written["text_column"] == "Full: Text (EN)" and written["citations"] is False


def test_columns_of_every_kind_of_table(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(_rows(body=ENGLISH))
    (tmp_path / "b.json").write_text(json.dumps([{"id": 1, "body": ENGLISH, "n": {"x": "y"}}]))
    pq.write_table(pa.table({"id": [1], "body": [ENGLISH]}), tmp_path / "c.parquet")
    (tmp_path / "d.csv").write_text(f'id,body\n1,"{ENGLISH}"\n')
    (tmp_path / "e.jsonl").write_text(_rows(text=ENGLISH))
    (tmp_path / "f.jsonl").write_text("{no JSON\n")
    tables = find_tables(tmp_path)
    assert sorted(table.table for table in tables) == ["a.jsonl", "b.json", "c.parquet", "d.csv"]
    assert choose_column(tables) == "body"
    lines = "\n".join(tell_tables(tables))
    assert "d.csv is read as a table; for a document a row: SET=ingest.text_column=COLUMN" in lines
    assert "(one of id, body, n.x)" in lines
    (tmp_path / "g.jsonl").write_text(_rows(content=ENGLISH))
    assert choose_column(find_tables(tmp_path)) == ""


def test_a_table_that_is_read_whole_is_told(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(f'{n},"{ENGLISH}"\n'.replace("{n}", str(n)) for n in range(1, 13))
    (desk / "docs.csv").write_text("doc_id,Full Text (EN)\n" + lines)
    assert begin(monkeypatch, CORPUS=desk / "docs.csv", NAME="table") == 0
    assert "text_column" not in _ingest(desk, "table")
    said = " ".join(capsys.readouterr().out.split())
    assert "docs.csv is read as a table; for a document a row" in said
    assert "(one of doc_id, Full Text (EN))" in said


@pytest.mark.usefixtures("ingest_here")
def test_short_texts_are_read_with_half_the_least_length(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk / "short.jsonl").write_text(_rows(text=_SHORT))
    setting = "ingest.near_duplicates=0"
    assert begin(monkeypatch, CORPUS=desk / "short.jsonl", NAME="short", SET=setting) == 0
    assert _ingest(desk, "short")["min_tokens"] == 20
    assert "halved: of the sample 100% were too short" in (desk / "profiles/short.yaml").read_text()
    said = " ".join(capsys.readouterr().out.split())
    assert "12 passages" in said and "dropped none" in said
    # Not where the user has set it; the error then names a value that works.
    asked = {"CORPUS": desk / "short.jsonl", "NAME": "other"}
    assert begin(monkeypatch, **asked, SET=f"{setting} ingest.min_tokens=35") == 2
    error = capsys.readouterr().err
    value = error.split("SET=ingest.min_tokens=")[1].split(",")[0]
    assert begin(monkeypatch, **asked, SET=f"{setting} ingest.min_tokens={value}") == 0


@pytest.mark.usefixtures("ingest_here")
def test_texts_that_are_too_short_for_half_of_it_are_told(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(json.dumps({"text": f"Works well, {n}."}) + "\n" for n in range(20))
    (desk / "tiny.jsonl").write_text(_rows(text=_SHORT) + rows)
    setting = "ingest.near_duplicates=0"
    assert begin(monkeypatch, CORPUS=desk / "tiny.jsonl", NAME="tiny", SET=setting) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "of the passages have fewer than 20 tokens and are left out; SET=ingest.min" in said


@pytest.mark.parametrize("name", ["video.mp4", "video.txt", "video"])
def test_a_large_unreadable_file_is_in_no_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for limit in ("BYTES", "TEXT_BYTES"):
        monkeypatch.setattr(module, limit, 8000)
    write_texts(tmp_path / "docs", ENGLISH, 6)
    (tmp_path / "docs" / name).write_bytes(_VIDEO)
    drawn = _draw(tmp_path / "docs")
    assert drawn.whole and len(drawn.chosen) == 6 and _names(drawn.unreadable) == [name]
    assert drawn.sampled == drawn.size < 3000 < drawn.total and drawn.needs_copy()
    copy = link(drawn, tmp_path / "copy")
    assert (copy / name).stat().st_size <= 4096, "the beginning says why"


def test_a_large_file_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few small texts say nothing about a large PDF, and a very large one is left out."""
    monkeypatch.setattr(module, "BYTES", 8000)
    write_texts(tmp_path, ENGLISH, 6)
    (tmp_path / "large.pdf").write_bytes(b"%PDF-" + bytes(20_000))
    monkeypatch.setattr(module, "_ONE_FILE", 32_000)
    assert _draw(tmp_path).whole
    monkeypatch.setattr(module, "_ONE_FILE", 16_000)
    drawn = _draw(tmp_path)
    assert _names(drawn.left_out) == ["large.pdf"] and len(drawn.chosen) == 6
    assert drawn.size == drawn.sampled and not drawn.whole
    write_texts(tmp_path, GERMAN, 90)
    drawn = _draw(tmp_path)
    assert not drawn.left_out and "large.pdf" not in _names(drawn.chosen)
    assert drawn.size == drawn.total


@pytest.mark.parametrize(("suffix", "opener"), [("gz", gzip.open), ("xz", lzma.open)])
def test_of_a_compressed_text_the_beginning_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, opener: Any
) -> None:
    """27 MB of JSONL in 7 MB of gzip were under every limit, and took minutes."""
    monkeypatch.setattr(module, "TEXT_BYTES", 8000)
    rows = _rows(400, text=ENGLISH).encode()
    (tmp_path / "docs").mkdir()
    packed = tmp_path / f"docs/rows.jsonl.{suffix}"
    with opener(packed, "wb") as stream:
        stream.write(rows)
    drawn = _draw(tmp_path / "docs")
    assert drawn.sampled == 8000 and not drawn.whole and drawn.total == packed.stat().st_size
    assert drawn.needs_copy() and len(rows) / 2 < drawn.size < len(rows) * 2
    with opener(link(drawn, tmp_path / "copy") / packed.name) as stream:
        start = stream.read()
    assert rows.startswith(start + b"\n") and 7000 < len(start) < 8000
    with opener(packed, "wb") as stream:
        stream.write(rows[:5000])
    drawn = _draw(tmp_path / "docs")
    assert drawn.whole and drawn.sampled == drawn.size == 5000 and not drawn.needs_copy()


def test_beside_a_small_text_the_beginning_of_a_large_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.8 MB of a table came first, and 27 MB of contracts were not looked at."""
    monkeypatch.setattr(module, "TEXT_BYTES", 4000)
    (tmp_path / "small.txt").write_text("x" * 1500)
    (tmp_path / "large.txt").write_text(ENGLISH * 100)
    for seed in range(8):
        drawn = draw(list(discover(tmp_path)), _MOST, seed)
        assert "large.txt" in drawn.read and drawn.sampled == 4000, seed


def test_a_compressed_text_that_ingest_refuses_is_too_large(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.txt.gz", "wb") as stream:
        stream.write(ENGLISH.encode() * 9000)
    (tmp_path / "b.txt.gz").write_bytes(b"\x1f\x8b no gzip")
    write_texts(tmp_path, ENGLISH, 2)
    drawn = _draw(tmp_path, most=1 << 20)
    assert _names(drawn.unreadable) == ["a.txt.gz"]
    assert "b.txt.gz" in _names(drawn.chosen), "ingest says what is wrong with it"


def test_a_damaged_text_that_was_not_opened_is_left_to_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many compressed texts a few are unpacked; the look ended in a trace at one of the rest."""
    monkeypatch.setattr(module, "TEXT_BYTES", 8000)
    monkeypatch.setattr(module, "_OF_A_SUFFIX", 1)
    with gzip.open(tmp_path / "a.txt.gz", "wb") as stream:
        stream.write(ENGLISH.encode() * 20)
    damaged = tmp_path / "b.txt.gz"
    damaged.write_bytes(b"\x1f\x8b no gzip" * 500)
    files = sorted(discover(tmp_path), key=lambda file: file.name)
    monkeypatch.setattr(module, "row_seed", lambda *key: 0)  # in the order of their names
    drawn = draw(files, _MOST, 1)
    assert list(drawn.read) == ["a.txt.gz", "b.txt.gz"] and not drawn.whole
    assert (link(drawn, tmp_path / "copy") / "b.txt.gz").readlink() == damaged


def test_the_passages_so_far_are_told(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.start.apart._EVERY", 0.02)
    assert begin(monkeypatch, CORPUS=desk / "docs here", NAME="mine") == 0
    assert "6/6 files, 6 passages so far\n" in capsys.readouterr().out


def test_few_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    look: Callable[..., Any] = module._find_kind

    def count(file: CorpusFile, *sizes: int) -> Any:
        opened.append(file.name)
        return look(file, *sizes)

    monkeypatch.setattr(module, "_find_kind", count)
    monkeypatch.setattr(module, "_LARGEST", 5)
    for number in range(60):
        (tmp_path / f"{number}.bin").write_bytes(_VIDEO)
        (tmp_path / f"{number}.txt").write_text(ENGLISH)
        (tmp_path / f"{number}.dat").write_text(ENGLISH)
        (tmp_path / f"{number}").write_text("")
    drawn = _draw(tmp_path)
    assert len(drawn.chosen) == 120 and len(drawn.unreadable) == 120 and drawn.whole
    assert len(opened) == len(set(opened)) <= 5 + 2 * 20


def test_a_text_that_ingest_refuses_is_too_large(tmp_path: Path) -> None:
    write_texts(tmp_path, ENGLISH, 2)
    for name in ("a.txt", "a.md", "a.json", "a.csv"):
        with (tmp_path / name).open("wb") as stream:
            stream.write(b"text\n" + ENGLISH.encode() * 4)
            os.truncate(stream.fileno(), 3 << 20)
    (tmp_path / "a.csv").write_bytes(b"text\n" + ENGLISH.encode() * 9000)
    drawn = _draw(tmp_path, most=1 << 20)
    assert _names(drawn.unreadable) == ["a.json", "a.md", "a.txt"]
    assert {file.problem.reason for file in drawn.unreadable if file.problem} == {"too_large"}


def test_the_look_says_what_a_run_refuses(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk / "docs here/long.txt").write_text(ENGLISH * 5000)
    (desk / "docs here/video.mp4").write_bytes(_VIDEO * 600)
    asked = {"CORPUS": desk / "docs here", "NAME": "mine", "SET": "ingest.max_file_mb=1"}
    assert begin(monkeypatch, **asked) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "8 files" in said and "en 6 (passages)" in said and "all looked at" in said
    assert "not read too_large 1, unsupported_format 1" in said
    assert _ingest(desk, "mine")["max_file_mb"] == 1


@pytest.mark.usefixtures("ingest_here")
def test_a_model_of_a_profile_is_no_gpu(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.start.proposal._FIRST_LOOK", 2)
    for name, room, most in (("cores", None, 2), ("card", 1 << 30, 0)):
        monkeypatch.setattr("scripts.start.card_bytes", lambda room=room: room)
        assert begin(monkeypatch, CORPUS=desk / "docs here", NAME=name, MODEL="big") == 0
        assert read_yaml(desk / f"profiles/{name}.yaml")["generate"]["max_passages"] == most
        said = " ".join(capsys.readouterr().out.split())
        few = "generate.max_passages 2, of about 6: a first look in minutes; 0: all (profiles/cores"
        assert (few in said) == bool(most), "nobody who reads the printed plan alone would know"


@pytest.mark.usefixtures("ingest_here")
def test_little_english_is_said_as_it_is(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(desk / "deutsch", GERMAN, 32)
    write_texts(desk / "deutsch", ENGLISH, 1)
    setting = "ingest.near_duplicates=0"
    assert begin(monkeypatch, CORPUS=desk / "deutsch", NAME="eins", SET=setting) == 2
    assert "deutsch: only 3 % of its text is in English (passages: de 32, en 1)" in (
        capsys.readouterr().err
    )
