"""Questions whose answer is a span, by construction."""

from __future__ import annotations

import pytest

from tasks.claims.claims import Premise
from tasks.claims.spans import ask_spans, construct_spans, questions_of


def _asked(statement: str) -> dict[str, str]:
    return {asked.question: asked.answer for asked in questions_of(statement, statement)}


@pytest.mark.parametrize(
    ("statement", "question", "answer"),
    [
        (
            "The harbour was closed in the winter of 1890.",
            "What was closed in the winter of 1890?",
            "The harbour",
        ),
        (
            "Anna Marsh opened twelve valves at the old works.",
            "Who opened twelve valves at the old works?",
            "Anna Marsh",
        ),
        (
            "Anna Marsh opened twelve valves at the old works.",
            "How many valves did Anna Marsh open at the old works?",
            "twelve",
        ),
        (
            "The pump was opened on 31 August in the workshop.",
            "When was the pump opened in the workshop?",
            "31 August",
        ),
        (
            "The lining was tested at a distance of 4 metres for 12 hours.",
            "For how many hours was the lining tested at a distance of 4 metres?",
            "12 hours",
        ),
        ("Eleven properties took in water.", "How many properties took in water?", "Eleven"),
        ("The flow was 45 litres a second.", "What was the flow a second?", "45 litres"),
        (
            "The tower was designed by Hale Brothers.",
            "Who was the tower designed by?",
            "Hale Brothers",
        ),
    ],
)
def test_a_part_of_a_statement_is_asked_for(statement: str, question: str, answer: str) -> None:
    assert _asked(statement).get(question) == answer, _asked(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "The harbour was not closed in the winter.",
        "The crane held, and the load was lowered by the crew.",
        "In 2011, the bridge was closed for two years.",
        "Closed for the winter.",
    ],
)
def test_what_cannot_be_turned_is_left_alone(statement: str) -> None:
    assert not _asked(statement)


def test_every_answer_is_in_its_passage_and_not_in_its_question() -> None:
    text = (
        "The pump was opened on 31 August in the workshop. Eleven properties took in water. "
        "Anna Marsh opened twelve valves at the old works. It was late. The crew went home."
    )
    premise = Premise("p", "d.md", text)
    asked = ask_spans(premise, 9, 1)
    assert len(asked) >= 4
    for each in asked:
        assert each.answer in text and each.answer.lower() not in each.question.lower()
    few = ask_spans(premise, 2, 1)
    assert len(few) == 2 and few[0].kind != few[1].kind
    assert ask_spans(premise, 2, 1) == few


def test_rows_are_the_same_in_any_order_of_passages() -> None:
    premises = [
        Premise(f"p{n}", "d.md", f"The pump of site {n} was opened on {n} May.")
        for n in range(1, 9)
    ]
    rows = construct_spans(premises, 1, 2)
    assert rows.equals(construct_spans(premises[::-1], 1, 2))
    assert len(set(rows["row_id"].to_pylist())) == len(rows) >= 8
    for row in rows.to_pylist():
        assert row["context"] in row["instruction"] and row["response"] in row["context"]
    assert len({row["instruction"].replace(row["context"], "")[:9] for row in rows.to_pylist()}) > 1
