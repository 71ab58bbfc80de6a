"""The rules on passages: evaluation overlap, duplicates, personal data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.ingest import boilerplate, cleaning, personal_data, worker
from tasks.ingest.readers.document import Document, ReadOptions


def test_evaluation_overlap_by_words_in_a_row() -> None:
    known = "one two three four five six seven eight nine ten"
    overlap = cleaning.EvaluationOverlap([known, "a short one of five", "too short"], 6)
    assert "x One, two -- three four FIVE six y" in overlap
    assert "one two three four five seven eight nine ten" not in overlap
    assert "it holds a short one of five here" in overlap
    assert "three four five six seven" in overlap
    assert "three five four six seven" not in overlap
    # Fewer words than the n-gram has: any text may hold them.
    assert "this is too short to tell" not in overlap
    assert "three four" not in overlap


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("दिल्ली भारत की राजधानी है", 5),
        ("القُدْس مدينة", 2),
        ("தமிழ் மொழி", 2),
        ("水泵 stopped", 3),
        ("กรุงเทพ", 7),
        ("one_two, 3.5", 4),
    ],
)
def test_words_of_other_scripts(text: str, words: int) -> None:
    assert len(cleaning.split_words(text)) == words


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("All rights are reserved.", True),
        ("All rights reserved.", False),
        ("版权所有，未经许可不得转载", True),
        ("第一条", False),
        ("สงวนลิขสิทธิ์ทั้งหมด", True),
    ],
)
def test_lines_of_a_few_words_may_be_boilerplate(line: str, counts: bool) -> None:
    found = boilerplate.find_lines(Document(line, "text"), 0, len(line))
    assert bool(found) is counts


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


@pytest.mark.parametrize(
    "table",
    [
        "Kept by ann@example.com\nid,text\n1,The pump ran.\n",  # a line above the header
        "name,ann@example.com\nBob,Rome\n",  # a header, none of whose columns is the text's
    ],
)
def test_what_a_reject_quotes_is_masked(tmp_path: Path, table: str) -> None:
    (tmp_path / "a.csv").write_text(table)
    count = worker.make_counter("")
    for mask in (True, False):
        work = worker.Work("", ReadOptions(text_column="text"), 60, 1, mask=mask)
        told = str([*worker.process(tmp_path / "a.csv", work, count)])
        assert ("ann@example.com" in told) == (not mask) and ("[EMAIL]" in told) == mask


def test_masks_leave_dates_and_amounts_alone() -> None:
    text = (
        "Mail bob@example.org, call +49 (30) 1234 5678, card 4111 1111 1111 1111, host "
        "10.0.0.1; on 2019-11-29 at 16:44 it was 1,260 of 41 870."
    )
    changed, counts = personal_data.mask(text)
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
    assert personal_data.mask(text)[0] == (text if expected is None else expected)
