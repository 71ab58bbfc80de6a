"""Whether an answer stands in a passage, and is one at all."""

from __future__ import annotations

import pytest

from tasks.core.spans import contains, find_span, holds, is_sound

_PASSAGE = "The tee weighed 2.9 tonnes. Crew 4 closed the valve at noon on 3 May."


@pytest.mark.parametrize(
    ("told", "span"),
    [
        ("its seal", "Its\nSEAL"),
        ("  ITS seal ", "Its\nSEAL"),
        ("motor", None),
        ("", None),
        ("(", None),
    ],
)
def test_the_span_is_found_however_it_is_spaced(told: str, span: str | None) -> None:
    text = "It failed. Its\nSEAL broke."
    found = find_span(text, told)
    assert (text[slice(*found)] if found else None) == span
    assert holds(text, told) == (span is not None)


@pytest.mark.parametrize(
    ("text", "told", "span"),
    [
        ("It ran for 15 hours.", "5 hours", None),
        ("It ran for 15 hours, then 5 hours.", "5 HOURS", (26, 33)),
        ("It ran for 15 hours.", "15 hour", None),
        ("It failed (seal-5).", "seal-5", (11, 17)),
        ("anna anna b", "anna b", (5, 11)),
        ("xa a a", "a a", (3, 6)),
        ("It cost £5.", "£5", (8, 10)),
        ("東京都は広い", "東京", (0, 2)),
        ("Ответ: вода", "вод", None),
        # Half a number, and the contrary of a word.
        ("It cost 14,200 pounds.", "200 pounds", None),
        ("It fell by 1.5 per cent.", "by 1", None),
        ("It fell by 1.5, then by 1.", "by 1", (21, 25)),
        ("Crews 1, 2 and 3 came.", "2", (9, 10)),
        ("A non-exclusive right.", "exclusive right", None),
        ("A three-core cable.", "three", (2, 7)),
        # Marks of print, and those of a keyboard.
        ("It is the exporter\u2019s target.", "exporter's target", (10, 27)),
        ("It ran in 1999\u20132000.", "1999-2000", (10, 19)),
        ("He said \u201cno\u201d.", '"no"', (8, 12)),
    ],
)
def test_a_span_is_made_of_whole_words(text: str, told: str, span: tuple[int, int] | None) -> None:
    assert find_span(text, told) == span
    assert holds(text, told) == contains(text.lower(), told.lower()) == (span is not None)


def test_an_answer_has_the_form_of_a_response() -> None:
    instruction = f"{_PASSAGE}\n\nWhat weighed 2.9 tonnes?"
    assert is_sound("exqa", instruction, _PASSAGE, "The tee")
    assert not is_sound("exqa", instruction, _PASSAGE, "2.9 tonnes")
    assert not is_sound("exqa", instruction, _PASSAGE, "a crane")
    assert is_sound("qa", instruction, _PASSAGE, "a crane") and not is_sound("qa", "", "", " ")
