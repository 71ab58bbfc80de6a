"""Claims by rules: what a passage entails, what it contradicts, what the rules leave."""

from __future__ import annotations

import random

import pytest

from tasks.claims.claims import Premise, Twins, make_twins
from tasks.claims.edits import affirmed, compared, negated, opposites, reworded
from tasks.claims.exchange import exchanged, find_spans, is_bound, other_numbers
from tasks.claims.patterns import PATTERNS
from tasks.claims.questions import find_question, statement_of, yes_no_question
from tasks.claims.sentences import is_statement, split_sentences, statements
from tasks.core.yaml_file import read_yaml


def test_every_entry_of_the_patterns_is_text() -> None:
    """YAML reads a bare ``no`` or ``on`` as a boolean."""
    for name, values in read_yaml(PATTERNS).items():
        assert isinstance(values, dict if name == "verbs" else list), name
        for value in values:
            assert isinstance(value, str) or all(isinstance(word, str) for word in value), (
                name,
                value,
            )


def test_sentences_end_where_people_end_them() -> None:
    text = "# A heading\n\nMr. Brown of Acme Inc. paid $3.5 million. It rained.\n\n- It was shut."
    assert split_sentences(text) == [
        "Mr. Brown of Acme Inc. paid $3.5 million.",
        "It rained.",
        "It was shut.",
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "It was closed in the year 1931.",  # about what stands before
        "Was the harbour closed in the year 1931?",
        "The harbour may be closed in the winter.",  # unsure
        "If the ice comes the harbour is closed.",
        "The harbour of Corran in the north",
        "The second was closed in the year 1931.",
        "The mayor said the harbour was closed.",
    ],
)
def test_what_cannot_be_judged_alone_is_no_statement(sentence: str) -> None:
    assert not is_statement(sentence)


@pytest.mark.parametrize(
    ("sentence", "cut"),
    [
        ("In 1931, the harbour was closed by the ice.", "The harbour was closed by the ice."),
        ("The harbour was closed by ice, which took the pier.", "The harbour was closed by ice."),
        (
            "Ann Smith, a fitter from Leeds, cleared the strainer twice.",
            "Ann Smith cleared the strainer twice.",
        ),
        (
            "The old harbour was closed in 1931, and the pier was sold.",
            "The old harbour was closed in 1931.",
        ),
    ],
)
def test_a_clause_is_cut(sentence: str, cut: str) -> None:
    assert cut in [statement for _, statement in statements(sentence)]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("The work took 35 minutes in all.", "quantity", "35 minutes"),
        ("The visit costs GBP 6,940 a year.", "money", "GBP 6,940"),
        ("The share was 12.5% of sales.", "percent", "12.5%"),
        ("The bridge opened in 1931.", "year", "1931"),
        ("The bridge opened on 3 May.", "date", "3 May"),
        ("The bridge opens on Monday.", "weekday", "Monday"),
        ("The book was written by Ann Smith.", "name", "Ann Smith"),
    ],
)
def test_spans_are_found_by_kind(text: str, kind: str, value: str) -> None:
    assert (kind, value) in [(span.kind, span.text) for span in find_spans(text)]


@pytest.mark.parametrize(
    "text", ["It holds at least 35 people.", "It took 20 to 35 minutes.", "See Panel 5 volts."]
)
def test_a_bound_or_label_is_not_exchanged(text: str) -> None:
    assert all(is_bound(text, span) for span in find_spans(text) if span.kind == "quantity")


def test_a_span_is_exchanged_for_one_of_the_passage() -> None:
    text, passage = (
        "The pump delivers 35 litres.",
        "The pump delivers 35 litres. The tank holds 80 litres.",
    )
    span = find_spans(text)[0]
    # "80 litres" stands in the passage and may be true of something: another number is made
    other = exchanged(text, span, passage, find_spans(passage), random.Random(1))
    assert other and other != text and "35" not in other and other.split()[3] not in passage


def test_other_numbers_look_like_the_first_one() -> None:
    for number in ("7", "seven", "1,200", "2.5", "0.04"):
        for other in other_numbers(number, random.Random(3)):
            assert other != number
            assert ("." in other) == ("." in number) and other.isalpha() == number.isalpha()


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("The harbour was closed in 1931.", "The harbour was not closed in 1931."),
        ("The company stores the readings here.", "The company does not store the readings here."),
        ("The crew cleared the line twice.", "The crew did not clear the line twice."),
        ("The house has twelve large rooms.", "The house does not have twelve large rooms."),
        ("In 2011, the harbour was closed again.", "In 2011, the harbour was not closed again."),
    ],
)
def test_a_statement_is_denied(text: str, denied: str) -> None:
    assert negated(text) == denied


@pytest.mark.parametrize(
    "text",
    [
        "All harbours were closed in 1931.",  # two readings
        "The harbour was never closed in 1931.",
        "The harbour was closed in 1931 and opened in 1932.",
        "The harbour was also closed in 1931.",
    ],
)
def test_a_denial_with_two_readings_is_not_made(text: str) -> None:
    assert negated(text) is None


def test_a_denial_is_taken_back() -> None:
    assert affirmed("The data are not shared with banks.") == "The data are shared with banks."
    assert affirmed("The firm does not store the data here.") == "The firm stores the data here."
    assert affirmed("The data are not shared with any bank.") is None


def test_a_comparison_is_true_and_false_by_its_number() -> None:
    text = "The work took 40 minutes in all."
    made = compared(text, find_spans(text)[0], text, random.Random(2))
    assert made is not None
    for claim, holds in zip(made, (True, False), strict=True):
        words = claim.split()
        more, number = "more" in words, float(words[words.index("than") + 1])
        assert (number < 40 if more else number > 40) == holds


def test_opposites_and_words_of_one_meaning() -> None:
    assert "The rate decreased in May." in list(opposites("The rate increased in May."))
    text = ("It took approximately 3 days.",)
    assert reworded(text, 5) == reworded(text, 5)


def test_a_question_and_its_answer_make_a_statement() -> None:
    assert statement_of("Who founded Acme?", "Ann Smith") == "Ann Smith founded Acme."
    assert (
        statement_of("What is the capital of France?", "Paris") == "The capital of France is Paris."
    )
    assert statement_of("When was the harbour closed?", "1931") == "The harbour was closed in 1931."
    assert statement_of("How many ships came?", "3") is None
    assert find_question("{{context}}\n\nQ: Who founded Acme?\n\nA:") == "Who founded Acme?"
    assert find_question("Read this. Why? Who founded Acme?") is None


@pytest.mark.parametrize(
    ("statement", "question"),
    [
        ("The harbour was closed in 1931.", "Was the harbour closed in 1931?"),
        ("The firm stores the data here.", "Does the firm store the data here?"),
        ("Corran has two piers.", "Does Corran have two piers?"),
        ("The harbour was not closed in 1931.", None),
    ],
)
def test_a_statement_becomes_a_question(statement: str, question: str | None) -> None:
    assert yes_no_question(statement, {"harbour"}) == question


def test_twins_depend_on_the_passage_and_the_seed_alone() -> None:
    passage = Premise(
        "p",
        "d",
        "The harbour of Corran was closed in 1931. The pier was 40 metres long."
        " The data are not kept.",
    )
    twins = make_twins(passage, 5, 1)
    assert twins == make_twins(passage, 5, 1)
    assert len({pair.origin for pair in twins}) == 3
    assert len({pair.entailed for pair in twins}) == len(twins)
    for pair in twins:
        assert pair.entailed != pair.contradicted


def test_a_question_with_another_answer_is_contradicted() -> None:
    text = "Ann Smith founded Acme. Bo Brown sold it to the town."
    passage = Premise(
        "p", "d", text, (("Who founded Acme?", "Ann Smith"), ("Who sold Acme?", "Bo Brown"))
    )
    found = {
        (pair.entailed, pair.contradicted)
        for pair in make_twins(passage, 9, 1)
        if pair.kind == "answer"
    }
    assert ("Ann Smith founded Acme.", "Bo Brown founded Acme.") in found


def twins_of(text: str) -> list[Twins]:
    """Twins of several seeds: each draws other values."""
    premise = Premise("p", "d", text)
    return [twins for seed in range(12) for twins in make_twins(premise, 9, seed)]


@pytest.mark.parametrize(
    "text",
    [
        "The crew repaired the valve in 2019. Two engineers repaired the valve in 2020.",
        "An inspector visited the plant on 4 March 2020.",
        "The council met in the old hall on Monday.",
    ],
)
def test_what_may_have_happened_twice_is_not_denied_with_another_value(text: str) -> None:
    assert not [twins.entailed for twins in twins_of(text) if twins.kind.startswith("denied")]


def test_a_value_that_the_passage_lacks_is_denied() -> None:
    found = {twins.entailed for twins in twins_of("The company bought the plant in 2019.")}
    assert any(text.startswith("The company did not buy the plant in 20") for text in found)


def test_what_one_party_must_do_says_nothing_of_the_other() -> None:
    text = "The employer shall notify the insurer of every accident at the works."
    assert not any("employee" in twins.contradicted for twins in twins_of(text))
