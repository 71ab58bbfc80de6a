"""Pages as people lay them out: columns, tables, furniture, divided words, scans; and spans that
lead back to the text in every format.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import PipelineError
from tasks.ingest import worker
from tasks.ingest.readers import detect, ocr
from tasks.ingest.readers.document import Document, ReadOptions, Reject, Unreadable

STORY = (
    "The pump was stopped at noon. Its bearing had run hot since Monday. A fitter changed it "
    "by the evening."
)
#: (x, y, text, size of the letters) of a line of a page.
Set = tuple[int, int, str, int]


def pdf(pages: list[list[Set]], images: tuple[bytes, int, int] | None = None) -> bytes:
    """Write a PDF by hand: lines of Helvetica, or an 8-bit grey image (bytes, width, height) over
    the whole of each page.
    """
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    picture = ""
    if images:
        data, width, height = images
        head = (
            f"<< /Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace "
            f"/DeviceGray /BitsPerComponent 8 /Length {len(data)} >>"
        )
        objects.append(f"{head}\nstream\n{data.decode('latin-1')}\nendstream")
        picture = "/XObject << /I 4 0 R >>"
    kids = []
    for lines in pages:
        stream = "".join(
            f"BT /F1 {size} Tf {x} {y} Td ({text}) Tj ET\n" for x, y, text, size in lines
        ) + ("q 612 0 0 792 0 0 cm /I Do Q\n" if images else "")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}endstream")
        resources = f"<< /Font << /F1 3 0 R >> {picture} >>"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents "
            f"{len(objects)} 0 R /Resources {resources} >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer << /Size "
        f"{len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF"
    )
    return data + end.encode()


def text_of(path: Path, data: bytes, **options: Any) -> str:
    """Write a file and return the text that is read from it."""
    path.write_bytes(data)
    (document,) = detect.read(path, ReadOptions(**options))
    assert isinstance(document, Document)
    return document.text


LEFT = [
    "the reservoir is filled from two",
    "springs above the village, and a",
    "third one is kept in reserve for",
    "dry summers such as that of the",
    "year before last, when both ran",
    "so low that water was rationed.",
]
RIGHT = [
    "Every spring has a meter of its",
    "own, which is read on the first",
    "of the month by the keeper, and",
    "again whenever the level in the",
    "basin falls by more than a hand",
    "between one day and the other.",
]


@pytest.mark.parametrize("order", ["across", "down"])
def test_columns_are_read_one_after_the_other(tmp_path: Path, order: str) -> None:
    """However the page was set: line by line across both columns (as exports and scanners do), or
    column by column.
    """
    left = [(60, 640 - 14 * row, text, 10) for row, text in enumerate(LEFT)]
    right = [(330, 640 - 14 * row, text, 10) for row, text in enumerate(RIGHT)]
    body = (
        [line for pair in zip(left, right) for line in pair] if order == "across" else left + right
    )
    page = [
        (
            60,
            700,
            "A report on the springs and the reservoir, for the council and all citizens",
            10,
        ),
        *body,
        (
            60,
            500,
            "This closing line runs across the whole width of the page, below both columns.",
            10,
        ),
    ]
    text = " ".join(text_of(tmp_path / "a.pdf", pdf([page])).split())
    assert text == " ".join([page[0][2], *LEFT, *RIGHT, page[-1][2]])


def test_tables_keep_their_rows(tmp_path: Path) -> None:
    rows = [
        ("Pump", "Hours", "State"),
        ("P-3", "410", "stopped"),
        ("P-4", "1,280", "running"),
        ("P-5", "77", "in repair"),
        ("P-6", "9", "new"),
        ("P-7", "45", "running"),
    ]
    page = [
        (72 + 150 * column, 600 - 16 * row, cell, 10)
        for row, cells in enumerate(rows)
        for column, cell in enumerate(cells)
    ]
    text = text_of(
        tmp_path / "a.pdf", pdf([[(72, 660, "The pumps of the northern works:", 10), *page]])
    )
    assert "\n".join(" | ".join(cells) for cells in rows) in text


def test_list_markers_are_no_cells(tmp_path: Path) -> None:
    page = [
        (72, 700, "1.", 10),
        (108, 700, "The supplier delivers within a week of the", 10),
        (108, 686, "order, or says why not.", 10),
        (72, 660, "\\(a\\)", 10),
        (108, 660, "Partial deliveries are allowed.", 10),
    ]
    text = text_of(tmp_path / "a.pdf", pdf([page]))
    assert "1. The supplier delivers within a week of the order, or says why not." in text
    assert "(a) Partial deliveries are allowed." in text


def test_words_divided_at_a_lines_end(tmp_path: Path) -> None:
    """A hyphen of line breaking goes, one of the word stays where the document shows it elsewhere;
    paragraphs are not torn at it.
    """
    lines = [
        "The long-term plan foresees a new sta-",
        "tion beyond the river, and the long-",
        "term costs of it are borne by the dis-",
        "trict alone, as agreed in the spring.",
    ]
    page = [(72, 700 - 12 * row, text, 10) for row, text in enumerate(lines)]
    text = text_of(tmp_path / "a.pdf", pdf([page]))
    assert text == (
        "The long-term plan foresees a new station beyond the river, and the long-term "
        "costs of it are borne by the district alone, as agreed in the spring.\n\n"
    )


def test_ligatures_and_arrows_in_their_place_become_letters() -> None:
    from tasks.ingest.readers.pdf import _clean

    assert (
        _clean("the o\ufb03ce \ufb01nds e\u21b5orts di\ufb00erent")
        == "the office finds efforts different"
    )


def test_running_heads_go_and_headings_stay(tmp_path: Path) -> None:
    pages = []
    for number in range(1, 5):
        head = (
            72,
            720,
            f"{number} Works of the north" if number % 2 == 0 else f"A long report {number}",
            9,
        )
        chapter = (72, 680, f"Chapter {number * 3}", 16)
        body = [
            (
                72,
                650 - 14 * row,
                f"Line {row} of the text on page {number} says what happened there",
                10,
            )
            for row in range(20)
        ]
        pages.append([head, chapter, *body, (300, 40, str(number), 9)])
    text = text_of(tmp_path / "a.pdf", pdf(pages))
    assert "Works of the north" not in text and "A long report" not in text
    assert all(f"Chapter {number * 3}" in text for number in range(1, 5))
    assert text.count("says what happened there") == 80


def test_text_and_signatures_at_a_pages_edge_stay(tmp_path: Path) -> None:
    """The last line of a paragraph, a blank line below it, at a page's top; a line to sign on at
    one page's foot and at the next one's top.
    """

    body = [(72, y, f"Clause {y} binds both parties", 10) for y in range(700, 90, -11)]
    sign = "Per: ______________"
    pages = [
        [*body, (72, 84, "Each party keeps the matters under its", 10)],
        [(72, 745, "control.", 10), (72, 723, "They agree.", 10), *body, (185, 60, sign, 10)],
        [(185, 735, sign, 10), *body],
    ]
    text = text_of(tmp_path / "a.pdf", pdf(pages))
    assert "under its control." in text
    assert text.count(sign) == 2


# --- scans


def _scan(text: list[str]) -> tuple[bytes, int, int]:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (1275, 1650), 255)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(text):
        draw.text((150, 200 + 60 * row), line, fill=0, font=ImageFont.load_default(36))
    return image.tobytes(), *image.size


def test_scans_are_named_and_their_pages_too(tmp_path: Path) -> None:
    scan = _scan(["A scanned line"])
    with pytest.raises(
        Unreadable, match="no_text_layer: 2 pages of images without text: set ingest.ocr"
    ):
        text_of(tmp_path / "a.pdf", pdf([[], []], scan))
    (tmp_path / "b.pdf").write_bytes(pdf([[], [(72, 500, STORY, 10)], []], scan))
    document, reject = detect.read(tmp_path / "b.pdf", ReadOptions())
    assert (
        isinstance(document, Document)
        and document.text.startswith("The pump")
        and document.page(0) == 2
    )
    assert isinstance(reject, Reject) and (reject.reason, reject.detail) == (
        "no_text_layer",
        "pages without text: 1, 3",
    )


def test_a_broken_page_costs_itself(tmp_path: Path) -> None:
    data = pdf([[(72, 500, f"{STORY} {number}", 10)] for number in range(3)])
    second = data.index(b"/Type /Page ", data.index(b"/Type /Page ") + 1)
    (tmp_path / "a.pdf").write_bytes(data[:second] + b"/Type /Pagx " + data[second + 12 :])
    document, reject = detect.read(tmp_path / "a.pdf", ReadOptions())
    assert isinstance(document, Document) and isinstance(reject, Reject)
    assert document.page(document.text.index("2")) == 3 and "1" not in document.text
    assert reject.reason == "damaged" and reject.detail.startswith("pages that cannot be read: 2 ")


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")
def test_scans_are_recognised_on_request(tmp_path: Path) -> None:
    lines = ["The pump was stopped at noon because", "its bearing had run hot since Monday."]
    (tmp_path / "a.pdf").write_bytes(pdf([[], [(72, 500, STORY, 10)]], _scan(lines)))
    assert ocr.check_languages("eng") == "eng"
    found = [
        item
        for item in detect.read(tmp_path / "a.pdf", ReadOptions(ocr="eng"))
        if isinstance(item, Document)
    ]
    assert found[0].encoding == "ocr"
    assert found[0].text == f"{' '.join(lines)}\n\n{STORY}\n\n"
    assert [found[0].page(found[0].text.index(part)) for part in ("because", "fitter")] == [1, 2]
    with pytest.raises(
        PipelineError, match="ingest.ocr_languages names 'xyz', and tesseract has data for: .*eng"
    ):
        ocr.check_languages("xyz")


def test_recognition_without_tesseract_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        PipelineError, match="ingest.ocr is set, and there is no program tesseract here"
    ):
        ocr.check_languages("eng")


# --- HTML and DOCX


def test_short_pages_keep_their_headings_and_lose_their_furniture(tmp_path: Path) -> None:
    page = (
        "<!DOCTYPE html><html><header><p>Header</p></header><body><h1>First "
        "heading</h1><p>First paragraph.</p></body><footer><p>Footer</p></footer></html>"
    )
    assert text_of(tmp_path / "a.html", page.encode()) == "First heading\n\nFirst paragraph.\n\n"


def test_formulas_in_a_line(tmp_path: Path) -> None:
    import docx
    from docx.oxml import parse_xml

    space = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
    run = "<m:r><m:t>{}</m:t></m:r>".format
    power = f"<m:sSup><m:e>{run('10')}</m:e><m:sup>{run('-6')}</m:sup></m:sSup>"
    document = docx.Document()
    paragraph = document.add_paragraph("Loss ")
    paragraph._p.append(
        parse_xml(
            "<m:oMath "
            f"{space}>{run('x=')}<m:f><m:num>{run('a+b')}</m:num><m:den>{run('c')}</m:den></m:f>{run('·')}{power}</m:oMath>"
        )
    )
    document.save(str(tmp_path / "a.docx"))
    assert (
        text_of(tmp_path / "a.docx", (tmp_path / "a.docx").read_bytes())
        == "Loss x=(a+b)/c·10^-6\n\n"
    )


# --- tables


def test_a_table_without_a_text_column_is_read_as_a_table(tmp_path: Path) -> None:
    text = text_of(
        tmp_path / "a.csv", "名前,年齢,住所\n佐藤太郎,30,東京\n三木英子,,大阪\n".encode("cp932")
    )
    assert text == "名前: 佐藤太郎 | 年齢: 30 | 住所: 東京\n名前: 三木英子 | 住所: 大阪\n"
    with pytest.raises(Unreadable, match="no_text_column: no column 'body', there are: a, b"):
        text_of(tmp_path / "b.csv", b"a,b\n1,2\n", text_column="body")


def test_a_long_table_comes_in_documents_of_some_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.ingest.readers import tables

    monkeypatch.setattr(tables, "_TABLE_CHARS", 60)
    (tmp_path / "a.tsv").write_text(
        "pump\tstate\n" + "".join(f"P-{number}\trunning well\n" for number in range(1, 6))
    )
    found = [
        item
        for item in detect.read(tmp_path / "a.tsv", ReadOptions())
        if isinstance(item, Document)
    ]
    assert [document.member for document in found] == ["#1-2", "#3-4", "#5-5"]
    assert "".join(document.text for document in found) == "".join(
        f"pump: P-{number} | state: running well\n" for number in range(1, 6)
    )


def test_arrow_files_and_streams(tmp_path: Path) -> None:
    table = pa.table({"text": [STORY, "Another."]})
    for name, opened in {"a.arrow": pa.ipc.new_file, "b.arrow": pa.ipc.new_stream}.items():
        with pa.OSFile(str(tmp_path / name), "wb") as sink, opened(sink, table.schema) as writer:
            writer.write_table(table)
        assert [
            item.text
            for item in detect.read(tmp_path / name, ReadOptions())
            if isinstance(item, Document)
        ] == [STORY, "Another."]


# --- spans


def _every_format(folder: Path) -> None:
    import docx

    long = " ".join(
        f"Sentence {number} of the report says that pump {number} ran." for number in range(40)
    )
    (folder / "a.txt").write_text(long, encoding="utf-16")
    (folder / "b.md").write_text(
        f"---\ntitle: Guide\n---\n# One\n\n{long}\n\n## Two\n\n- {STORY}\n- {STORY}\n"
    )
    (folder / "c.html").write_text(
        f"<html><body><main><h1>One</h1><p>{long}</p><h2>Two</h2><table><tr><td>a</td><td>b</td></tr></table><p>{STORY}</p></main></body></html>"
    )
    document = docx.Document()
    document.add_heading("One", 1)
    document.add_paragraph(long)
    document.save(str(folder / "d.docx"))
    (folder / "e.pdf").write_bytes(
        pdf(
            [
                [
                    (
                        72,
                        700 - 14 * row,
                        f"Line {row} of page {page} tells of pump {row * page}.",
                        10,
                    )
                    for row in range(30)
                ]
                for page in (1, 2)
            ]
        )
    )
    (folder / "f.rtf").write_bytes(b"{\\rtf1\\ansi " + "\\par ".join([long, STORY]).encode() + b"}")
    container = '<container><rootfiles><rootfile full-path="b.opf"/></rootfiles></container>'
    package = (
        '<package><manifest><item id="a" href="a.xhtml" '
        'media-type="application/xhtml+xml"/></manifest><spine><itemref '
        'idref="a"/></spine></package>'
    )
    with zipfile.ZipFile(folder / "g.epub", "w") as book:
        for name, content in {
            "META-INF/container.xml": container,
            "b.opf": package,
            "a.xhtml": f"<html><body><h1>One</h1><p>{long}</p></body></html>",
        }.items():
            book.writestr(name, content)
    message = EmailMessage()
    message["Subject"] = "Pumps"
    message.set_content(long)
    message.add_attachment(long.encode(), maintype="text", subtype="plain", filename="more.txt")
    (folder / "h.eml").write_bytes(message.as_bytes())
    rows = [{"text": f"{number} {long}"} for number in range(3)]
    (folder / "i.csv").write_text(f"id,text\n1,{long}\n2,{long}\n")
    (folder / "j.csv").write_text(
        "pump,hours\n" + "".join(f"P-{number},{number * 7}\n" for number in range(60))
    )
    (folder / "k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "l.parquet")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.write(folder / "b.md", "deep/b.md")
        archive.write(folder / "d.docx", "d.docx")
    (folder / "m.zip").write_bytes(buffer.getvalue())


def test_spans_lead_back_to_the_text_in_every_format(tmp_path: Path) -> None:
    """Every passage stands at its span in its document's text, in order, and no words between them
    are lost but headings.
    """
    _every_format(tmp_path)
    work = worker.Work("", ReadOptions(), 60, 1, lines=True)
    seen = set()
    for path in sorted(tmp_path.iterdir()):
        documents = {
            item.member: item
            for item in detect.read(path, ReadOptions())
            if isinstance(item, Document)
        }
        entries = [
            entry
            for part in worker.process(path, work, worker.make_counter(""))
            for entry in part
            if "begin" not in entry
        ]
        assert [entry["member"] for entry in entries] == list(documents), path.name
        for entry in entries:
            document = documents[entry["member"]]
            left = list(document.text)
            for passage in entry["passages"]:
                assert document.text[passage["start"] : passage["end"]] == passage["text"], (
                    path.name
                )
                assert passage["page"] == document.page(passage["start"])
                left[passage["start"] : passage["end"]] = " " * len(passage["text"])
            for heading in document.headings:
                left[heading.start : heading.end] = " " * (heading.end - heading.start)
            assert not "".join(left).strip(), path.name
            assert len(entry["passages"]) > 1 or len(document.text) < 400
            seen.add(entry["format"])
    assert seen == {
        "text",
        "markdown",
        "html",
        "docx",
        "pdf",
        "rtf",
        "epub",
        "eml",
        "csv",
        "jsonl",
        "parquet",
    }
