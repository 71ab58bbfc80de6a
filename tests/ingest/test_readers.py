"""Readers on small files made here, one of every format and damaged ones; the cutter; the rules;
the limits on a parser.
"""

from __future__ import annotations

import gzip
import json
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.ingest.readers.decoding import decode
from tasks.ingest.readers.document import Document, Reject, Unreadable
from tasks.ingest.readers.markdown import find_headings
from tests.ingest.office_files import epub
from tests.ingest.pdf_files import pdf
from tests.ingest.reading import STORY, read, read_one


def _text(path: Path, **options: Any) -> str:
    return read_one(path, **options).text


# --- encodings


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
def test_unicode_with_and_without_a_mark(encoding: str) -> None:
    assert (
        decode("Größe and façade, naïve café — done.".encode(encoding))[0]
        == "Größe and façade, naïve café — done."
    )


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        (
            "cp1252",
            "Die Größe der Straße überraschte den Prüfer, “wie üblich”, sagte er für 15,50 €.",
        ),
        ("cp1252", "können\n\näöüß\n"),
        ("cp932", "名前,年齢,住所\n佐藤太郎,30,東京\n三木英子,25,大阪\n"),
        ("cp1251", "Насос был остановлен в полдень, потому что подшипник перегрелся."),
    ],
)
def test_legacy_encodings_are_detected(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == (text, encoding)


def test_a_vertical_tab_divides_words() -> None:
    text, _ = decode(b"The pump stopped.\x0bThe seal broke.")
    assert text == "The pump stopped.\nThe seal broke."


def test_marks_that_are_not_seen_divide_no_word() -> None:
    shown = "Donau\u00addampf\u200bschiff\u2060fahrt: 1\u202f234\u00a0m, 50\u2007%"
    assert decode(shown.encode())[0] == "Donaudampfschifffahrt: 1 234 m, 50 %"


def test_binary_is_refused_and_double_encoding_undone() -> None:
    with pytest.raises(Unreadable, match="binary"):
        decode(bytes(range(256)) * 4)
    assert decode("1986–1990".encode().decode("latin-1").encode())[0] == "1986–1990"


# --- formats


def test_markdown_headings_outside_code() -> None:
    source = (
        "---\ntitle: Guide\n---\n# One #\n\ntext\n\n```sh\n# no "
        "heading\n```\n\nTwo\n---\n\nline\nline\n---\n"
    )
    found = find_headings(source)
    assert [(heading.level, heading.title) for heading in found] == [
        (1, "Guide"),
        (1, "One"),
        (2, "Two"),
    ]
    assert source[found[1].start : found[1].end] == "# One #"


def test_code_in_a_list_hides_no_headings() -> None:
    """A fence in a list may stand further in than three spaces; what follows it is no code."""
    source = (
        "1. Run\n\n     ```sh\n     # no heading\n     ```\n\n# C#\n\n> # quoted\n\n---\nTwo\n---\n"
    )
    assert [
        (heading.title, source[heading.start : heading.end]) for heading in find_headings(source)
    ] == [("C#", "# C#"), ("Two", "Two\n---")]


def test_a_long_paragraph_takes_time_in_proportion() -> None:
    def seconds(lines: int) -> float:
        source = "# One\n\n" + "a line of it\n" * lines
        begun = time.process_time()
        assert len(find_headings(source)) == 1
        return time.process_time() - begun

    assert min(seconds(80_000) for _ in range(2)) < 9 * min(seconds(20_000) for _ in range(3)), (
        "it grows with the square"
    )


def test_rows_of_every_table_format(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "text": "First row, with a comma."},
        {"id": 2, "text": "Second row\nof two lines."},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.csv").write_text(
        'id;text\n1;"First row, with a comma."\n2;"Second row\nof two lines."\n'
    )
    (tmp_path / "d.tsv").write_text(
        'id\ttext\n1\tFirst row, with a comma.\n2\t"Second row\nof two lines."\n'
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "e.parquet")
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    for path in sorted(tmp_path.iterdir()):
        found = read(path)
        assert [(item.member, item.text) for item in found if isinstance(item, Document)] == [
            ("#1", rows[0]["text"]),
            ("#2", rows[1]["text"]),
        ], path.name


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (
            "site,finding,finding\nA,crack,stuck\n",
            "site: A | finding (2): crack | finding (3): stuck",
        ),
        ("site,fault,,\nA,1,2,3\n", "site: A | fault: 1 | column (3): 2 | column (4): 3"),
        (",site\n0,A\n", "0 | site: A"),
        (
            "Report 2019,,\nsite,date,fault\nA,3 March,crack\n",
            "Report 2019\nsite: A | date: 3 March | fault: crack",
        ),
        ("Report 2019\nsite;fault\nA;crack\n", "Report 2019\nsite: A | fault: crack"),
        ("body\nOne.\nTwo.\n", "body: One.\nbody: Two."),
        ("site,fault\nA,crack,more,most\n", "site: A | fault: crack | (more): more most"),
        ("site,fault\nA\n", "site: A"),
    ],
)
def test_no_cell_of_a_table_is_lost(tmp_path: Path, table: str, text: str) -> None:
    (tmp_path / "a.csv").write_text(table)
    assert _text(tmp_path / "a.csv").strip() == text


def test_a_line_above_the_header_of_texts_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Report 2019\nid,text\n1,One row.\n")
    title, row = read(tmp_path / "a.csv")
    assert isinstance(title, Reject) and "above the header: Report 2019" in title.detail
    assert isinstance(row, Document) and (row.member, row.text) == ("#1", "One row.")


def test_json_lines_may_hold_other_line_ends_and_nothing(tmp_path: Path) -> None:
    rows = [{"text": "One\u2028and\u0085half."}, {"text": ["Two.", None, "Three."]}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    for name in ("a.json", "b.jsonl"):
        (tmp_path / name).write_bytes(lines.encode())
        found = read(tmp_path / name)
        assert [item.member for item in found if isinstance(item, Document)] == ["#1", "#2"], name
        assert "None" not in getattr(found[1], "text", "None")
    (tmp_path / "c.json").write_bytes(lines.encode("utf-16"))
    assert len(read(tmp_path / "c.json")) == 2


def test_bad_rows_are_rejects_and_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "Good."}\n{broken\n[1]\n{"text": ""}\n{"text": "'
        + "x" * 3000
        + '"}\n{"other": 1}\n{"text": "Good again."}\n'
    )
    found = read(path, max_bytes=2000)
    assert [item.member if isinstance(item, Document) else item.reason for item in found] == [
        "#1",
        "damaged",
        "damaged",
        "empty",
        "too_large",
        "no_text_column",
        "#7",
    ]
    with pytest.raises(Unreadable, match="no column 'body', there are: text"):
        read(path, text_column="body")
    nested = tmp_path / "b.jsonl"
    nested.write_text(json.dumps({"doc": {"parts": ["One.", "Two."]}}))
    assert _text(nested, text_column="doc.parts") == "One.\n\nTwo."


def test_html_keeps_the_main_part(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    body = "".join(f"<p>{STORY} Report {number}.</p>" for number in range(6))
    path.write_text(
        "<html><head><title>x</title><script>var a = "
        "'never';</script></head><body><nav><a href=/>Home</a><a href=/x>Prices</a></nav>"
        "<main><h1>Works "
        f"report</h1>{body}<h2>Figures</h2><table><tr><th>Pump</th><th>Hours</th></tr><tr><td>P-3</td><td>410</td></tr></table></main>"
        "<footer>All rights reserved</footer></body></html>"
    )
    document = read_one(path)
    assert [heading.title for heading in document.headings] == ["Works report", "Figures"]
    assert "Pump | Hours\nP-3 | 410" in document.text
    assert STORY in document.text
    assert not any(word in document.text for word in ("never", "Prices", "All rights"))


def test_docx_has_headings_tables_and_no_deleted_text(tmp_path: Path) -> None:
    import docx
    from docx.oxml import parse_xml

    file = docx.Document()
    file.sections[0].header.paragraphs[0].text = "CONFIDENTIAL HEADER"
    file.add_heading("Works report", 1)
    paragraph = file.add_paragraph("Kept ")
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    paragraph._p.append(
        parse_xml(f"<w:del {space}><w:r><w:delText>deleted</w:delText></w:r></w:del>")
    )
    paragraph._p.append(parse_xml(f"<w:ins {space}><w:r><w:t>inserted</w:t></w:r></w:ins>"))
    table = file.add_table(2, 2)
    for cell, text in zip(
        (cell for row in table.rows for cell in row.cells), ["Pump", "Hours", "P-3", "410"]
    ):
        cell.text = text
    file.save(str(tmp_path / "a.docx"))
    document = read_one(tmp_path / "a.docx")
    assert document.text == "Works report\n\nKept inserted\n\nPump | Hours\nP-3 | 410\n\n"
    assert document.headings[0].title == "Works report"


def test_docx_reads_moved_text_once_and_counts_its_notes(tmp_path: Path) -> None:
    import docx
    from docx.oxml import parse_xml

    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    moved = "<w:r><w:t>The seal broke.</w:t></w:r><w:r><w:footnoteReference w:id='1'/></w:r>"
    file = docx.Document()
    for part in (
        f"<w:moveFrom {space}>{moved}</w:moveFrom>",
        f"<w:r {space}><w:t>The pump stopped.</w:t><w:endnoteReference w:id='2'/></w:r>",
        f"<w:moveTo {space}>{moved}</w:moveTo>",
    ):
        file.add_paragraph()._p.append(parse_xml(part))
    file.save(str(tmp_path / "a.docx"))
    document = read_one(tmp_path / "a.docx")
    assert document.text == "The pump stopped.\n\nThe seal broke.\n\n"
    assert dict(document.left_out) == {"note": 2}


def test_a_table_in_a_cell_is_read_once(tmp_path: Path) -> None:
    import docx

    file = docx.Document()
    table = file.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "Pump", "410"
    inner = table.cell(0, 0).add_table(2, 1)
    inner.cell(0, 0).text, inner.cell(1, 0).text = "P-3", "P-4"
    file.save(str(tmp_path / "a.docx"))
    assert _text(tmp_path / "a.docx") == "Pump P-3 P-4 | 410\n\n"


def test_tables_that_lay_out_a_page_are_read_once(tmp_path: Path) -> None:
    inner = (
        "<table><caption>Hours</caption><tr><th>Pump</th><th>Hours</th></tr>"
        "<tr><td>P-3</td><td>410</td></tr></table>"
    )
    page = (
        f"<table><tr><td>The crew</td><td>came late.</td></tr><tr><td><h1>News</h1><p>It froze."
        f"</p>{inner}</td><td><p>The seal broke.</p></td></tr></table>"
    )
    message = EmailMessage()
    message["Subject"] = "Newsletter"
    message.set_content(f"<html><body>{page}</body></html>", subtype="html")
    (tmp_path / "a.eml").write_bytes(message.as_bytes())
    assert _text(tmp_path / "a.eml") == (
        "Newsletter\n\nThe crew | came late.\n\nNews\n\nIt froze.\n\n"
        "Hours\n\nPump | Hours\nP-3 | 410\n\nThe seal broke.\n\n"
    )


def test_pdf_joins_lines_and_drops_furniture(tmp_path: Path) -> None:
    pages = []
    for number in range(1, 4):
        lines = [(760, "Northern Works, quarterly report"), (30, f"Page {number} of 3")]
        lines += [
            (680, "The station was stopped because of an unex-"),
            (666, "pected rise in the temperature of the"),
            (652, f"bearing of pump {number}."),
        ]
        lines += [(610, "A second paragraph begins after a gap"), (596, "and ends here.")]
        pages.append(lines)
    (tmp_path / "a.pdf").write_bytes(_pdf(pages))
    document = read_one(tmp_path / "a.pdf")
    first = (
        "The station was stopped because of an unexpected rise in the temperature of the "
        "bearing of pump {}.\n\nA second paragraph begins after a gap and ends here.\n\n"
    )
    assert document.text == "".join(first.format(number) for number in (1, 2, 3))
    assert [document.page(document.text.index(f"pump {number}")) for number in (1, 2, 3)] == [
        1,
        2,
        3,
    ]


def test_pdf_without_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(_pdf([[]]))
    with pytest.raises(Unreadable, match="no_text_layer"):
        read(tmp_path / "a.pdf")


def _pdf(pages: list[list[tuple[int, str]]]) -> bytes:
    """Write a PDF: lines of Helvetica 12 at x 72 and the given y."""
    return pdf([[(72, y, text, 12) for y, text in lines] for lines in pages])


def test_rtf_epub_and_mail(tmp_path: Path) -> None:
    (tmp_path / "a.rtf").write_bytes(
        rb"{\rtf1\ansi\ansicpg1252 {\b Works report}\par The pump\'92s bearing ran hot.\par}"
    )
    assert _text(tmp_path / "a.rtf") == "Works report\n\nThe pump’s bearing ran hot.\n\n"
    pages = {
        "one.xhtml": "<html><body><h1>Later</h1><p>Second in the spine.</p></body></html>",
        "two.xhtml": "<?xml version='1.0' encoding='utf-8'?><html><body><h1>First</h1>"
        "<p>It begins.</p></body></html>",
    }
    epub(tmp_path / "b.epub", pages, spine=["two.xhtml", "one.xhtml"])
    assert _text(tmp_path / "b.epub") == "First\n\nIt begins.\n\nLater\n\nSecond in the spine.\n\n"
    message = EmailMessage()
    message["Subject"], message["From"] = "Pump stopped", "a@example.org"
    message.set_content(STORY)
    message.add_attachment(
        b"id,text\n1,A row in an attachment.\n", maintype="text", subtype="csv", filename="rows.csv"
    )
    (tmp_path / "c.eml").write_bytes(message.as_bytes())
    mail, row = read(tmp_path / "c.eml")
    assert isinstance(mail, Document) and isinstance(row, Document)
    assert mail.text.startswith("Pump stopped\n\nThe pump was stopped at noon.")
    assert (row.member, row.text) == ("!rows.csv#1", "A row in an attachment.")
