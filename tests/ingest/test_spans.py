"""A passage's span leads back to the text of its document, in every format."""

from __future__ import annotations

import json
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.ingest import worker
from tasks.ingest.readers import detect
from tasks.ingest.readers.document import Document, ReadOptions
from tests.ingest.office_files import epub
from tests.ingest.pdf_files import pdf
from tests.ingest.reading import STORY


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
    chapter = f"<html><body><h1>One</h1><p>{long}</p></body></html>"
    epub(folder / "g.epub", {"a.xhtml": chapter})
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
    with zipfile.ZipFile(folder / "m.zip", "w") as archive:
        archive.write(folder / "b.md", "deep/b.md")
        archive.write(folder / "d.docx", "d.docx")


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
