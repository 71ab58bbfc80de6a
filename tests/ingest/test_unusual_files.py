"""Files that people have and that no first reader of the format foresaw: mailboxes, notebooks,
pages under other names, messages with a stub of text, books with a wrong spine.
"""

from __future__ import annotations

import json
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tasks.ingest.readers import detect, html
from tasks.ingest.readers.document import Document, Reject
from tests.ingest.office_files import OLE, STORY, zipped
from tests.ingest.pdf_files import pdf
from tests.ingest.reading import read, read_one, refusal

_PAGE = f"<html><body><p>{STORY}</p></body></html>"
_FROM = "From a@example.org Mon Jan  1 00:00:00 2024\n"


# --- mailboxes


def _mail(subject: str, text: str = STORY, page: str = "") -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"] = subject, "a@example.org"
    message.set_content(text)
    if page:
        message.add_alternative(page, subtype="html")
    return message


def test_a_mailbox_is_read_message_by_message(tmp_path: Path) -> None:
    first, second = _mail("One", f"{STORY}\n\n>From here on it ran.\n"), _mail("Two")
    second.add_attachment(bytes(99), maintype="image", subtype="png", filename="a.png")
    second.add_attachment("A list.", filename="b.txt")
    box = f"{_FROM}{first}\n{_FROM}{second}\n\nFrom here on, nothing"
    (tmp_path / "a.mbox").write_text(box)
    found = read(tmp_path / "a.mbox")
    assert [item.member for item in found] == ["!1", "!2", "!2!a.png", "!2!b.txt"]
    one, two, picture, attachment = found
    assert isinstance(one, Document) and one.format == "eml"
    assert one.text == f"One\n\n{STORY}\n\nFrom here on it ran.\n\n"
    assert isinstance(two, Document) and two.text.startswith(f"Two\n\n{STORY}")
    assert isinstance(picture, Reject) and isinstance(attachment, Document)
    for name in ("Inbox", "2019-November.txt"):
        (tmp_path / name).write_text(box)
        assert [item.member for item in read(tmp_path / name)] == [item.member for item in found]


def test_a_text_that_begins_like_a_mailbox_is_a_text(tmp_path: Path) -> None:
    for text in (f"From noon on: {STORY}", f"From Mon Jan 1 on it ran.\n\n{STORY}"):
        (tmp_path / "a.txt").write_text(text)
        assert read_one(tmp_path / "a.txt").text == text
    (tmp_path / "a.mbox").write_text(STORY)
    assert refusal(tmp_path / "a.mbox").reason == "damaged"


def test_a_long_message_costs_itself(tmp_path: Path) -> None:
    box = "\n".join(f"{_FROM}{_mail(str(n), STORY * (500 if n == 1 else 1))}" for n in range(3))
    (tmp_path / "a.mbox").write_text(box)
    found = {item.member: item for item in read(tmp_path / "a.mbox", max_bytes=20_000)}
    assert isinstance(found["!1"], Document) and isinstance(found["!3"], Document)
    bad = found["!2"]
    assert isinstance(bad, Reject) and bad.reason == "too_large"


# --- notebooks


def _notebook(*cells: dict[str, Any]) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def test_a_notebook_gives_text_and_code_without_outputs(tmp_path: Path) -> None:
    picture = {"data": {"image/png": "iVBORw0KGgo" * 900}, "output_type": "display_data"}
    notebook = _notebook(
        {"cell_type": "markdown", "source": ["# Pumps\n", "\n", STORY]},
        {"cell_type": "code", "source": "# no heading\nx = '```'\n", "outputs": [picture]},
        {"cell_type": "code", "source": [], "outputs": []},
        {"cell_type": "markdown", "source": "## Valves"},
    )
    for name in ("a.ipynb", "b.json", "c"):
        (tmp_path / name).write_text(json.dumps(notebook))
        document = read_one(tmp_path / name)
        assert (
            document.text
            == f"# Pumps\n\n{STORY}\n\n````\n# no heading\nx = '```'\n\n````\n\n## Valves"
        )
        assert [heading.title for heading in document.headings] == ["Pumps", "Valves"]
        assert (document.format, document.left_out) == ("notebook", (("output", 1),))


def test_rows_that_have_the_keys_of_a_notebook_are_rows(tmp_path: Path) -> None:
    row = {"metadata": {"cell_type": "neuron"}, "text": "The pump at Corran failed."}
    (tmp_path / "a.json").write_text(json.dumps([row]) + "\n")
    (tmp_path / "b.json").write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    for name in ("a.json", "b.json"):
        texts = [part.text for part in read(tmp_path / name) if isinstance(part, Document)]
        assert set(texts) == {row["text"]}


def test_of_texts_among_objects_the_texts_are_read(tmp_path: Path) -> None:
    text = ["See ", {"type": "link", "text": "https://x.example"}, "for the rest."]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"text": text}) + "\n")
    assert read_one(tmp_path / "chat.jsonl").text == "See \n\nfor the rest."


def test_a_notebook_of_an_earlier_version(tmp_path: Path) -> None:
    cells = [{"cell_type": "heading", "level": 10**9, "source": "Pumps"}]
    cells += [{"cell_type": "code", "language": "python", "input": ["x = 1"]}]
    (tmp_path / "a.ipynb").write_text(json.dumps({"nbformat": 3, "worksheets": [{"cells": cells}]}))
    assert read_one(tmp_path / "a.ipynb").text == "# Pumps\n\n```\nx = 1\n```"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"cells": 3}', '{"worksheets": [1]}'])
def test_notebooks_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.ipynb").write_text(content)
    assert refusal(tmp_path / "a.ipynb").reason == ("damaged" if content else "empty")


# --- formats that show in the first bytes


@pytest.mark.parametrize("name", ["a.php", "b.aspx", "c.xml", "d"])
@pytest.mark.parametrize(
    "before",
    [
        "\ufeff",
        '<?xml version="1.0"?>\n',
        "<!-- saved from (0022)http://example.org -->\n",
        '\ufeff<?xml version="1.0"?><!-- a --> <!-- b -->\n<!DOCTYPE html>\n',
    ],
)
def test_a_page_under_another_name_is_a_page(tmp_path: Path, name: str, before: str) -> None:
    (tmp_path / name).write_text(before + _PAGE, encoding="utf-8")
    document = read_one(tmp_path / name)
    assert (document.format, document.text.strip()) == ("html", STORY)
    (tmp_path / name).write_text(f"{before.lstrip(chr(0xFEFF))}{_PAGE}", encoding="utf-16")
    assert read_one(tmp_path / name).format == "html"


@pytest.mark.parametrize("end", ["", " "])
@pytest.mark.parametrize(
    "head", ['<?xml version="1.0" encoding="utf-16"?>', '<meta charset="UTF-16LE">']
)
def test_a_page_that_says_it_is_utf_16_and_is_not(tmp_path: Path, head: str, end: str) -> None:
    """Programs save a text that they held in UTF-16 as UTF-8; bytes in pairs fit both."""
    (tmp_path / "a.html").write_text(f"{head}{_PAGE}{end}", encoding="utf-8")
    document = read_one(tmp_path / "a.html")
    assert (document.text.strip(), document.encoding) == (STORY, "utf-8")


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("a.xml", f'<?xml version="1.0"?><a><p>{STORY}</p></a>', "save it as HTML"),
        ("a.xml", f"<!-- c -->\n<a><p>{STORY}</p></a>", "save it as HTML"),
        ("a.svg", f'<svg xmlns="http://www.w3.org/2000/svg"><text>{STORY}</text></svg>', "XML"),
        ("a", f'\ufeff<?xml version="1.0"?><!DOCTYPE article><article>{STORY}</article>', "XML"),
        ("a.mhtml", f"From: <Saved>\nMIME-Version: 1.0\n\n{_PAGE}", "save it as HTML or PDF"),
        ("a.mht", _PAGE, "save it as HTML or PDF"),
        ("a", f"From: <Saved by Blink>\nMIME-Version: 1.0\n\n{_PAGE}", "save it as HTML or PDF"),
        ("a.msg", "", "an Outlook message (.msg): save it as .eml"),
    ],
)
def test_what_is_not_read_is_told_what_to_do(
    tmp_path: Path, name: str, content: str, remedy: str
) -> None:
    (tmp_path / name).write_bytes(content.encode() or OLE)
    problem = refusal(tmp_path / name)
    assert problem.reason == "unsupported_format" and remedy in problem.detail


@pytest.mark.parametrize("text", ["<a> is less than b", f"<note>{STORY}</note>", "a < b"])
def test_signs_of_less_are_no_xml(tmp_path: Path, text: str) -> None:
    for name in ("a.txt", "b.py", "c"):
        (tmp_path / name).write_text(text)
        assert detect.reader_name(tmp_path / name) == "text"


def test_a_pdf_may_have_bytes_before_it(tmp_path: Path) -> None:
    data = pdf([[(72, 700, STORY, 12)]])
    for before in (b"\r\n", b"\x1b%-12345X@PJL\r\n", b"x" * 1019):
        (tmp_path / "a.pdf").write_bytes(before + data)
        assert read_one(tmp_path / "a.pdf").text.strip() == STORY
    (tmp_path / "a.pdf").write_bytes(b"x" * 1100 + data)
    assert refusal(tmp_path / "a.pdf").reason == "damaged"
    (tmp_path / "a.txt").write_bytes(b"A file of %PDF-1.7 begins so.")
    assert read_one(tmp_path / "a.txt").format == "text"


# --- messages


@pytest.mark.parametrize("text", ["\n", " \n \n", "View this message in an HTML capable client.\n"])
def test_the_page_takes_the_place_of_a_stub(tmp_path: Path, text: str) -> None:
    page = f"<html><body><h1>Report</h1><p>{STORY}</p><p>{STORY} Again.</p><hr></body></html>"
    (tmp_path / "a.eml").write_bytes(bytes(_mail("Pump", text, page)))
    document = read_one(tmp_path / "a.eml")
    assert document.text == f"Pump\n\nReport\n\n{STORY}\n\n{STORY} Again.\n\n"
    assert [heading.title for heading in document.headings] == ["Pump", "Report"]


def test_a_page_beside_the_text_does_not_take_its_place(tmp_path: Path) -> None:
    message = _mail("Pump")
    message.make_mixed()
    message.attach(_mail("", f"<p>{STORY * 9}</p>"))
    message.get_payload()[1].replace_header("Content-Type", "text/html")
    (tmp_path / "a.eml").write_bytes(bytes(message))
    assert read_one(tmp_path / "a.eml").text == f"Pump\n\n{STORY}\n\n"


def test_the_text_stays_where_the_page_has_little_more_or_cannot_be_read(tmp_path: Path) -> None:
    for page in (f"<p>{STORY}</p><p>Unsubscribe here, or read our terms.</p>", "<b>" * 9999):
        (tmp_path / "a.eml").write_bytes(bytes(_mail("Pump", STORY, page)))
        assert read_one(tmp_path / "a.eml").text == f"Pump\n\n{STORY}\n\n"


def test_a_page_that_breaks_its_parser_costs_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise AttributeError("a bug of the library")

    monkeypatch.setattr(html, "build", broken)
    (tmp_path / "a.eml").write_bytes(bytes(_mail("Pump", STORY, _PAGE)))
    assert read_one(tmp_path / "a.eml").text == f"Pump\n\n{STORY}\n\n"
    (tmp_path / "a.eml").write_bytes(bytes(_mail("Pump", "\n", _PAGE)))
    (reject,) = read(tmp_path / "a.eml")
    assert isinstance(reject, Reject) and reject.detail == "AttributeError: a bug of the library"


# --- books


def _epub(path: Path, hrefs: list[str], names: list[str], root: str = "OEBPS/b.opf") -> Path:
    items = "".join(
        f'<item id="i{n}" href="{href}" media-type="application/xhtml+xml"/>'
        for n, href in enumerate(hrefs)
    )
    spine = "".join(f'<itemref idref="i{n}"/>' for n in range(len(hrefs)))
    parts = {
        "META-INF/container.xml": f'<c><rootfile full-path="{root}"/></c>',
        "OEBPS/b.opf": f"<package>{items}{spine}</package>",
        **{f"OEBPS/{name}": f"<html><body><p>Of {name}.</p></body></html>" for name in names},
    }
    return zipped(path, parts)


def test_fragments_and_cases_of_a_spine_lead_to_their_chapter(tmp_path: Path) -> None:
    hrefs = ["Text/One.xhtml#start", "Text/One.xhtml#end", "text/two.XHTML", "a%20b.xhtml#c%23"]
    names = ["Text/One.xhtml", "Text/Two.xhtml", "a b.xhtml"]
    book = read_one(_epub(tmp_path / "a.epub", hrefs, names, root="oebps/B.opf"))
    assert book.text.split("\n\n")[:-1] == [f"Of {name}." for name in names]


def test_a_missing_chapter_costs_itself(tmp_path: Path) -> None:
    path = _epub(tmp_path / "a.epub", ["cover.xhtml", "one.xhtml", "TWO.xhtml"], ["one.xhtml"])
    with zipfile.ZipFile(path, "a") as archive:  # which of them is meant is not known
        archive.writestr("OEBPS/two.xhtml", _PAGE)
        archive.writestr("OEBPS/Two.xhtml", _PAGE)
    *rejects, book = read(path)
    assert isinstance(book, Document) and book.text == "Of one.xhtml.\n\n"
    assert [(item.member, getattr(item, "reason", "")) for item in rejects] == [
        ("!OEBPS/cover.xhtml", "damaged"),
        ("!OEBPS/TWO.xhtml", "damaged"),
    ]
    problem = refusal(_epub(tmp_path / "b.epub", ["one.xhtml", "two.xhtml"], ["three.xhtml"]))
    assert problem.reason == "damaged" and "no chapter can be read" in problem.detail
