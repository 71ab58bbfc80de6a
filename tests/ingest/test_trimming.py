"""What is taken out of a document's text and joined in it: each rule on text that needs it, and on
text that only looks like it.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tasks.core.rows import REJECTS
from tasks.ingest import apparatus, trimming, worker
from tasks.ingest.readers import detect
from tasks.ingest.readers.document import Document, Heading, ReadOptions
from tasks.ingest.readers.markdown import find_headings
from tests.ingest.pdf_files import pdf, text_of

ALL = ("citation", "author_citation", "references", "infobox", "clause_number")


def trimmed(text: str, *kinds: str, form: str = "text") -> str:
    """Return ``text`` trimmed by all rules, or by ``kinds``."""
    return trimming.trim(Document(text, form), kinds or ALL)[0].text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            "It grew.[1] Then it fell,[2][3] as of 2015[update] and later.[4]: 111, 228 It rose.",
            "It grew. Then it fell, as of 2015 and later. It rose.",
        ),
        (
            "Used in vision [8, 34] and speech [35], but not in text [7-9].",
            "Used in vision and speech, but not in text.",
        ),
        ("One.[1] Two.[2] Three.[3]\n[4] Five.\n[5]\nSix.", "One. Two. Three.\nFive.\nSix."),
        (
            "We did so before.\u00b9\u00b2 In approaches,3 as we said.",
            "We did so before. In approaches, as we said.",
        ),
    ],
)
def test_markers_of_sources_go(text: str, left: str) -> None:
    assert trimmed(text) == left


@pytest.mark.parametrize(
    "text",
    [
        # A blank of a form, an amount, a date to fill in.
        "Within [30] days, at least [5] units, for [12] months [1].",
        "as to 36% [31,369] of the units, 33% [28,755] of them and 31% [27,001] of them.",
        "Settlement: March [4], 2010. Pricing: June [5], 2011. Filed: March [6], 2011.",
        # Part of the sentence.
        "As shown in [12], and by [13], it is so; see [14].",
        # An index of code, a choice, an area.
        "Take rows[0] and a[1], then call `values[2][3][4]` as in\n\n```\nnames[5] names[6] x[7]\n```\n",
        "The area is 5 km\u00b2 and 3 m\u00b3. No.3 and Vol.2 and 9.5 remain.",
        "A yard of 150 metres\u00b2 and 20 square meters\u00b2, 3 metres/seconds\u00b2.",
        # Indices of a program that is not marked as code.
        "def area(row):\n    width = row[1] - row[2]\n    return width * (row[3] - row[4])\n",
        "argv[0] is the program, argv[1] the file, argv[2] the folder and argv[3] the mode.",
        "print(self.row[4], self.row[5], self.row[6])",
        # One number is no system of notes.
        "It was so.[1] It was so again.[1]",
        "A link [text](a.html) and [1](b.html).",
    ],
)
def test_brackets_that_are_no_markers_stay(text: str) -> None:
    assert trimmed(text, form="markdown") == text


def test_code_of_a_notebook_stays_as_it_is() -> None:
    text = "It grew,[1] and fell.[2] It rose.[3]\n\n```\nnames[5] sizes[6]\n```\n"
    left = "It grew, and fell. It rose.\n\n```\nnames[5] sizes[6]\n```\n"
    assert trimmed(text, form="notebook") == left


def test_authors_in_brackets_go_where_they_are_clear() -> None:
    text = "It helps (Yao et al., 2022; Xi & Li, 2023b), or not (see Wu and Du, 2021, p. 4)."
    assert trimmed(text) == "It helps, or not."
    doubtful = "The meeting (Berlin, 2019) and the law (May 2019) and the firm (founded 1999)."
    assert trimmed(doubtful) == doubtful
    several = "A (Yao et al., 2022). B (Xi et al., 2023). C (Wu et al., 2021). D (Smith, 2020)."
    assert trimmed(several) == "A. B. C. D."


REFERENCES = (
    '- ^ "Form 10-K". U.S. Securities. July 27, 2023. pp. 9, 58.\n'
    "- ^ Warren, Tom (October 13, 2023). The Verge. Retrieved November 1, 2023.\n"
    "- ^ Foster, Richard (2015). The Agony. Ockley Books. ISBN 978-1-910906-00-2.\n"
)


def test_a_list_of_references_goes_and_what_follows_stays() -> None:
    text = f"The firm grew.\n\nReferences\n\n{REFERENCES}\nExternal links\n\n- Official site\n"
    assert trimmed(text) == "The firm grew.\n\n\n\nExternal links\n\n- Official site\n"
    listed = "Prose.\n\n[1] https://a.example/1\n\n[2] https://b.example\nhttps://c.example\n\n" + (
        "[4] https://d.example\n\nMore prose."
    )
    assert trimmed(listed) == "Prose.\n\n\n\nMore prose."


def test_markers_in_a_list_of_references_are_no_evidence_of_markers_in_the_text() -> None:
    """Not those behind code in the list either: the code's place lies in the list's."""
    listed = "- ^ `cut`, by Foster.[1] The Agony.[2] Verge.[3] ISBN 1\n- ^ Warren (2015). pp. 9\n"
    text = f"It was so.[7]\n\nReferences\n\n{listed}"
    assert trimmed(text, form="markdown") == "It was so.[7]\n\n\n"


def test_a_place_is_in_a_long_span_from_its_first_character() -> None:
    spans = apparatus.Spans([(10, 100), (20, 30)])
    places = (9, 10, 20, 50, 99, 100)
    assert [place for place in places if place in spans] == [10, 20, 50, 99]


def test_prose_below_a_title_that_says_references_stays() -> None:
    text = (
        "References\n\nWe ask for two references from former landlords.\n\n"
        "They are kept for a year.\n\nThen they are destroyed.\n"
    )
    assert trimmed(text) == text
    # A list, then prose without a heading: the prose stays.
    mixed = f"References\n\n{REFERENCES}\nAll rights are kept.\n\nNobody may copy.\n\nNor sell.\n"
    assert trimmed(mixed).strip() == "All rights are kept.\n\nNobody may copy.\n\nNor sell."


def test_a_clauses_number_goes_to_its_clause() -> None:
    text = (
        "4.1 The price is fixed.\n\n4.2\n\nThe price is due in May.\n\n4.3.\n\nIt is paid by bank."
    )
    joined = "4.1 The price is fixed.\n\n4.2 The price is due in May.\n\n4.3. It is paid by bank."
    assert trimmed(text) == joined
    assert trimmed("(a)\n\nwater, and\n\n(b)\n\ngas.") == "(a) water, and\n\n(b) gas."


@pytest.mark.parametrize(
    "text",
    [
        "Rating\n\n4.2\n\nGood hotel\n\n8.9\n\nBest hotel",  # figures
        "It ends.\n\n3\n\nIt begins.\n\n4\n\nIt goes on.",  # page numbers
        "1.\n\n1.1.\n\n1.2.\n\n1.3.\n\nThis agreement is made today.",  # a column of numbers
        "It is so.\n\n8.\n\nSource: ACME, INC.\n\nSo is it.\n\n9.\n\nSource: ACME, INC.",
    ],
)
def test_numbers_that_are_no_clauses_stay(text: str) -> None:
    assert trimmed(text) == text


def test_a_number_before_a_heading_is_the_headings() -> None:
    text = "1. PRICE\n\nIt is fixed.\n\n2.\n\nTERM\n\nIt is a year."
    start = text.index("TERM")
    document = Document(text, "text", headings=(Heading(start, start + 4, 2, "TERM"),))
    after, _ = trimming.trim(document, ALL)
    (heading,) = after.headings
    assert after.text[heading.start : heading.end] == heading.title == "2. TERM"


def test_places_lead_to_the_document_as_it_was_read(tmp_path: Path) -> None:
    """What is between two offsets of the text, without what was taken out, is the passage."""
    text = "".join(
        f"Day {day} was dry in all of the valley,[{day}] and the mill stood still.\n\n"
        for day in range(1, 40)
    )
    text = f"First of all.\n\n{text}References\n\n{REFERENCES}\nSee also\n\nThe other mill.\n"
    (tmp_path / "a.txt").write_text(text)
    work = worker.Work("", ReadOptions(), 60, 1, trim=ALL)
    (part,) = worker.process(tmp_path / "a.txt", work, worker.make_counter(""))
    (entry,) = part
    removed = {(start, end): piece for _, start, end, piece in entry["edits"]}
    assert all(text[start:end] == piece for (start, end), piece in removed.items())
    assert [kind for kind, *_ in entry["edits"]].count("citation") == 39
    for passage in entry["passages"]:
        start = trimming.original(passage["shifts"], passage["start"])
        end = trimming.original(passage["shifts"], passage["end"] - 1) + 1
        kept, position = "", start
        for left, right in sorted(removed):
            if start <= left and right <= end:
                kept, position = kept + text[position:left], right
        assert kept + text[position:end] == passage["text"]
    assert REJECTS.field("start")


def test_an_infobox_is_marked_and_taken_out(tmp_path: Path) -> None:
    prose = "<p>" + "The mill stands on the river and is closed in winter. " * 8 + "</p>"
    page = (
        "<html><body><nav>Home</nav><h1>Mill</h1><table class='infobox vcard'><tr><th>Built</th>"
        f"<td>1820</td></tr></table>{prose}<footer>Imprint</footer></body></html>"
    )
    (tmp_path / "a.html").write_text(page)
    (document,) = detect.read(tmp_path / "a.html", ReadOptions(infoboxes=True))
    assert isinstance(document, Document)
    after, edits = trimming.trim(document, ALL)
    assert "1820" not in after.text and "closed in winter" in after.text
    assert [document.text[edit.start : edit.end].strip() for edit in edits] == ["Built | 1820"]
    assert dict(document.left_out)["navigation"] == 2
    (plain,) = detect.read(tmp_path / "a.html", ReadOptions())
    assert isinstance(plain, Document) and "Built | 1820" in plain.text


def test_numbers_that_a_pdf_sets_first_come_to_their_clauses(tmp_path: Path) -> None:
    page = [
        *((72, 700 - 40 * line, f"{line}.1.", 10) for line in range(1, 4)),
        (108, 660, "The supplier delivers within a week.", 10),
        (108, 620, "The buyer pays within a month.", 10),
        (108, 580, "Both keep the price a secret.", 10),
    ]
    text = text_of(tmp_path / "a.pdf", pdf([page]), clause_numbers=True)
    assert "2.1. The buyer pays within a month." in text
    assert "3.1. Both keep" in text


@pytest.mark.parametrize(
    "piece",
    [
        "References\n",
        "References\n\n",
        "word.[{n}] ",
        "[{n}] http://a\n",
        "1.\n",
        "(A, ",
        "`a",
        "[",
    ],
)
def test_a_text_made_to_be_slow_is_not(piece: str) -> None:
    text = "".join(piece.replace("{n}", str(n % 999 + 1)) for n in range(30_000))
    begun = time.process_time()
    after, edits = trimming.trim(Document(text, "markdown"), ALL)
    shifts = trimming.Shifts(edits)
    for start in range(0, len(after.text), 300):
        shifts.of(start, start + 300)
    assert time.process_time() - begun < 5


#: A page of prose; its last sentence goes on over the page.
_SENTENCE = "The Supplier shall keep the goods in a dry place until they are paid for. "
_PAGE = _SENTENCE * 10 + "Each Party shall tell the other"
_RESTS = [f"within {days} days of the end of a quarter." for days in ("ten", "six", "two", "nine")]


@pytest.mark.parametrize(
    "form", ["{}", "  - {} -", "Page {} of 31", "[{}]", "{}/31", "Page {} Draft"]
)
def test_page_numbers_go_and_the_sentence_goes_on(form: str) -> None:
    pages = enumerate(_RESTS, 4)
    text = "\n\n".join(f"{_PAGE}\n\n{form.format(page)}\n\n{rest}" for page, rest in pages)
    left = "\n\n".join(f"{_PAGE}\n{rest}" for rest in _RESTS)
    assert trimmed(text, "running_head") == left


def test_a_sentence_may_go_on_with_a_capital() -> None:
    names = ("Prospectus", "Offering", "Bank", "Holding")
    text = "\n\n".join(
        f"{_SENTENCE * 9}It is in the\n\n{n}\n\n{name}." for n, name in enumerate(names)
    )
    left = "\n\n".join(f"{_SENTENCE * 9}It is in the\n{name}." for name in names)
    assert trimmed(text, "running_head") == left


def test_what_most_pages_have_beside_their_number_goes_too() -> None:
    pages = (
        f"M&S contract\n--------\n\n{_PAGE}.\n\nOnly on page {page}: {'x' * page}.\n\n  {page}\n\n"
        "Source: ALLIED INC., 8-K, 8/15/2019\n\n"
        for page in range(1, 8)
    )
    left = trimmed("".join(pages), "running_head")
    # No page number is above the first head.
    assert left.count("M&S contract") == 1 and "Source" not in left
    assert left.count("Only on page") == 7


@pytest.mark.parametrize(
    "text",
    [
        # A column of numbers, a numbered list, an index: they are not a page apart.
        "\n\n".join(f"{number}\n\nA short entry." for number in range(1, 20)),
        # Titles are no page numbers, nor numbers that do not count.
        "\n\n".join(f"Chapter {number}\n\n{_PAGE}." for number in range(1, 9)),
        "\n\n".join(f"{number}.\n\n{_PAGE}." for number in range(1, 9)),
        "\n\n".join(f"{number}\n\n{_PAGE}." for number in (17, 3, 80, 5, 44)),
        # Two pages are no evidence.
        f"{_PAGE}.\n\n1\n\n{_PAGE}.\n\n2\n\n",
        # A formula, set with a sign on each line.
        f"{_PAGE} where\n\ni =\n\n(\n\n0\n\n1\n\n)\n\n{_PAGE}\n\n2\n\n",
        # Inside a paragraph.
        "\n".join(f"{_PAGE}\n{number}\n{rest}" for number, rest in enumerate(_RESTS)),
        # Code.
        "".join(f"```\n{_PAGE}\n\n{number}\n\n```\n" for number in range(1, 9)),
    ],
)
def test_numbers_that_are_no_pages_stay(text: str) -> None:
    assert trimmed(text, "running_head", form="markdown") == text


def test_a_heading_is_no_page_number() -> None:
    text = "\n\n".join(f"# Page {page}\n\n{_PAGE}." for page in range(1, 9))
    document = Document(text, "markdown", headings=find_headings(text))
    assert trimming.trim(document, ("running_head",))[0].text == text


def test_a_heading_below_a_page_number_stays() -> None:
    text = "\n\n".join(
        f"{_PAGE} of the\n\n{page}\n\n# Part {page}\n\nwithin {page} days" for page in range(1, 9)
    )
    document = Document(text, "markdown", headings=find_headings(text))
    left, edits = trimming.trim(document, ("running_head",))
    assert [text[edit.start : edit.end].strip() for edit in edits] == [
        str(page) for page in range(1, 9)
    ]
    assert [heading.title for heading in left.headings] == [f"Part {n}" for n in range(1, 9)]


def test_a_mark_in_code_begins_no_comment(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("Write `<!--` to begin.\n\n<!-- is it so? -->\nIt ends.\n<!-->\n")
    (document,) = detect.read(path, ReadOptions())
    assert isinstance(document, Document)
    text = trimming.trim(document, ("comment",))[0].text
    assert text == "Write `<!--` to begin.\n\n\nIt ends.\n<!-->\n"


def test_what_is_taken_out_with_a_page_number_has_its_place() -> None:
    text = "\n\n".join(f"{_PAGE}\n\n{page}\n\n{rest}" for page, rest in enumerate(_RESTS, 1))
    trimmed_document, edits = trimming.trim(Document(text, "text"), ("running_head",))
    assert [text[edit.start : edit.end].strip() for edit in edits] == list("1234")
    shifts = trimming.Shifts(edits).of(0, len(trimmed_document.text))
    last = trimmed_document.text.rindex("within")
    assert trimming.original(shifts, last) == text.rindex("within")


def test_comments_of_markdown_are_no_text_and_their_lines_no_headings(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(
        "# Limits\n\n<!---\n# EDITOR'S NOTE: is it so?\n-->\nA name is short. <!-- how? -->It ends.\n"
        "\n```\n<!-- in code -->\n```\n\nWrite `<!-- x -->`, or <!-- which is open.\n"
    )
    (document,) = detect.read(path, ReadOptions())
    assert isinstance(document, Document)
    document, edits = trimming.trim(document, ("comment",))
    assert document.text == (
        "# Limits\n\n\nA name is short. It ends.\n\n```\n<!-- in code -->\n```\n\n"
        "Write `<!-- x -->`, or <!-- which is open.\n"
    )
    assert [heading.title for heading in document.headings] == ["Limits"]
    assert {edit.kind for edit in edits} == {"comment"}
