"""A damaged part of a file (a row group, a slide, a page) costs that part, with its reason; the
parts before and behind it are read, under their own numbers.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl.comments import Comment

from tasks.ingest.readers import detect
from tasks.ingest.readers.document import Document, ReadOptions, Reject, Unreadable
from tests.ingest.office_files import book, epub, odt, relations, shape, slide, slides
from tests.ingest.pdf_files import make_scan, pdf


def _read(path: Path, **options: Any) -> tuple[list[Document], list[Reject]]:
    found = list(detect.read(path, ReadOptions(**options)))
    return (
        [item for item in found if isinstance(item, Document)],
        [item for item in found if isinstance(item, Reject)],
    )


def _rows(count: int) -> pa.Table:
    texts = [f"Row {number} of the pump's log. " * 5 for number in range(1, count + 1)]
    return pa.table({"id": range(count), "text": texts})


def _overwrite(path: Path, start: int, end: int) -> None:
    data = bytearray(path.read_bytes())
    data[start:end] = b"\xab" * (end - start)
    path.write_bytes(data)


def _break_groups(path: Path, *groups: int) -> None:
    metadata = pq.read_metadata(path)
    for group in groups:
        texts = metadata.row_group(group).column(1)
        start = texts.dictionary_page_offset or texts.data_page_offset
        _overwrite(path, start, start + texts.total_compressed_size)


@pytest.mark.parametrize("groups", [(1,), (0, 3), (5,)])
def test_a_row_group_that_is_damaged_costs_its_rows(
    tmp_path: Path, groups: tuple[int, ...]
) -> None:
    pq.write_table(_rows(6000), tmp_path / "a.parquet", row_group_size=1000)
    _break_groups(tmp_path / "a.parquet", *groups)
    documents, rejects = _read(tmp_path / "a.parquet")
    lost = {1000 * group + number for group in groups for number in range(1, 1001)}
    assert [document.member for document in documents] == [
        f"#{number}" for number in range(1, 6001) if number not in lost
    ]
    assert all(item.text.startswith(f"Row {item.member[1:]} of") for item in documents)
    assert [(item.member, item.reason) for item in rejects] == [
        (f"#{1000 * group + 1}", "damaged") for group in groups
    ]
    for item, group in zip(rejects, groups, strict=True):
        rows = f"rows {1000 * group + 1}-{1000 * group + 1000} (row group {group + 1}): "
        assert item.detail.startswith(rows)


def test_a_parquet_file_without_a_good_row_group_is_one_reject(tmp_path: Path) -> None:
    pq.write_table(_rows(300), tmp_path / "a.parquet", row_group_size=100)
    _break_groups(tmp_path / "a.parquet", 0, 1, 2)
    with pytest.raises(Unreadable, match=r"no part of it .*: rows 1-100 \(row group 1\)"):
        _read(tmp_path / "a.parquet")


def _write_arrow(path: Path, opened: Callable[..., Any], compression: str | None) -> list[int]:
    """Write six batches of 1,000 rows, and return where each begins."""
    table = _rows(6000)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (
        pa.OSFile(str(path), "wb") as sink,
        opened(sink, table.schema, options=options) as writer,
    ):
        places = []
        for batch in table.to_batches(max_chunksize=1000):
            places.append(sink.tell())
            writer.write_batch(batch)
        return places


#: Bytes of a message's header at most.
_HEADER = 240


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_record_batch_that_is_damaged_costs_its_rows(
    tmp_path: Path, compression: str | None
) -> None:
    path = tmp_path / "a.arrow"
    places = _write_arrow(path, pa.ipc.new_file, compression)
    _overwrite(path, places[2] + _HEADER, places[3])
    documents, (reject,) = _read(path)
    assert [document.member for document in documents] == [
        f"#{number}" for number in range(1, 6001) if not 2000 < number <= 3000
    ]
    assert documents[-1].text.startswith("Row 6000 of")
    assert (reject.member, reject.reason) == ("#2001", "damaged")
    assert reject.detail.startswith("rows 2001-3000 (record batch 3): ")


def test_a_record_batch_whose_header_is_damaged_says_that_its_rows_are_not_counted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.arrow"
    places = _write_arrow(path, pa.ipc.new_file, None)
    _overwrite(path, places[2], places[2] + 40)
    documents, (reject,) = _read(path)
    assert len(documents) == 5000 and documents[2000].text.startswith("Row 3001 of")
    assert reject.detail.startswith("rows that the numbers below leave out (record batch 3): ")


def test_an_arrow_stream_is_read_up_to_its_damaged_batch(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    places = _write_arrow(path, pa.ipc.new_stream, "zstd")
    _overwrite(path, places[2] + _HEADER, places[3])
    found: list[Any] = []
    with pytest.raises(Unreadable, match="damaged: a stream, which .* behind row 2000: .*ZSTD"):
        for item in detect.read(path, ReadOptions()):
            found.append(item)
    assert [item.member for item in found] == [f"#{number}" for number in range(1, 2001)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "line",
    [
        "50," + "long " * 5000,
        '50,"' + 'a ""long"" text, ' * 2000 + '"',
        '50,"two lines' + "{end}" + "long " * 5000 + '"',
        '50,"' + "long " * 5000 + "{end}" + 'two lines"',
    ],
)
@pytest.mark.parametrize("head", ["id,text", "id,note"])
def test_a_line_of_a_csv_file_that_is_too_long_costs_its_row(
    tmp_path: Path, line: str, end: str, head: str
) -> None:
    rows = [f'{number},"Row {number}, of the pump"' for number in range(1, 101)]
    rows[49] = line.replace("{end}", end)
    (tmp_path / "a.csv").write_bytes(end.join([head, *rows, ""]).encode())
    documents, (reject,) = _read(tmp_path / "a.csv", max_bytes=5000)
    numbers = [number for number in range(1, 101) if number != 50]
    if head == "id,text":
        assert [document.member for document in documents] == [f"#{n}" for n in numbers]
        texts = [document.text for document in documents]
        assert texts == [f"Row {number}, of the pump" for number in numbers]
    else:  # no column of texts: it is read as a table
        lines = [f"id: {number} | note: Row {number}, of the pump" for number in numbers]
        assert documents[0].text.split("\n")[:-1] == lines
    assert (reject.member, reject.reason) == ("#50", "too_large")


def test_a_csv_file_whose_header_is_too_long_is_one_reject(tmp_path: Path) -> None:
    for head in ("text," + "long " * 2000, "title " * 2000 + "\nid,text"):
        (tmp_path / "a.csv").write_text(f"{head}\n1,one row\n2,another row\n")
        with pytest.raises(Unreadable, match="too_large: a line of more than 0 MiB"):
            _read(tmp_path / "a.csv", max_bytes=5000)


def _rewrite(path: Path, **parts: str | None) -> None:
    """Write other contents of parts into a ZIP file; None: the part is left out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            new = parts.get(name, data)
            if new is not None:
                archive.writestr(name, new)


_BROKEN = "<a><b></a>"


@pytest.mark.parametrize("part", [_BROKEN, None, "no XML"])
def test_a_broken_slide_costs_itself(tmp_path: Path, part: str | None) -> None:
    path = slides(tmp_path / "a.pptx", *(slide(shape(f"Slide of {name}")) for name in "abc"))
    _rewrite(path, **{"ppt/slides/s2.xml": part})
    (document,), (reject,) = _read(path)
    assert "Slide of a" in document.text and "Slide of b" not in document.text
    assert document.page(document.text.index("Slide of c")) == 3
    assert (reject.member, reject.reason) == ("!slide 2", "damaged")
    _rewrite(path, **dict.fromkeys(("ppt/slides/s1.xml", "ppt/slides/s3.xml"), _BROKEN))
    with pytest.raises(Unreadable, match="damaged: no slide can be read: "):
        _read(path)


def test_a_damaged_slide_costs_itself_however_it_is_packed(tmp_path: Path) -> None:
    path = slides(tmp_path / "a.pptx", *(slide(shape(f"Slide of {name}")) for name in "abc"))
    second = "ppt/slides/s2.xml"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            how = zipfile.ZIP_LZMA if name == second else zipfile.ZIP_DEFLATED
            archive.writestr(name, data, how)
        start = archive.getinfo(second).header_offset + 30 + len(second)
    _overwrite(path, start + 12, start + 40)
    (document,), (reject,) = _read(path)
    assert "Slide of a" in document.text and "Slide of c" in document.text
    assert (reject.member, reject.reason) == ("!slide 2", "damaged")
    assert reject.detail.startswith("LZMAError"), "no error that the reader knows by name"


def test_a_slide_that_the_file_does_not_have_costs_itself(tmp_path: Path) -> None:
    path = slides(tmp_path / "a.pptx", *(slide(shape(f"Slide of {name}")) for name in "abc"))
    known = relations(("slide", "slides/s1.xml"), ("other", "x"), ("slide", "slides/s3.xml"))
    _rewrite(path, **{"ppt/_rels/presentation.xml.rels": known.replace("r2", "x2")})
    (document,), (reject,) = _read(path)
    assert "Slide of a" in document.text and "Slide of c" in document.text
    assert (reject.member, reject.reason) == ("!slide 2", "damaged")


@pytest.mark.parametrize(
    ("kind", "what"), [("notesSlide", "notes"), ("comments", "comments"), ("", "relations")]
)
def test_broken_notes_cost_no_slide(tmp_path: Path, kind: str, what: str) -> None:
    names = relations((kind, "../notes.xml")) if kind else _BROKEN
    path = slides(
        tmp_path / "a.pptx",
        *(slide(shape(f"Slide of {name}")) for name in "abc"),
        **{"ppt/slides/_rels/s2.xml.rels": names, "ppt/notes.xml": _BROKEN},
    )
    (document,), (reject,) = _read(path)
    assert all(f"Slide of {name}" in document.text for name in "abc")
    assert (reject.member, reject.reason) == (f"!slide 2 {what}", "damaged")


@pytest.mark.parametrize(
    "part", ["word/styles.xml", "word/header1.xml", "word/_rels/document.xml.rels"]
)
def test_a_broken_part_beside_a_word_text_costs_itself(tmp_path: Path, part: str) -> None:
    import docx

    file = docx.Document()
    file.sections[0].header.paragraphs[0].text = "The works"
    file.add_heading("Pumps", 1)
    file.add_paragraph("The pump was stopped.")
    file.save(str(tmp_path / "a.docx"))
    (whole,), rejects = _read(tmp_path / "a.docx")
    assert not rejects and whole.left_out == (("running_head", 1),)
    _rewrite(tmp_path / "a.docx", **{part: _BROKEN})
    (document,), (reject,) = _read(tmp_path / "a.docx")
    assert (document.text, document.headings) == (whole.text, whole.headings)
    name = "word/document.xml relations" if "_rels" in part else part
    assert (reject.member, reject.reason) == (f"!{name}", "damaged")
    _rewrite(tmp_path / "a.docx", **{"word/document.xml": _BROKEN})
    with pytest.raises(Unreadable, match="damaged: not readable as a Word document"):
        _read(tmp_path / "a.docx")


def test_a_sheet_that_is_broken_from_its_begin_costs_itself(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", **{name: [["id", "text"], [1, name]] for name in "abc"})
    _rewrite(path, **{"xl/worksheets/sheet2.xml": "no XML"})
    documents, (reject,) = _read(path)
    assert [document.member for document in documents] == ["!a#2", "!c#2"]
    assert (reject.member, reject.reason) == ("!b", "damaged")


@pytest.mark.parametrize("part", ["docProps/core.xml", "xl/theme/theme1.xml"])
def test_a_broken_part_that_holds_no_rows_costs_no_sheet(tmp_path: Path, part: str) -> None:
    path = book(tmp_path / "a.xlsx", **{name: [["id", "text"], [1, name]] for name in "abc"})
    _rewrite(path, **{part: _BROKEN})
    documents, rejects = _read(path)
    assert len(documents) == 3 and not rejects


def test_broken_comments_of_a_sheet_cost_no_rows(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", **{name: [["id", "text"], [1, name]] for name in "abc"})
    file = openpyxl.load_workbook(path)
    file["b"]["A1"].comment = Comment("who says so?", "a reader")
    file.save(path)
    _rewrite(path, **{"xl/comments/comment1.xml": _BROKEN})
    documents, (reject,) = _read(path)
    assert [document.member for document in documents] == ["!a#2", "!b#2", "!c#2"]
    assert (reject.member, reject.reason) == ("!b comments", "damaged")


@pytest.mark.parametrize("part", ["styles.xml", "META-INF/manifest.xml"])
def test_a_broken_part_beside_an_open_document_text_costs_itself(tmp_path: Path, part: str) -> None:
    path = odt(tmp_path / "a.odt", "<text:p>One.</text:p><text:p>Two.</text:p>", **{part: _BROKEN})
    (document,), (reject,) = _read(path)
    assert document.text == "One.\n\nTwo.\n\n"
    assert (reject.member, reject.reason) == (f"!{part}", "damaged")


def test_a_broken_chapter_costs_itself(tmp_path: Path) -> None:
    pages = {f"{name}.html": f"<html><body><p>Chapter {name}." for name in "abc"}
    spine = ["a.html", "b.html", "x", "c.html"]
    (document,), rejects = _read(epub(tmp_path / "a.epub", pages | {"b.html": "\0" * 90}, spine))
    assert document.text == "Chapter a.\n\nChapter c.\n\n"
    assert [item.member for item in rejects] == ["!o/b.html", "!x"]


@pytest.mark.parametrize("name", ["filename*", "filename=" + "(" * 400, "name*"])
def test_an_attachment_with_a_broken_name_costs_no_other(tmp_path: Path, name: str) -> None:
    parts = "".join(
        f"--b\nContent-Disposition: attachment; {name}\n\nattachment {number}\n"
        for number, name in enumerate(("filename=a.txt", name, "filename=c.txt"), 1)
    )
    (tmp_path / "a.eml").write_text(
        'Subject: s\nContent-Type: multipart/mixed; boundary="b"\n\n'
        f'--b\nContent-Type: text/plain; charset="\0"\n\nthe body\n{parts}--b--\n'
    )
    documents, rejects = _read(tmp_path / "a.eml")
    assert [document.text.strip() for document in documents] == [
        *("s\n\nthe body", "attachment 1", "attachment 2", "attachment 3")
    ]
    assert [document.member for document in documents[1:]] == ["!a.txt", "!part-2", "!c.txt"]
    assert not rejects


@pytest.mark.parametrize("cell", [7, "text", {"cell_type": "code", "source": {"a": 1}}])
def test_a_broken_cell_costs_itself(tmp_path: Path, cell: Any) -> None:
    good = [{"cell_type": "markdown", "source": [text]} for text in ("One.", "Two.")]
    good[1]["outputs"] = 3  # type: ignore[assignment]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [good[0], cell, good[1]]}))
    (document,), (reject,) = _read(tmp_path / "a.ipynb")
    assert document.text == "One.\n\nTwo."
    assert (reject.member, reject.reason) == ("!cell 2", "damaged")


@pytest.fixture
def tesseract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in tesseract's place: it fails at its second picture, and "reads" the others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "tesseract"
    program.write_text(
        f"#!/bin/sh\ncat > /dev/null\necho x >> {folder}/calls\n"
        f"n=$(wc -l < {folder}/calls)\n"
        '[ $n -eq 2 ] && { echo "bad picture" >&2; exit 1; }\necho "Picture number $n."\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_page_that_is_not_recognised_costs_itself(tmp_path: Path, tesseract: None) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf([[], [], []], make_scan(["A scanned line"])))
    (document,), (reject,) = _read(tmp_path / "a.pdf", ocr="eng")
    assert document.text == "Picture number 1.\n\nPicture number 3.\n\n"
    assert document.page(document.text.index("3")) == 3
    assert (reject.member, reject.reason) == ("", "ocr_failed")
    assert reject.detail == "pages that were not recognised: 2 (bad picture)"


def test_a_scan_of_which_no_page_is_recognised_is_one_reject(
    tmp_path: Path, tesseract: None
) -> None:
    (tmp_path / "bin" / "calls").write_text("x\n")
    (tmp_path / "a.pdf").write_bytes(pdf([[]], make_scan(["A scanned line"])))
    with pytest.raises(Unreadable, match="ocr_failed: page 1: bad picture"):
        _read(tmp_path / "a.pdf", ocr="eng")


@pytest.mark.parametrize("sign", ["A", "data:", "data:image/png;base64,"])
def test_a_picture_in_a_page_costs_no_text(tmp_path: Path, sign: str) -> None:
    picture = "data:image/png;base64," + sign * (11_000_000 // len(sign))
    (tmp_path / "a.html").write_text(
        f'<html><body><p>Before it.</p><img src="{picture}"><p>Behind it.</p></body></html>'
    )
    begun = time.process_time()
    (document,), rejects = _read(tmp_path / "a.html")
    assert document.text == "Before it.\n\nBehind it.\n\n" and not rejects
    assert time.process_time() - begun < 20
    (tmp_path / "a.html").write_text(f"<html><body><p>{'word ' * 2_200_000}</p></body></html>")
    with pytest.raises(Unreadable, match="too_large: 10 million bytes of text without a tag"):
        _read(tmp_path / "a.html")
