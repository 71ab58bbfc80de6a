"""What the reader's answers say about a row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.parquet import write_table
from tasks.core.sections.verify import Verify
from tasks.scoring.intervals import wilson
from tasks.verify.guard import check_answers, check_labels, construct_tests, read_tests
from tasks.verify.judging import (
    Prior,
    are_same,
    decide,
    grounding,
    nearest_span,
    weigh_answers,
    weigh_labels,
    weigh_told_labels,
)
from tasks.verify.rows import choices_of
from tests.supervise.test_constructed import passages

_PASSAGE = "The tee weighed 2.9 tonnes. Crew 4 closed the valve at noon on 3 May."


def _settings(**given: Any) -> Verify:
    values = {"reader": "r", "answers": 4, "min_agreement": 0.75, "min_grounding": 0.3, "seed": 1}
    values |= {"confident_share": 1.0, "exclude_wrong": True, "adopt": False}
    return Verify.model_validate(values | given)


def _row(question: str = "How heavy was the tee?", response: str = "2.9 tonnes") -> dict[str, Any]:
    return {
        "row_id": "a",
        "passage_id": "p",
        "task_type": "exqa",
        "context": _PASSAGE,
        "instruction": f"{_PASSAGE}\n\n{question}",
        "response": response,
    }


def test_agreement_is_the_share_of_answers_that_are_the_same_but_for_details() -> None:
    word = weigh_answers("2.9 tonnes", ["The 2.9 tonnes.", "2.9 tonnes", "noon", "3 May"])
    assert (word.agreement, word.certainty) == (0.5, 0.5)
    word = weigh_answers("2.9 tonnes", ["noon", "at noon", "noon", "2.9 tonnes"])
    assert (word.agreement, word.answer, word.certainty) == (0.25, "noon", 0.75)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("12 bar", "15 bar", False),
        ("3.5 bar", "35 bar", False),
        ("-18 degrees", "18 degrees", False),
        ("about 12 bar", "The 12 bar.", True),
        ("1,200 litres", "1200 litres", True),
        ("12,5", "125", False),
        ("at noon", "noon", True),
        ("noon", "dusk", False),
    ],
)
def test_answers_with_other_numbers_are_other_answers(one: str, other: str, same: bool) -> None:
    assert are_same(one, other) == are_same(other, one) == same


def test_six_different_numbers_are_no_certainty() -> None:
    word = weigh_answers("8 bar", [f"{number} bar" for number in (12, 15, 9, 12, 30, 7)])
    assert (word.answer, word.certainty) == ("12 bar", 2 / 6)


def test_a_response_is_supported_by_answers_with_another_number() -> None:
    """People found most such rows right: the reader had mistaken the number."""
    word = weigh_answers("2.9 kg", ["1.15 kg"] * 5 + ["noon"])
    assert word.agreement == 5 / 6


def test_a_label_told_in_words_is_one_of_the_choices_or_no_answer() -> None:
    choices = ("Not relevant", "Relevant", "No")
    told = [
        "not relevant.",
        "Relevant, as it broke.",
        "It is relevant",
        "Nothing",
        "**No**",
        "no\nx",
    ]
    word = weigh_told_labels("no", choices, told)
    assert (word.agreement, word.answer, word.certainty) == (2 / 6, "No", 2 / 6)
    prose = weigh_told_labels("no", choices, ["No seal was found"] * 6)
    assert (prose.agreement, prose.answer, prose.certainty) == (0.0, "", 0.0)
    row = _row("Did it fail? Yes or no?", "No") | {"task_type": "ynqa"}
    assert decide(row, prose, _settings(adopt=True)).reasons == ["reader_disagrees"]


def test_a_prior_takes_out_what_the_reader_says_anyway() -> None:
    """A reader that prefers yes everywhere still tells which rows are more of a yes than others."""
    row = SimpleNamespace(choices=("yes", "no"))
    answers = [{"scores": [-0.1 - 0.02 * place, -3.0]} for place in range(40)]
    prior = Prior((row, answer) for answer in answers).of(("yes", "no"))
    assert sum(prior) == pytest.approx(1) and prior[0] > 0.8
    first, last = (weigh_labels("no", row.choices, a["scores"], prior) for a in answers[::39])
    assert first.answer == "yes" and last.answer == "no"
    assert last.agreement > 0.5 > first.agreement
    assert Prior([]).of(("yes", "no")) == [0.5, 0.5]


@pytest.mark.parametrize(("label", "reasons"), [("yes", []), ("no", ["reader_disagrees"])])
def test_a_label_stays_where_it_is_the_likeliest(label: str, reasons: list[str]) -> None:
    """A small reader is hardly ever surer of a label than this, and has asked once."""
    word = weigh_labels(label, ("yes", "no"), [-0.9, -1.3], [0.5, 0.5])
    row = {**_row(), "task_type": "ynqa", "response": label}
    assert decide(row, word, _settings(adopt=True)).reasons == reasons


@pytest.mark.parametrize(
    ("question", "answer", "share"),
    [
        ("How much did the tee weigh?", "2.9 tonnes", 1 / 2),
        ("What is the length of the bellows?", "2.9 tonnes", 0.0),
        ("Who closed the valve?", "crew 4", 1.0),
        ("Who closed the valve?", "nobody", 0.0),
        ("Summarise it.", "noon", 1.0),
    ],
)
def test_grounding_looks_for_the_questions_words_beside_the_answer(
    question: str, answer: str, share: float
) -> None:
    assert grounding(f"{_PASSAGE}\n\n{question}", _PASSAGE, answer) == pytest.approx(share)


_TABLE = """The pumps are listed here.

| pump | flow | owner |
|---|---|---|
| P1 | 30 l/s | Anna Berg |
| P2 | 45 l/s | Tom Hill |

They run all day."""


@pytest.mark.parametrize(
    ("passage", "question", "answer", "share"),
    [
        (
            "The sensor lost 50 % of its range.",
            "How much range did the sensor lose?",
            "50 %",
            2 / 3,
        ),
        ("It ran ( at noon ) again.", "When ran it again?", "( at noon )", 1.0),
        (_TABLE, "Which owner did pump P1 have?", "Anna Berg", 1.0),
        (_TABLE, "Which owner did pump P1 have?", "Tom Hill", 2 / 3),
        (_TABLE, "Which valve froze in winter?", "Tom Hill", 0.0),
    ],
)
def test_grounding_reads_tables_and_marks_with_a_space_before_them(
    passage: str, question: str, answer: str, share: float
) -> None:
    asked = f"{passage}\n\n{question}"
    assert grounding(asked, passage, answer) == pytest.approx(share)


def test_a_row_is_kept_dropped_or_takes_the_answer() -> None:
    agreed = decide(_row(), weigh_answers("2.9 tonnes", ["2.9 tonnes"] * 4), _settings())
    assert (agreed.reasons, agreed.origin, agreed.agreement) == ([], "written", 1.0)
    row = _row(response="noon")
    word = weigh_answers("noon", ["2.9 tonnes"] * 4)
    assert decide(row, word, _settings()).reasons == ["reader_disagrees"]
    taken = decide(row, word, _settings(adopt=True))
    assert (taken.response, taken.origin, taken.reasons) == ("2.9 tonnes", "adopted", [])
    assert decide(row, word, _settings(repair="answer"), True).origin == "repaired"
    unsure = weigh_answers("noon", ["2.9 tonnes", "3 May", "noon", "Crew 4"])
    assert decide(row, unsure, _settings(repair="answer"), True).reasons == ["not_repaired"]
    assert decide(row, None, _settings()).agreement is None
    assert decide(row, None, _settings(), True).reasons == ["not_repaired"]


def test_a_question_about_something_else_is_no_row() -> None:
    row = _row("What is the length of the bellows?")
    word = weigh_answers("2.9 tonnes", ["2.9 tonnes"] * 4)
    assert decide(row, word, _settings()).reasons == ["question_not_about_answer"]
    assert decide(row, word, _settings(min_grounding=0.0)).reasons == []


@pytest.mark.parametrize(
    ("response", "span"),
    [
        ("tee weighed about 2.9 tonnes", "tee weighed 2.9 tonnes"),
        ("closed the noon valve", "closed the valve at noon"),
        ("2.8 tonnes", ""),
        ("the tee weighed 2.8 tonnes", ""),
        ("a crane", ""),
        # Without its articles and marks nothing is left to be like.
        ("the", ""),
        ("...", ""),
    ],
)
def test_a_response_means_the_span_that_it_nearly_is(response: str, span: str) -> None:
    assert nearest_span(_PASSAGE, response) == span


def test_a_span_that_is_meant_is_judged_as_any_response() -> None:
    row, span = _row(response="about 2.9 tonnes"), "2.9 tonnes"
    word = weigh_answers(span, [span] * 4)
    decision = decide(row, word, _settings(), True, span)
    assert (decision.response, decision.origin, decision.reasons) == (span, "repaired", [])
    other = weigh_answers(span, ["noon"] * 4)
    assert decide(row, other, _settings(), True, span).reasons == ["not_repaired"]


@pytest.mark.parametrize(
    ("asked", "response", "choices"),
    [
        ("Is it so? Yes, no or maybe?", "No", ("Yes", "No", "Maybe")),
        ("True, false, or inconclusive: it broke.", "true", ("true", "false", "inconclusive")),
        ("Is it so?", "no", ("yes", "no", "maybe")),
        ("Yes or no?", "perhaps so", ()),
    ],
)
def test_choices_are_the_labels_that_the_instruction_offers(
    asked: str, response: str, choices: tuple[str, ...]
) -> None:
    values = _row(asked, response) | {"task_type": "ynqa"}
    assert sorted(choices_of(values, frozenset())) == sorted(choices)


def test_choices_of_a_test_row_without_a_passage() -> None:
    asked = "The pump failed. Is this true, false or neither?"
    values = _row(asked, "True") | {"task_type": "nli", "context": ""}
    assert sorted(choices_of(values, frozenset())) == ["False", "Neither", "True"]


def test_a_reader_has_to_beat_chance_by_the_interval() -> None:
    golds = [str(number) for number in range(40)]
    right = check_answers("rows", golds, golds, golds, 1)
    assert right.passed and right.right == 40 and right.chance == 0
    assert not check_answers("rows", golds, ["7"] * 40, golds, 1).passed
    assert not check_answers("rows", golds[:9], golds[:9], golds[:9], 1).passed, "too few rows"
    few = [str(number % 5) for number in range(40)]
    assert not check_answers("rows", golds, golds, few, 1).passed, "too few passages"
    labels = ["yes", "no"] * 30
    rows = [str(number) for number in range(60)]
    offered = [("yes", "no")] * 60
    assert check_labels("claims", labels, labels, offered, rows).passed
    assert not check_labels("claims", labels, ["yes"] * 60, offered, rows).passed
    assert check_labels("claims", labels, ["Yes"] * 60, offered, rows).chance == 0.5


def test_chance_is_the_commonest_of_the_labels_that_a_row_offers() -> None:
    """Four wordings with three labels each: who guesses is right on a third, not on a twelfth."""
    families = [("yes", "no", "maybe"), ("true", "false", "neither")]
    families += [("supported", "refuted", "unclear"), ("always", "never", "sometimes")]
    offered = [family for family in families for _ in range(30)]
    golds = [family[place % 3] for family in families for place in range(30)]
    guesses = [family[place // 3 % 3] for family in families for place in range(30)]
    rows = [str(number) for number in range(120)]
    test = check_labels("claims", golds, guesses, offered, rows)
    assert test.chance == pytest.approx(1 / 3)
    assert 0.3 < test.right / 120 < 0.45 and not test.passed
    assert check_labels("claims", golds, golds, offered, rows).passed


def test_what_chance_gives_on_the_same_rows_is_no_known_number() -> None:
    """58 of 100 are right, 42 by chance: the share alone is above 42 %, the difference is not
    above 0.
    """
    golds, rows = ["yes"] * 50 + ["no"] * 50, [str(number) for number in range(100)]
    answers = ["yes"] * 29 + ["no"] * 21 + ["no"] * 29 + ["yes"] * 21
    test = check_answers("rows", golds, answers, rows, 1)
    assert (test.right, test.chance) == (58, 0.42) and wilson(58, 100)[0] > 0.42
    assert -0.05 < test.margin < 0 and not test.passed
    assert test == check_answers("rows", golds, answers, rows, 1), "the draw is seeded"


def test_rows_of_one_passage_count_as_one() -> None:
    golds = [str(number) for number in range(41)]
    answers = golds[:30] + ["none"] * 11
    assert check_answers("rows", golds, answers, golds, 1).passed
    passages = ["same"] * 30 + golds[30:]
    assert not check_answers("rows", golds, answers, passages, 1).passed


def test_rows_made_by_rules_test_types_that_have_any() -> None:
    rows = construct_tests([passages()], ["exqa", "ynqa", "mcqa"], 10, 1)
    assert Counter(row["task_type"] for row in rows) == {"exqa": 10, "ynqa": 10}
    assert construct_tests([passages().slice(0, 0)], ["nli"], 10, 1) == []
    assert read_tests(None, ["nli"], 10, 1) == []


def test_peoples_rows_without_a_question_or_an_answer_test_nothing(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [_row() | {"row_id": name} for name in "abc"]
    rows[0]["instruction"], rows[1]["response"] = None, None
    write_table(tmp_path / "people.parquet", pa.Table.from_pylist(rows))
    read = read_tests(tmp_path / "people.parquet", ["exqa"], 10, 1)
    assert [row["row_id"] for row in read] == ["c"]


def test_wilson_is_the_textbooks() -> None:
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert wilson(0, 0) == (0.0, 1.0) and wilson(0, 9)[0] == 0.0
