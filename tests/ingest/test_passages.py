"""Where a document is cut into passages."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tasks.ingest.passages import Passage, cut
from tasks.ingest.readers.document import Document
from tasks.ingest.readers.markdown import find_headings


def _words(texts: Any) -> list[int]:
    return [len(text.split()) for text in texts]


def _characters(texts: Any) -> list[int]:
    return [len(text) for text in texts]


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


@pytest.mark.parametrize(
    "title",
    ["6.2 Records and Audits.", "ARTICLE 7 WARRANTIES", "(b) Notice.", "9.   GENERAL TERMS"],
)
def test_a_clause_is_not_parted_from_its_title(title: str) -> None:
    clause = " ".join(f"The party number {n} shall pay at once." for n in range(4))
    found = _cut("\n\n".join([clause, title, clause, title, clause]), budget=40, least=5)
    assert [passage.text for passage in found] == [clause, *[f"{title}\n\n{clause}"] * 2]


@pytest.mark.parametrize("number", ["4. 5", "17. 25", "P =. 001", "-. 5"])
def test_a_decimal_number_that_was_set_apart_is_whole(number: str) -> None:
    text = " ".join(f"The share in group {name} was {number} of all." for name in "abcdefgh")
    assert all(passage.text.endswith("of all.") for passage in _cut(text, budget=30, least=5))


def test_an_item_of_a_list_is_no_title() -> None:
    items = [f"{n}. The goods are then weighed by the carrier {n}" for n in range(1, 9)]
    assert all(
        passage.text.startswith(tuple("12345678"))
        for passage in _cut("\n\n".join(items), budget=30, least=5)
    )


def test_a_table_is_cut_between_its_rows() -> None:
    named = [
        f"id: {number} | body: The pump {number} has stopped. Please send help. Thanks, Ann"
        for number in range(12)
    ]
    # Two rows are more than a passage, and one is about half of one.
    found = _cut("\n".join(named), budget=26, least=5)
    assert [passage.text for passage in found] == named
    rows = [f"pump {number} | It has stopped. | Ann Hill" for number in range(12)]
    found = _cut("\n".join(rows), budget=29, least=5)
    assert [passage.text.count("\n") for passage in found] == [2, 2, 2, 2]


@pytest.mark.parametrize("time", ["[2024-05-01 10:00]", "10:00", "01.05.24, 10:00 -", "5/1/2024"])
def test_a_log_is_cut_between_its_lines(time: str) -> None:
    line = f"{time} Tom: It stopped. Please call me"
    found = _cut("\n".join([line] * 12), budget=len(line.split()) * 3 // 2, least=1)
    assert [passage.text for passage in found] == [line] * 12


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


@pytest.mark.parametrize(
    "sentence",
    [
        "Am 3. Mai 2024 fiel sie aus.",
        "Nach Art. 5 Abs. 2 Nr. 1 (vgl. Kap. 7) gilt es.",
        "Sie kostet 2 Mio. Euro.",
        "Selon Mme. Durand et Mlle. Petit, la pompe marche.",
    ],
)
def test_abbreviations_and_dates_of_other_languages_end_no_sentence(sentence: str) -> None:
    words = len(sentence.split())
    for budget in range(words, 3 * words):
        found = _cut(" ".join([sentence] * 5), budget, least=1)
        assert all(passage.text.startswith(sentence) for passage in found)


def test_abbreviations_and_decimals_end_no_sentence() -> None:
    text = "Dr. A. Smith measured 3.5 bar at No. 7. The valve was shut."
    assert [passage.text for passage in _cut(text, budget=9, least=1)] == [
        "Dr. A. Smith measured 3.5 bar at No. 7.",
        "The valve was shut.",
    ]


def test_code_ends_at_a_heading_for_the_parser_of_markdown() -> None:
    """The language beside an inner fence opens none, so the headings below are none in code."""
    prose = " ".join(f"The program number {n} is run at night." for n in range(4))
    text = f"```\n```python\nrun\n```\n\n# Install\n\n{prose}\n\n# Use\n\n{prose}\n"
    found = _cut(text, budget=40, least=2)
    assert sum(passage.text.count("number 0") for passage in found) == 2
    assert all(one.end <= other.start for one, other in pairwise(found))


def test_code_is_kept_together_and_cut_between_its_lines() -> None:
    """A blank line, or a full stop in a comment, ends nothing in fenced code."""
    code = "```bash\n# NOTE: There are others.\nrun one\n\nrun two --fast\n# They end. Both.\n```"
    prose = " ".join(f"The program number {n} is run at night." for n in range(4))
    found = _cut(f"{prose}\n\n{code}\n\n{prose}", budget=40, least=5)
    assert [passage.text for passage in found] == [prose, code, prose]
    long = "\n\n".join(["```", *(f"run {n} --with a. B --and c" for n in range(9)), "```"])
    assert all(passage.text.endswith(("c", "```")) for passage in _cut(long, budget=20, least=2))
