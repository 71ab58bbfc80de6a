"""Readers on small files made here, one of every format and damaged ones; the cutter; the rules;
the limits on a parser.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import time
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core import pool
from tasks.ingest import cleaning, worker
from tasks.ingest.passages import Passage, cut
from tasks.ingest.readers import detect
from tasks.ingest.readers.decoding import decode
from tasks.ingest.readers.document import Document, ReadOptions, Reject, Unreadable
from tasks.ingest.readers.markdown import find_headings

STORY = (
    "The pump was stopped at noon. Its bearing had run hot since Monday. A fitter changed it "
    "by the evening."
)


def _words(texts: Any) -> list[int]:
    return [len(text.split()) for text in texts]


def _characters(texts: Any) -> list[int]:
    return [len(text) for text in texts]


def _read(path: Path, **options: Any) -> list[Document | Reject]:
    items = detect.read(path, ReadOptions(**options))
    return [item for item in items if isinstance(item, Document | Reject)]


def _text(path: Path, **options: Any) -> str:
    (document,) = _read(path, **options)
    assert isinstance(document, Document)
    return document.text


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
        found = _read(path)
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
    title, row = _read(tmp_path / "a.csv")
    assert isinstance(title, Reject) and "above the header: Report 2019" in title.detail
    assert isinstance(row, Document) and (row.member, row.text) == ("#1", "One row.")


def test_json_lines_may_hold_other_line_ends_and_nothing(tmp_path: Path) -> None:
    rows = [{"text": "One\u2028and\u0085half."}, {"text": ["Two.", None, "Three."]}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    for name in ("a.json", "b.jsonl"):
        (tmp_path / name).write_bytes(lines.encode())
        found = _read(tmp_path / name)
        assert [item.member for item in found if isinstance(item, Document)] == ["#1", "#2"], name
        assert "None" not in getattr(found[1], "text", "None")
    (tmp_path / "c.json").write_bytes(lines.encode("utf-16"))
    assert len(_read(tmp_path / "c.json")) == 2


def test_bad_rows_are_rejects_and_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "Good."}\n{broken\n[1]\n{"text": ""}\n{"text": "'
        + "x" * 3000
        + '"}\n{"other": 1}\n{"text": "Good again."}\n'
    )
    found = _read(path, max_bytes=2000)
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
        _read(path, text_column="body")
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
    (document,) = _read(path)
    assert isinstance(document, Document)
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
    (document,) = _read(tmp_path / "a.docx")
    assert isinstance(document, Document)
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
    (document,) = _read(tmp_path / "a.docx")
    assert isinstance(document, Document)
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
    (document,) = _read(tmp_path / "a.pdf")
    assert isinstance(document, Document)
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
        _read(tmp_path / "a.pdf")


def _pdf(pages: list[list[tuple[int, str]]]) -> bytes:
    """Write a PDF by hand: lines of Helvetica 12 at x 72 and the given y."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    kids = []
    for lines in pages:
        stream = "".join(f"BT /F1 12 Tf 72 {y} Td ({text}) Tj ET\n" for y, text in lines)
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}endstream")
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents "
            f"{len(objects)} 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    return (
        data
        + (
            f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer << /Size "
            f"{len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF"
        ).encode()
    )


def test_rtf_epub_and_mail(tmp_path: Path) -> None:
    (tmp_path / "a.rtf").write_bytes(
        rb"{\rtf1\ansi\ansicpg1252 {\b Works report}\par The pump\'92s bearing ran hot.\par}"
    )
    assert _text(tmp_path / "a.rtf") == "Works report\n\nThe pump’s bearing ran hot.\n\n"
    with zipfile.ZipFile(tmp_path / "b.epub", "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr(
            "META-INF/container.xml",
            '<container><rootfiles><rootfile full-path="o/book.opf"/></rootfiles></container>',
        )
        items = "".join(
            f'<item id="{name}" href="{name}.xhtml" media-type="application/xhtml+xml"/>'
            for name in ("one", "two")
        )
        book.writestr(
            "o/book.opf",
            (
                f'<package><manifest>{items}</manifest><spine><itemref idref="two"/><itemref '
                'idref="one"/></spine></package>'
            ),
        )
        book.writestr(
            "o/one.xhtml", "<html><body><h1>Later</h1><p>Second in the spine.</p></body></html>"
        )
        book.writestr(
            "o/two.xhtml",
            (
                "<?xml version='1.0' encoding='utf-8'?><html><body><h1>First</h1><p>It "
                "begins.</p></body></html>"
            ),
        )
    assert _text(tmp_path / "b.epub") == "First\n\nIt begins.\n\nLater\n\nSecond in the spine.\n\n"
    message = EmailMessage()
    message["Subject"], message["From"] = "Pump stopped", "a@example.org"
    message.set_content(STORY)
    message.add_attachment(
        b"id,text\n1,A row in an attachment.\n", maintype="text", subtype="csv", filename="rows.csv"
    )
    (tmp_path / "c.eml").write_bytes(message.as_bytes())
    mail, row = _read(tmp_path / "c.eml")
    assert isinstance(mail, Document) and isinstance(row, Document)
    assert mail.text.startswith("Pump stopped\n\nThe pump was stopped at noon.")
    assert (row.member, row.text) == ("!rows.csv#1", "A row in an attachment.")


# --- archives and hostile files


def test_archives_hold_documents_and_bad_members_are_rejects(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b/two.md", "# Two\n\n" + STORY)
        archive.writestr("../../escape.txt", STORY)
        archive.writestr("bad.pdf", b"%PDF-1.4 cut short")
    found = {item.member: item for item in _read(tmp_path / "a.zip")}
    assert sorted(found) == ["!../../escape.txt", "!b/two.md", "!bad.pdf"]
    assert isinstance(found["!bad.pdf"], Reject) and found["!bad.pdf"].reason == "damaged"
    assert not (tmp_path.parent / "escape.txt").exists()
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "a.zip", "inner/a.zip")
        link = tarfile.TarInfo("passwd.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    members = {item.member: item for item in _read(tmp_path / "b.tar.gz")}
    assert isinstance(members["!inner/a.zip!b/two.md"], Document)
    assert isinstance(members["!passwd.txt"], Reject) and members["!passwd.txt"].reason == "link"


def test_bombs_and_endless_nesting_are_cut_off(tmp_path: Path) -> None:
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"\n" * (3 << 20)))
    (reject,) = _read(tmp_path / "bomb.txt.gz", max_bytes=1 << 20)
    assert isinstance(reject, Reject) and reject.reason == "too_large"
    with zipfile.ZipFile(tmp_path / "bomb.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b" " * (3 << 20))
    with pytest.raises(Unreadable, match="too_large"):
        _read(tmp_path / "bomb.docx", max_bytes=1 << 20)
    data = STORY.encode()
    for _ in range(6):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("x.zip" if data[:2] == b"PK" else "x.txt", data)
        data = buffer.getvalue()
    (tmp_path / "nested.zip").write_bytes(data)
    (reject,) = _read(tmp_path / "nested.zip")
    assert isinstance(reject, Reject) and reject.reason == "nested_too_deep"


@pytest.mark.parametrize(
    ("name", "reason"), [("hang", "timeout"), ("crash", "crashed"), ("greedy", "memory")]
)
def test_a_parser_that_misbehaves_costs_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    """The parser is a real module on the workers' path, put in place of a library that readers
    import.
    """
    library = {
        "hang": "import time\ndef rtf_to_text(*a, **k): time.sleep(60)",
        "crash": "import os\ndef rtf_to_text(*a, **k): os.abort()",
        "greedy": "def rtf_to_text(*a, **k): return len('x' * (3 << 30))",
    }
    package = tmp_path / "libraries" / "striprtf"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "striprtf.py").write_text(library[name])
    monkeypatch.syspath_prepend(str(tmp_path / "libraries"))
    (tmp_path / "bad.rtf").write_bytes(rb"{\rtf1 x}")
    (tmp_path / "good.txt").write_text(STORY)
    monkeypatch.setattr(pool, "_RESTARTS", 1)
    work = worker.Work("", ReadOptions(), 50, 1)
    # The first file pays for the worker's start, so that the bad one's second is its own, and the
    # last shows that it was replaced.
    jobs = [
        ("first", tmp_path / "good.txt"),
        ("bad", tmp_path / "bad.rtf"),
        ("good", tmp_path / "good.txt"),
    ]
    limits = pool.Limits(1.0 if name == "hang" else 60.0, 512)
    outcomes = list(worker.read_files(jobs, work, 1, limits, tmp_path / "unpacked"))
    results = {
        outcome.key: (json.loads(outcome.value), outcome.failure)
        for outcome in outcomes
        if outcome.done
    }
    assert results["bad"][0][0]["reason"] == reason
    assert results["bad"][1] == reason
    assert [results[key][0][0]["passages"][0]["text"] for key in ("first", "good")] == [
        STORY,
        STORY,
    ]


# --- passages


def _cut(text: str, budget: int, least: int, count: Any = _words) -> list[Passage]:
    found = list(
        cut(Document(text, "markdown", headings=find_headings(text)), count, budget, least)
    )
    assert all(text[passage.start : passage.end] == passage.text for passage in found)
    assert all(passage.tokens <= budget for passage in found)
    assert [passage.start for passage in found] == sorted(passage.start for passage in found)
    return found


def test_cuts_stand_at_paragraphs_then_sentences() -> None:
    paragraphs = [
        " ".join(f"Sentence {number} of part {part} ends." for number in range(3))
        for part in range(4)
    ]
    found = _cut("\n\n".join(paragraphs), budget=40, least=5)
    assert [passage.text for passage in found] == [
        "\n\n".join(paragraphs[:2]),
        "\n\n".join(paragraphs[2:]),
    ]
    found = _cut(" ".join(paragraphs), budget=20, least=5)
    assert all(passage.text.endswith("ends.") for passage in found)
    assert max(passage.tokens for passage in found) - min(passage.tokens for passage in found) <= 6


def test_a_short_tail_is_balanced_and_main_headings_divide() -> None:
    sentences = [f"Line {number} has exactly five words." for number in range(11)]
    assert min(passage.tokens for passage in _cut(" ".join(sentences), budget=60, least=20)) >= 24
    text = "# A\n\n" + " ".join(sentences[:4]) + "\n\n# B\n\n" + " ".join(sentences[4:8])
    found = _cut(text, budget=100, least=10)
    assert [passage.section for passage in found] == ["A", "B"]
    # A section too short for a passage of its own joins its neighbour.
    assert (
        len(_cut("# A\n\nShort one.\n\n# B\n\n" + " ".join(sentences[:4]), budget=100, least=10))
        == 1
    )


def test_any_script_and_text_without_spaces() -> None:
    japanese = "水泵在中午停止了。轴承从星期一开始过热。工人在晚上换了它。" * 6
    found = _cut(japanese, budget=40, least=5, count=_characters)
    assert all(passage.text.endswith("。") for passage in found)
    assert "".join(passage.text for passage in found) == japanese
    assert (
        "".join(passage.text for passage in _cut("x" * 1000, budget=64, least=1, count=_characters))
        == "x" * 1000
    )
    hindi = "पंप दोपहर में बंद हुआ। असर गरम था। शाम को बदला गया।"
    assert [passage.text[-1] for passage in _cut(hindi, budget=6, least=1)] == ["।", "।", "।"]


def test_abbreviations_and_decimals_end_no_sentence() -> None:
    text = "Dr. A. Smith measured 3.5 bar at No. 7. The valve was shut."
    assert [passage.text for passage in _cut(text, budget=9, least=1)] == [
        "Dr. A. Smith measured 3.5 bar at No. 7.",
        "The valve was shut.",
    ]


# --- rules


def test_evaluation_overlap_by_words_in_a_row() -> None:
    known = "one two three four five six seven eight nine ten"
    overlap = cleaning.EvaluationOverlap([known, "a short one of five", "too short"], 6)
    assert "x One, two -- three four FIVE six y" in overlap
    assert "one two three four five seven eight nine ten" not in overlap
    assert "it holds a short one of five here" in overlap
    assert "three four five six seven" in overlap
    assert "three five four six seven" not in overlap
    # So few words stand in any text.
    assert "this is too short to tell" not in overlap
    assert "three four" not in overlap


def test_items_that_the_corpus_answers() -> None:
    context = "Pump P-1 failed at noon because its seal broke."
    items = [
        ("a", "Why did pump P-1 fail?", context, ["its seal broke"]),
        ("b", "When did it fail?", context, ["noon"]),
        ("c", "Pump P-1 failed at noon.", f"{context} It was old.", ["yes"]),
    ]
    leaks = cleaning.Leaks(items)
    leaks.look(context)
    leaks.look("Why did pump P-1 fail? Nobody knows.")
    leaks.look("When did it fail? noon. Pump P-1 failed at noon. yes")
    assert not leaks.found, "no answer; too short; its own passage says it"
    leaks.look(f"q7,{context},why did Pump P-1 fail,its seal broke")
    leaks.look("Why did pump P-1 fail? Its SEAL broke.")
    assert leaks.found == {"a"}


def test_near_duplicates_agree_with_the_exact_similarity(tmp_path: Path) -> None:
    base = [f"word{number}" for number in range(200)]
    close, far = (
        [*base[:198], "other", "ends"],
        [*base[:100], *(f"new{number}" for number in range(100))],
    )
    seen = cleaning.Seen(tmp_path / "seen.sqlite", 0.8)
    assert seen.near_duplicate(cleaning.make_signature(" ".join(base)), "first") == ("", 0.0)
    name, alike = seen.near_duplicate(cleaning.make_signature(" ".join(close)), "second")
    assert (name, alike) == ("first", pytest.approx(194 / 198, abs=0.05))
    assert seen.near_duplicate(cleaning.make_signature(" ".join(far)), "third")[0] == ""
    seen.close()


def test_masks_leave_dates_and_amounts_alone() -> None:
    text = (
        "Mail bob@example.org, call +49 (30) 1234 5678, card 4111 1111 1111 1111, host "
        "10.0.0.1; on 2019-11-29 at 16:44 it was 1,260 of 41 870."
    )
    changed, counts = cleaning.mask(text)
    assert re.findall(r"\[\w+\]", changed) == ["[EMAIL]", "[PHONE]", "[CARD]", "[IP]"]
    assert counts == {"EMAIL": 1, "PHONE": 1, "CARD": 1, "IP": 1}
    assert "2019-11-29 at 16:44 it was 1,260 of 41 870" in changed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "IBAN DE89 3704 0044 0532 0130 00 IS OURS, GB29NWBK60161331926819 too",
            "IBAN [IBAN] IS OURS, [IBAN] too",
        ),
        ("no IBAN: DE00 3704 0044 0532 0130 00", None),
        ("card 5555-5555-5555-4444 and 378282246310005", "card [CARD] and [CARD]"),
        ("no card: 4111 1111 1111 1112, 0000 0000 0000 0000", None),
        ("from 2001:db8::1 or 192.168.1.254.", "from [IP] or [IP]."),
        ("no address: 300.1.1.1, version 1.2.3.4.5, a std::vector at 12:30:45", None),
        ("SSN 123-45-6789", "SSN [SSN]"),
        ("¹jane.doe@uni.edu ²john.roe@lab.org", "[EMAIL] [EMAIL]"),
        ("²jdoe@uni.edu", "[EMAIL]"),
        ("call +4915112345678 or (555) 010-4477 x", "call [PHONE] or [PHONE] x"),
    ],
)
def test_check_digits_and_forms_tell_personal_data(text: str, expected: str | None) -> None:
    assert cleaning.mask(text)[0] == (text if expected is None else expected)
