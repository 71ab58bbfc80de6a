"""Pages as people lay them out: columns, tables, furniture, divided words, scans; and spans that
lead back to the text in every format.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tasks.ingest.readers import detect
from tasks.ingest.readers.document import Document, ReadOptions, Unreadable
from tests.ingest.pdf_files import pdf, text_of
from tests.ingest.reading import STORY

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
