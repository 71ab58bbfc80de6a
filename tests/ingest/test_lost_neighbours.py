"""A bad part of a file costs that part alone, and a hostile text costs time in proportion."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.ingest import apparatus, sentences
from tasks.ingest.readers import markdown, paragraphs
from tasks.ingest.readers.document import Document, Reject
from tests.ingest.office_files import epub
from tests.ingest.reading import read, read_one, refusal


def test_a_byte_that_no_encoding_knows_costs_its_row(tmp_path: Path) -> None:
    """It stands behind what tells the encoding, the first MiB."""
    rows = [
        f"{number},Row {number} of the pump's log, at {'noon ' * 20}".encode()
        for number in range(12_000)
    ]
    rows[10_500] += b"\xff"
    (tmp_path / "a.csv").write_bytes(b"id,text\n" + b"\n".join(rows) + b"\n")
    found = read(tmp_path / "a.csv")
    assert sum(isinstance(item, Document) for item in found) == 11_999
    (bad,) = (item for item in found if isinstance(item, Reject))
    assert (bad.member, bad.reason) == ("#10501", "damaged")


def test_a_body_that_cannot_be_read_costs_no_attachment(tmp_path: Path) -> None:
    body = base64.b64encode(bytes(range(1, 256)) * 4).decode()
    (tmp_path / "a.eml").write_text(
        'Subject: s\nContent-Type: multipart/mixed; boundary="b"\n\n'
        "--b\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n"
        f"{body}\n"
        '--b\nContent-Type: text/plain\nContent-Disposition: attachment; filename="x.txt"\n\n'
        "the good attachment\n"
        '--b\nContent-Type: multipart/mixed; boundary="c"\nContent-Disposition: attachment\n\n'
        "--c\nContent-Type: text/plain\n\nthe inner text\n--c--\n--b--\n"
    )
    bad, *good = read(tmp_path / "a.eml")
    assert isinstance(bad, Reject) and bad.reason == "unknown_encoding"
    texts = [item.text.strip() for item in good if isinstance(item, Document)]
    assert texts == ["the good attachment", "the inner text"]


def test_a_chapter_that_is_named_often_is_read_once(tmp_path: Path) -> None:
    def write(name: str, chapter: str) -> Path:
        page = f"<html><body><p>{chapter}</p></body></html>"
        return epub(tmp_path / name, {"a.html": page}, spine=["a.html"] * 60)

    assert read_one(write("a.epub", "One chapter.")).text.strip() == "One chapter."
    assert refusal(write("b.epub", "word " * 60_000), max_bytes=100_000).reason == "too_large"


@pytest.mark.parametrize(
    ("name", "work", "text"),
    [
        ("a row of dots", lambda text: list(sentences._SENTENCE_END.finditer(text)), "."),
        (
            "a title of blanks",
            lambda text: markdown.find_headings(f"---\ntitle: a{text}b\n---\n"),
            " ",
        ),
        ("a heading of blanks", lambda text: apparatus._TITLE.search(f"References{text}x"), " "),
        ("a word without an end", lambda text: paragraphs._DIVIDED.sub("", text), "a"),
    ],
)
def test_a_long_row_of_one_sign_takes_time_in_proportion(
    name: str, work: Callable[[str], object], text: str
) -> None:
    def seconds(count: int) -> float:
        begun = time.process_time()
        work(text * count)
        return time.process_time() - begun

    assert min(seconds(100_000) for _ in range(2)) < 1, name


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ('title: "Works report"', "Works report"),
        ("title:  'A day'  ", "A day"),
        ("title: Plain: text", "Plain: text"),
        ("title:", ""),
        ("other: x", ""),
    ],
)
def test_a_title_of_front_matter(front: str, title: str) -> None:
    headings = markdown.find_headings(f"---\n{front}\n---\nText.\n")
    assert [heading.title for heading in headings] == [title]


@pytest.mark.parametrize(
    "text", ["\nThe pump failed.\n\n", "\n# Pumps\n\nAll ran: none failed.\n\n"]
)
def test_text_between_two_rules_is_no_front_matter(text: str) -> None:
    """It would be in no passage, and no reject."""
    headings = markdown.find_headings(f"---\n{text}---\n\nMore text.\n")
    assert all(heading.title == "Pumps" for heading in headings)


@pytest.mark.parametrize("front", ["", "# by hand\n\ntitle: Guide\n", "title:\n  Guide\nx: 1\n"])
def test_front_matter_is_no_text(front: str) -> None:
    (heading,) = markdown.find_headings(f"---\n{front}---\nText.\n")
    assert heading.end == len(f"---\n{front}---\n")


def test_sentences_end_where_they_did() -> None:
    ends = [
        match.end() for match in sentences._SENTENCE_END.finditer('One... "Two?!" Three. 3.5 b.')
    ]
    assert ends == [6, 14, 21]
    assert re.search(r"\(\?<!", sentences._SENTENCE_END.pattern)
