"""Claims that readers found wrong, unclear or no English are not made any more."""

from __future__ import annotations

import random
import re
from itertools import chain

import pytest

from tasks.claims import patterns
from tasks.claims.claims import Premise, make_twins
from tasks.claims.construct import construct
from tasks.claims.duties import duty_twins
from tasks.claims.edits import affirmed, negated, opposites, reworded
from tasks.claims.exchange import all_names, exchanged, find_spans, is_bound
from tasks.claims.neighbours import Neighbours
from tasks.claims.questions import small_words, statement_of, uncapitalised, yes_no_question
from tasks.claims.sentences import split_sentences, statements, without_notes
from tests.claims.test_construct import corpus


def claims_of(text: str) -> set[str]:
    """All claims that any of twenty seeds makes of a passage."""
    made = [make_twins(Premise("p", "d", text), 6, seed) for seed in range(20)]
    return {
        claim for twins in made for pair in twins for claim in (pair.entailed, pair.contradicted)
    }


@pytest.mark.parametrize(
    "text",
    [
        "The mean level of the acid was 0. 057 per cent in these families.",
        "The study was done on 16, 219 controls of the same age.",
    ],
)
def test_a_number_that_is_cut_makes_no_statement(text: str) -> None:
    assert split_sentences(text) == [text]
    assert statements(text) == [] and claims_of(text) == set()


@pytest.mark.parametrize(
    "text",
    [
        "The ownership of public land led to a society of classes and armies.",
        "Storyburrow logs books opened and pages turned in the last week.",
        "The northern mill made most of the profit in these years.",
        "Supplier A paid at least the same price as the other customers.",
        "Small animals are food for most of the larger animals.",
        "The man rose from a bridge and was found dead.",
    ],
)
def test_what_can_be_both_has_no_opposite(text: str) -> None:
    assert list(opposites(text)) == []


def test_an_opposite_is_said_of_the_subject_and_brings_its_article() -> None:
    found = list(opposites("The disorder is a dominant trait of this family."))
    assert found == ["The disorder is a recessive trait of this family."]
    assert list(opposites("The shop saw an increase in shipments.")) == [
        "The shop saw a decrease in shipments."
    ]
    assert list(opposites("The largest share of the rent was paid late."))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The market is due to be moved by the end of 2017.", "2017"),
        ("The road was closed in the 2014 election.", "2014"),
        ("The venue was named for the Euro 2019 qualifier.", "2019"),
        ("The parties amended the agreement dated 1 October with care.", "1 October"),
        ("The run took at 4 hours 57 minutes.", "57 minutes"),
    ],
)
def test_bounds_and_labels(text: str, value: str) -> None:
    (span,) = (span for span in find_spans(text) if span.text == value)
    assert is_bound(text, span)


@pytest.mark.parametrize("text", ["The road was closed in 2014.", "In May 2014 it was closed."])
def test_a_plain_year_is_no_label(text: str) -> None:
    assert not any(is_bound(text, span) for span in find_spans(text))


def test_no_other_number_where_it_may_hold_as_well() -> None:
    found = claims_of("The mutation was not found in 20 control samples of the study.")
    assert all("20 control samples" in claim for claim in found)
    found = claims_of("In 2009, there were six people for each open post.")
    assert found and all("2009" in claim for claim in found)


def test_a_value_of_another_verb_is_not_denied() -> None:
    text = "The appeal was launched before a deadline expires on 26 February."
    assert not [
        claim for claim in claims_of(text) if "was not launched" in claim and "26" not in claim
    ]


@pytest.mark.parametrize(
    "text",
    [
        "The director leaves the firm upon 30 days notice to the board.",
        "The tenant pays a maximum of 300 pounds for repairs of the house.",
    ],
)
def test_a_limit_is_not_compared(text: str) -> None:
    assert not [claim for claim in claims_of(text) if "than" in claim]


def test_a_denial_with_a_contrast_or_a_word_that_needs_it_stays() -> None:
    assert negated("Sales rose by 3 per cent but still were low.") is None
    assert affirmed("The next pair will not occur until May.") is None


def test_a_duty_keeps_the_condition_in_its_brackets() -> None:
    text = "The firm shall not sell goods (which include all goods made abroad) to others."
    assert list(duty_twins(text, random.Random(1))) == []


def test_the_denial_of_a_count_has_two_readings() -> None:
    assert negated("5 of ten siblings had low values of the protein.") is None
    assert negated("Twenty individuals were healthy in the second year.") is None


def test_a_form_behind_a_preposition_is_no_verb() -> None:
    text = "Members post photographs of finished work."
    assert negated(text) is None


def test_only_one_item_of_such_a_list_holds() -> None:
    text = "The threshold is raised until one of these is true:\n- It is not within the bucket.\n"
    assert split_sentences(text) == ["The threshold is raised until one of these is true:"]
    plain = "The supplier must do this:\n- The supplier shall keep all records."
    assert len(split_sentences(plain)) == 2


def test_a_line_without_an_end_does_not_run_into_the_next() -> None:
    text = "Media playback is not supported\nThe striker scored in the first half."
    assert split_sentences(text) == ["The striker scored in the first half."]
    wrapped = "The striker who came from the north scored a goal\nin the first half of the match."
    assert len(split_sentences(wrapped)) == 1


def test_a_link_leaves_its_text() -> None:
    assert without_notes("In 2020, [Promtool](https://a.b/c) was released (late).") == (
        "In 2020, Promtool was released."
    )


def test_the_end_of_a_sentence_that_a_page_break_cut_is_no_duty() -> None:
    text = "in Nevada, the agency shall not sell any competing products to others."
    assert list(duty_twins(text, random.Random(1))) == []


def test_what_points_elsewhere_or_is_ours_stays_where_it_is() -> None:
    others = corpus()
    lone = Premise(
        "z", "alone", "The host shall provide such reports of the pumps and valves each week."
    )
    made = construct([*others, lone], 1, 2, shares={"nli": 1.0})
    assert not [claim for claim in made.claims if claim.origin == "z"]


@pytest.mark.parametrize(
    "statement",
    [
        "In the last financial year the firm earned a profit.",
        "Heat maps are published each season and rest on many matches.",
        "Machines built since last year carry a modem.",
        "The main pupil file moves with the child and is kept.",
    ],
)
def test_no_question_by_inversion(statement: str) -> None:
    assert yes_no_question(statement, frozenset()) is None


def test_a_first_word_is_small_where_the_corpus_writes_it_so() -> None:
    small = small_words(["Some photographs are new.", "He came to the town."])
    assert uncapitalised("Photographs are kept", small) == "photographs are kept"
    assert uncapitalised("New York is large", small) == "New York is large"
    assert uncapitalised("Ada is here", small) == "Ada is here"


def test_half_a_number_is_not_respelt() -> None:
    text = "Some twenty-five relatives and the two station names were listed."
    assert {reworded((text,), seed) for seed in range(40)} == {(text,)}


def values_of(text: str, kind: str) -> set[str]:
    """The contradicted claims of a kind that any of twenty seeds makes of a passage."""
    made = [make_twins(Premise("p", "d", text), 9, seed) for seed in range(20)]
    return {pair.contradicted for pair in chain(*made) if pair.kind == kind}


def test_no_month_gets_a_day_that_it_lacks() -> None:
    text = "The old bridge was closed on 31 August."
    (span,) = find_spans(text)
    found = {exchanged(text, span, text, [], random.Random(seed)) for seed in range(80)}
    months = {
        month
        for month in patterns.listed("months")
        for claim in found
        if claim and f"31 {month}" in claim
    }
    assert months == {"January", "March", "May", "July", "October", "December"}


def test_a_number_after_a_name_is_a_label_at_the_beginning_too() -> None:
    text = "Windows 7 includes several tools of its own."
    assert all(is_bound(text, span) for span in find_spans(text))
    text = "The 7 valves were opened by the crew."
    assert not any(is_bound(text, span) for span in find_spans(text))


@pytest.mark.parametrize(
    "text",
    [
        "In 2009, the majority of the members were farmers.",
        "The town had the oldest library of the county in May 2009.",
    ],
)
def test_a_state_may_hold_in_other_years(text: str) -> None:
    assert not [
        claim for kind in ("year", "month", "comparison") for claim in values_of(text, kind)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "The largest share of the rent was paid late in 2009.",
        "The worst flood of the old town was in 2009.",
        "The film is a 1978 comedy of two brothers.",
    ],
)
def test_an_event_is_of_no_other_year(text: str) -> None:
    assert values_of(text, "year")


@pytest.mark.parametrize(
    "text",
    [
        "In 2009, 77 civilians died in the northern towns.",  # after 2005 more may have died
        "The tests were done in 1600 patients of the clinic.",  # no year
    ],
)
def test_such_a_year_is_not_compared(text: str) -> None:
    assert not [
        claim for claim in values_of(text, "comparison") if re.search("before|after", claim, re.I)
    ]


def test_comparisons_are_english() -> None:
    found = values_of("The clinic treated 40 people in the first week.", "comparison")
    assert found and not any("less than" in claim for claim in found)
    assert not values_of("The son fell ill at age 44 years and recovered.", "comparison")


@pytest.mark.parametrize(
    "text",
    [
        "A dam was located at the present-day street.",
        "Tin is also used as a negative electrode in batteries.",  # it can be both
        "The texts are good summaries and fairly present the main facts.",  # a verb
    ],
)
def test_no_opposite_of_half_a_word_or_of_one_use_among_others(text: str) -> None:
    assert list(opposites(text)) == []


def test_an_adjective_is_no_name() -> None:
    text = "The school moved to the American frontier in the war. It was founded by Ann in Leeds."
    assert "American" not in all_names(text) and "Leeds" in all_names(text)


@pytest.mark.parametrize(
    "text",
    [
        "The unit can’t be used as the pump doesn’t reach the valve.",
        "The exporter includes a date so the other one doesn’t need its own.",
        "The exporter includes a date so the other one doesn't need its own.",
    ],
)
def test_a_typographic_apostrophe_denies_as_well(text: str) -> None:
    assert claims_of(text) == set()


@pytest.mark.parametrize(
    "text",
    [
        "I've owned four burr grinders over the years.",
        "You’ll have a cup of hot tea in six minutes.",
        "They've had two earlier versions of the machine.",
        "A notable exception is that a new label is not breaking.",
        "In the above quote, the words are written in small letters.",
        "The valves of the type shown below were opened in 2009.",
        "Freedom of Action Each party is free to enter into similar agreements.",
        "RESULTS The expression was high in 20 patients of the study.",
        "Clearly made in some factory in the north.",
    ],
)
def test_what_points_elsewhere_or_is_no_sentence_is_no_statement(text: str) -> None:
    assert statements(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "[***] costs of raw materials shall be included in the purchase price.",
        "Product information shall not include any part of the [***].",
        "The agent shall keep the records of sales in accordance with (Section 5).",
        "The cancer is known in most cases by a t (2; 13) of the gene.",
    ],
)
def test_a_hole_that_notes_leave_makes_no_claim(text: str) -> None:
    assert claims_of(text) == set()


def test_the_mark_of_an_item_is_no_hole() -> None:
    text = "The host shall disclose the data to (i) its staff and to (ii) its agents."
    assert without_notes(text) == "The host shall disclose the data to its staff and to its agents."


def test_a_count_with_a_hyphen_has_two_denials_too() -> None:
    assert negated("Twenty-two of 32 other members had low levels of the protein.") is None


@pytest.mark.parametrize(
    "text",
    [
        # It tells what can happen, not what is allowed.
        "Decentralisation may not be as good for the routine services of a town.",
        "This will not prevent the buyer from buying stock in the market.",
        "All shall be paid by the buyer within ten days of the order.",
        "I must admit to some doubts about the new pump.",
        "Stryker waives any right it may have in law to withhold the property.",
        "This is done because American speakers are not aware of the old custom.",
        "The newer one is not sturdy and we wouldn't trust it with a load.",
        "The newer one shall not be used at all in the winter months.",
    ],
)
def test_no_duty_of_what_nobody_orders_or_of_half_a_sentence(text: str) -> None:
    rule = text if "may not" in text else f"{text} The buyer shall pay."
    assert not [twins for twins in duty_twins(rule, random.Random(1)) if twins[0] in text]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("This lease has been made with care and shall not be read against any party.", "ban"),
        ("The sides are free and this Agreement will not make one the agent of the other.", "ban"),
        ("The parties shall comply at all times with the law of the land.", "duty"),
        ("This Agreement may not be assigned by either side without consent of the other.", "ban"),
        ("Each side agrees it shall apply the same care to the data of the other.", "duty"),
    ],
)
def test_a_duty_stays_one(text: str, kind: str) -> None:
    assert [found for _, found, *_ in duty_twins(text, random.Random(1))] == [kind]


@pytest.mark.parametrize(("place", "moves"), [("paragraph", False), ("agreement", True)])
def test_a_part_of_the_document_is_another_one_in_another_passage(place: str, moves: bool) -> None:
    texts = (
        f"The host shall bear all costs of the {{}} pumps under this {place}.",
        f"The guest shall not move the {{}} pumps to other rooms under this {place}.",
        "The {} pumps are kept in the rooms of the guest and of the host.",
    )
    kinds = ("red", "blue", "green", "large", "small", "heavy")
    premises = [
        Premise(f"{kind}{number}", "lease", text.format(kind))
        for kind in kinds
        for number, text in enumerate(texts)
    ]
    assert bool(construct(premises, 1, 2, shares={"nli": 1.0}).claims) == moves


def test_twins_are_reworded_alike() -> None:
    """A word that a denial has taken apart stays in both: it would tell the label."""
    texts = ("The owner is required to pay.", "The owner is not required to pay.")
    assert {reworded(texts, seed) for seed in range(20)} == {texts}
    same = ("Prices rose prior to May.", "Prices fell prior to May.")
    assert ("Prices rose before May.", "Prices fell before May.") in {
        reworded(same, seed) for seed in range(20)
    }


def test_other_words_fit_after_an_auxiliary() -> None:
    text = "The work was commenced, its use was demonstrated and a permit was obtained."
    found = {reworded((text,), seed)[0] for seed in range(60)}
    assert not [each for each in found if re.search("was (?:began|showed|got)", each)]


def test_an_abbreviation_keeps_its_capitals() -> None:
    small = small_words(["who is it for us; aids"])
    for text in ("WHO recommends it", "US sales rose", "AIDS is rare", "IT systems are old"):
        assert uncapitalised(text, small) == text
    assert uncapitalised("A pump is old", small) == "a pump is old"


def test_a_denial_with_at_all_is_not_taken_back() -> None:
    assert affirmed("The call stack is not used at all.") is None


def test_an_undecided_opposite_is_about_a_passage_with_neither_word() -> None:
    """Which of the two holds is what such a passage would tell, in other words."""
    passages = [
        Premise("a", "d", "The disease of the liver is an autosomal recessive disorder of a gene."),
        Premise("b", "d", "Its liver form was due to dominant changes, said the old gene bank."),
        Premise("c", "d", "The old gene bank of the liver clinic was sold to a rich baker."),
    ]
    index = Neighbours(passages)
    claim = "The liver disease is an autosomal dominant disorder of a gene."
    assert index.undecided(claim, "a") == "b"
    differing = frozenset({"dominant", "recessive"})
    assert index.undecided(claim, "a", lacking=differing) == "c"


def test_a_sentence_that_is_cut_at_initials_makes_no_statement() -> None:
    text = "The mission was founded in 1879 by the Rev. A.G. Ruliffson was its first head."
    assert [each for _, each in statements(text)] == ["Ruliffson was its first head."]
    for end in ("in the U.S.", "at 0.3 A."):
        assert statements(f"The charger was tested twice {end}")


def test_a_rank_is_not_compared_and_a_clause_number_goes() -> None:
    assert not values_of("The rise was the highest of the top 60 airports there.", "comparison")
    assert without_notes("7.5.1 8% of the fees is kept.") == "8% of the fees is kept."


@pytest.mark.parametrize(
    "text",
    [
        "In January, -5 degrees were measured in the northern valley.",
        f"The old tank held {'9' * 400} litres of water.",
    ],
)
def test_an_unusual_number_ends_no_run(text: str) -> None:
    plain = "The pump was opened on 3 June."
    twins = make_twins(Premise("p", "d", f"{text} {plain}"), 9, 1)
    assert {pair.origin for pair in twins} >= {plain}


def test_a_question_without_a_subject_is_no_statement() -> None:
    assert statement_of("When was ?", "2010") is None
