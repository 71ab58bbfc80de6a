"""Drafts of items that rules make: right by construction, mixed with empty forms."""

from __future__ import annotations

from typing import Any

import pytest

from flows.review.drafts import make_drafts
from tasks.core.spans import holds
from tasks.scoring.datasets import Dataset, load_dataset
from tests.conftest import ROOT

_TEXTS = (
    "The feed pump was repaired on 3 May 2021. The flow was 45 litres.",
    "The north tank holds 1,200 litres. Its valve was replaced by two fitters on 9 June 2022.",
    "The Supplier shall deliver the spare parts within ten days of an order.",
    "The boiler was inspected in 2019. The report was signed by Anna Marsh.",
)


def _passages(count: int) -> list[dict[str, Any]]:
    return [
        {
            **{"passage_id": f"{number:016x}", "document": "a.md", "page": 0, "section": ""},
            **{"start": 0, "end": 9, "text": f"{_TEXTS[number % len(_TEXTS)]} ({number})"},
        }
        for number in range(count)
    ]


def _dataset(name: str) -> Dataset:
    return load_dataset(ROOT / f"datasets/{name}.yaml")


@pytest.mark.parametrize("name", ["contracts", "privacy", "incidents"])
def test_most_passages_have_a_draft_and_every_third_none(name: str) -> None:
    dataset, passages = _dataset(name), _passages(60)
    drafts = make_drafts(dataset, passages, None, seed=1)
    assert [draft["origin"] for draft in drafts][2::3] == [""] * 20
    made = [draft for draft in drafts if draft["origin"]]
    assert {draft["origin"] for draft in made} == {"rules"} and len(made) >= 10
    assert make_drafts(dataset, passages, None, seed=1) == drafts, "the same for the same seed"
    for draft in made:
        (asked,) = draft["fields"].values()
        assert asked
        if dataset.classifies:
            assert draft["label"] in dataset.labels and draft["answers"] == []
        else:
            assert holds(draft["text"], draft["answers"][0]) and draft["label"] == ""
    if dataset.classifies:
        assert len({draft["label"] for draft in made}) == 2, "true and false ones come"


def test_a_type_that_rules_make_nothing_of_has_empty_forms() -> None:
    summaries = _dataset("incidents").model_copy(update={"task_type": "summarization"})
    drafts = make_drafts(summaries, _passages(6), None, seed=1)
    assert {draft["origin"] for draft in drafts} == {""}


def test_labels_of_another_name_are_not_guessed() -> None:
    odd = _dataset("contracts")
    templates = tuple(t.model_copy(update={"choices": ("x", "y", "z")}) for t in odd.templates)
    odd = odd.model_copy(update={"labels": ("one", "two", "three"), "templates": templates})
    assert {draft["origin"] for draft in make_drafts(odd, _passages(9), None, seed=1)} == {""}
