"""Rows from claims: balanced, in any order the same, and blind without their passage."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tasks.claims.claims import CONTRADICTED, ENTAILED, UNDECIDED, Premise
from tasks.claims.construct import Constructed, construct
from tasks.claims.details import Details
from tasks.claims.neighbours import Neighbours
from tasks.claims.probe import Probed, balanced, probe
from tasks.claims.wordings import WORDINGS, load_wordings
from tasks.core.errors import PipelineError
from tasks.core.labels import offered
from tasks.core.rows import INSTRUCTIONS
from tasks.core.task_types import TASK_TYPES
from tests.conftest import ROOT

PLACES = [
    "Corran",
    "Anna",
    "Medlar",
    "Hollin",
    "Perrin",
    "Tallow",
    "Linnet",
    "Farrant",
    "Ossick",
    "Marfield",
    "Saltmere",
    "Kirkby",
]
THINGS = [
    "harbour",
    "bridge",
    "mill",
    "quarry",
    "station",
    "chapel",
    "library",
    "market",
    "tower",
    "canal",
    "orchard",
    "theatre",
]
EVENTS = ("opened", "closed", "repaired", "sold", "painted", "inspected")


def corpus(count: int = 48) -> list[Premise]:
    """Passages of three sentences that share some words with each other."""
    chance = random.Random(5)
    passages = []
    for number in range(count):
        place, thing, event = chance.choice(PLACES), chance.choice(THINGS), chance.choice(EVENTS)
        text = (
            f"The {thing} of {place} was {event} by the council in {1900 + number}. "
            f"The work on the {thing} took {20 + number} weeks. "
            f"The {chance.choice(THINGS)} near {place} was not {chance.choice(EVENTS)} for us."
        )
        passages.append(Premise(f"p{number:03}", f"d{number % 6}", text))
    return passages


@pytest.fixture(scope="module")
def made() -> Constructed:
    return construct(corpus(), seed=1, most_excess=1.0)


def test_rows_have_the_columns_of_instructions(made: Constructed) -> None:
    assert made.table.schema == INSTRUCTIONS
    rows = made.table.to_pylist()
    assert rows and len({row["row_id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["context"] in row["instruction"] and "{{" not in row["instruction"]


def test_the_same_rows_in_any_order(made: Constructed) -> None:
    passages = corpus()
    random.Random(3).shuffle(passages)
    assert construct(passages, seed=1, most_excess=1.0).table.equals(made.table)
    assert not construct(passages, seed=2, most_excess=1.0).table.equals(made.table)


def test_answers_are_balanced_under_every_family(made: Constructed) -> None:
    by_type: dict[str, Counter[str]] = {}
    for row, claim in zip(made.table.to_pylist(), made.claims, strict=True):
        by_type.setdefault(row["task_type"], Counter())[claim.label] += 1
    assert set(by_type) == {"nli", "te", "ynqa"}
    assert len(set(by_type["nli"].values())) == 1
    for counts in (by_type["te"], by_type["ynqa"]):
        assert counts[ENTAILED] <= counts[CONTRADICTED] + counts[UNDECIDED]


def test_negation_is_no_sign_of_a_label(made: Constructed) -> None:
    negated = Counter(claim.label for claim in made.claims if " not " in claim.text)
    assert negated[ENTAILED] and negated[CONTRADICTED]
    assert abs(negated[ENTAILED] - negated[CONTRADICTED]) <= 0.4 * negated.total()


def test_an_undecided_claim_comes_from_another_passage(made: Constructed) -> None:
    undecided = [claim for claim in made.claims if claim.label == UNDECIDED]
    assert undecided
    for claim in undecided:
        assert claim.origin != claim.passage.passage_id
        assert claim.text not in claim.passage.text


def test_a_neighbour_that_decides_the_claim_is_not_taken() -> None:
    passages = [
        Premise("a", "d", "The harbour of Corran was closed by heavy ice."),
        Premise("b", "d", "Heavy ice has closed the harbour of Corran again."),
        Premise("c", "d", "The mill near the harbour of Anna was sold to a baker."),
    ]
    index = Neighbours(passages)
    assert index.undecided("The harbour of Corran was closed by heavy ice.", "a") == "c"


_MANY_TIES = """
import random
from tasks.claims.claims import Premise
from tasks.claims.neighbours import Neighbours
chance = random.Random(5)
words = ["".join(chance.choice("bdfgklmnprtvz") + chance.choice("aiou") for _ in range(3))
         for _ in range(220)]
texts = [". ".join(" ".join(chance.sample(words, 6)).capitalize() for _ in range(4)) + "."
         for _ in range(60)]
passages = [Premise(f"p{number:02d}", "", text) for number, text in enumerate(texts)]
index = Neighbours(passages)
claims = [" ".join(chance.sample(words, 12)).capitalize() + "." for _ in range(400)]
print([index.undecided(claim, "p00") for claim in claims])
"""


def test_the_hash_seed_does_not_choose_the_neighbour() -> None:
    """Scores are sums of floats over a set of words, and many passages nearly tie."""
    told = {
        subprocess.run(
            [sys.executable, "-c", _MANY_TIES],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        for seed in "0123"
    }
    assert len(told) == 1


def test_a_date_that_the_passage_does_not_give_leaves_a_claim_open() -> None:
    hosts = [
        Premise("a", "d", "The mill near Anna was sold to a baker. It was old."),
        Premise("b", "d", "The harbour was closed by ice on 4 May."),
    ]
    details = Details(hosts, 1)
    claim = "The bridge was opened by Ann in March 1931."
    assert details.undecided("The bridge was opened by Ann.", "z") is None
    assert details.undecided(claim, "z") == (
        "a",
        "The mill near Anna was sold to a baker in March 1931.",
    )
    assert details.undecided(claim, "z") is None  # each passage serves once


def test_no_sentence_to_construct_from_is_one_line() -> None:
    with pytest.raises(PipelineError, match="no sentence of these passages"):
        construct([Premise("a", "d", "Why? Because! - A list\n- of things")], seed=1)


def test_every_wording_offers_what_it_is_answered_with() -> None:
    for task_type in ("nli", "te", "ynqa"):
        for family, wording in load_wordings().of(task_type):
            question = wording.replace("{{context}}", "").replace("{{claim}}", "X is Y.").lower()
            for answer in family.labels.values():
                assert answer.lower() in (offered(question) or TASK_TYPES[task_type].labels), (
                    task_type,
                    wording,
                )


def test_a_wording_with_an_unknown_slot_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wordings.yaml"
    path.write_text(WORDINGS.read_text().replace("{{claim}}", "{{clame}}"))
    with pytest.raises(PipelineError, match="nothing fills {{clame}}"):
        load_wordings(path)


def blind(count: int = 240) -> list[Probed]:
    """Labels that the words do not tell."""
    words = [
        "harbour",
        "bridge",
        "mill",
        "quarry",
        "station",
        "chapel",
        "library",
        "market",
        "tower",
        "canal",
    ]
    chance = random.Random(1)
    return [
        Probed(" ".join(chance.choices(words, k=6)), "yn"[n % 2], f"g{n // 4}")
        for n in range(count)
    ]


def test_the_probe_is_at_chance_where_words_tell_nothing() -> None:
    verdict = probe(blind(), 1)
    assert verdict and verdict.majority == 0.5 and verdict.excess < 0.1
    assert balanced(blind(), 0.12, 1) == (list(range(240)), verdict)


def test_telling_words_are_evened_out_or_the_batch_is_refused() -> None:
    some = [
        Probed(row.text + (" not" if row.label == "y" and n % 3 else ""), row.label, row.group)
        for n, row in enumerate(blind(600))
    ]
    before = probe(some, 1)
    kept, after = balanced(some, 0.08, 1)
    assert after == probe([some[place] for place in kept], 1)
    assert before and before.excess > 0.08 and 0 < len(kept) < len(some)
    assert not any(" not" in some[place].text for place in kept)


def test_labels_that_are_told_by_their_words_are_refused() -> None:
    words = [f"w{n}" for n in range(40)]
    chance = random.Random(2)
    rows = [
        Probed(
            " ".join(chance.choices(words[:24] if n % 2 else words[16:], k=9)), "yn"[n % 2], f"g{n}"
        )
        for n in range(600)
    ]
    with pytest.raises(PipelineError, match="told without the passage.*most telling: 'w"):
        balanced(rows, 0.05, 1)
