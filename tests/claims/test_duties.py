"""Claims of what contracts and rules order, allow and forbid."""

from __future__ import annotations

import random

import pytest

from tasks.claims.claims import FALSE_DENIALS, TRUE_DENIALS, Premise
from tasks.claims.construct import construct
from tasks.claims.duties import BAN, DUTY, PERMISSION, duty_twins


def twins_of(text: str, seed: int = 1) -> list[tuple[str, str, str]]:
    """Return (kind, entailed, contradicted) of a text's duties."""
    return [twins[1:] for twins in duty_twins(text, random.Random(seed))]


@pytest.mark.parametrize(
    ("sentence", "kind", "entailed", "contradicted"),
    [
        (
            "4.1 The Supplier shall deliver the goods (at its own cost) within 30 days.",
            DUTY,
            "The Supplier shall deliver the goods within 30 days.",
            "The Supplier shall not deliver the goods within 30 days.",
        ),
        (
            "If the goods are late, the Buyer may, at any time, refuse them. Tenants may keep one"
            " small dog in the flat.",  # "may," is left alone
            PERMISSION,
            "Tenants may keep one small dog in the flat.",
            "Tenants may not keep one small dog in the flat.",
        ),
        (
            "However, this clause shall not prevent a claim for damages.",
            BAN,
            "This clause shall not prevent a claim for damages.",
            "This clause shall prevent a claim for damages.",
        ),
        (
            "Neither party may assign any of its rights without consent.",
            BAN,
            "Neither party may assign any of its rights without consent.",
            "Each party may assign any of its rights without consent.",
        ),
        (
            "No assignment of this lease shall relieve the tenant of the rent.",
            BAN,
            "No assignment of this lease shall relieve the tenant of the rent.",
            "An assignment of this lease shall relieve the tenant of the rent.",
        ),
        (
            "The Bank agrees to hold the deposit, and the Client may ask for interest.",
            DUTY,
            "The Bank shall hold the deposit.",
            "The Bank shall not hold the deposit.",
        ),
        (
            "The Disclosing Party is not obliged to give further information.",
            BAN,
            "The Disclosing Party is not obliged to give further information.",
            "The Disclosing Party is obliged to give further information.",
        ),
    ],
)
def test_a_duty_is_entailed_as_it_stands_and_contradicted_in_reverse(
    sentence: str, kind: str, entailed: str, contradicted: str
) -> None:
    assert twins_of(sentence) == [(kind, entailed, contradicted)]


def test_of_what_is_forbidden_no_verb_allows_it() -> None:
    text = "The Recipient shall not copy or disclose the drawings to a third party."
    made = {twins_of(text, seed)[0][1:] for seed in range(9)}
    tail = "disclose the drawings to a third party."
    assert made == {
        (f"The Recipient {verb} not {tail}", f"The Recipient {verb} {tail}")
        for verb in ("shall", "must", "may")
    }


@pytest.mark.parametrize(
    "text",
    [
        "The Buyer may use the data only for the purpose of this Agreement.",  # two readings
        "The Supplier shall not sell the goods except to the Buyer.",
        "Nothing in this Agreement shall be read as a licence to the Buyer.",
        "Prices may change in the course of the year.",  # can happen: nothing allows it
        "You may feel tired for some days after the visit.",
        "It shall be sent to the Buyer by the end of May.",  # of what stands before
        "A statement that the goods shall be sent is no promise of them.",
    ],
)
def test_a_sentence_whose_reverse_is_not_false_for_certain_is_left(text: str) -> None:
    assert twins_of(text) == []


def test_a_duty_to_do_one_of_two_things_keeps_both() -> None:
    (twins,) = twins_of("The Recipient shall return or destroy all copies of the data.")
    assert twins[1] == "The Recipient shall return or destroy all copies of the data."


def test_contracts_give_rows_of_all_labels_and_denials_tell_nothing() -> None:
    clauses = [
        "The {0} shall send the {1} report to the Board within ten days of each quarter.",
        "The {0} shall not publish the {1} report without consent of the Board in writing.",
        "The Board may refuse the {1} report within five days of its receipt.",
        "Where the law of the land requires it, the {0} keeps a copy for the auditors.",
    ]
    roles = ("Supplier", "Contractor", "Operator", "Manager", "Agent", "Provider")
    reports = ("safety", "water", "noise", "traffic", "energy", "waste")
    passages = [
        Premise(f"{place}{clause}", "lease", text.format(role, report))
        for place, (role, report) in enumerate(zip(roles, reports, strict=True))
        for clause, text in enumerate(clauses)
    ]
    made = construct(passages, seed=1, shares={"nli": 1.0})
    labels = [claim.label for claim in made.claims]
    assert len(labels) >= 12 and {labels.count(label) for label in set(labels)} == {len(labels) / 3}
    kinds = [claim.kind for claim in made.claims if claim.label == "entailed"]
    assert (
        sum(kind in TRUE_DENIALS for kind in kinds)
        == sum(kind in FALSE_DENIALS for kind in kinds)
        > 0
    )
