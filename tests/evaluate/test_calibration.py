"""The prior of the choices, from claims of the corpus alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.rows import EVALUATIONS, PASSAGES
from tasks.evaluate.calibration import as_arrays, make_probes, priors
from tasks.scoring.datasets import Dataset, Item, asked_columns, load_dataset, render
from tasks.scoring.f1 import scored_of
from tasks.supervise.constructed import construct_rows
from tests.conftest import ROOT
from tests.supervise.test_constructed import passages


def _dataset(name: str) -> Dataset:
    return load_dataset(ROOT / "datasets" / f"{name}.yaml")


@pytest.mark.parametrize("name", ["contracts", "privacy", "contractnli", "pubmedqa"])
def test_probes_are_the_corpus_own_claims_in_the_datasets_form(name: str) -> None:
    dataset, corpus = _dataset(name), passages()
    found = make_probes(dataset, corpus, 8, 1)
    texts = set(corpus["text"].to_pylist())
    assert found and len(found) <= 8 and {item.context for item in found} <= texts
    shown = [render(template, item) for template in dataset.templates for item in found]
    assert all(text.strip() for text in shown)
    assert make_probes(dataset, corpus.take(list(range(len(corpus)))[::-1]), 8, 1) == found


@pytest.mark.parametrize(("name", "answers"), [("contracts", 3), ("privacy", 2)])
def test_probes_are_no_training_rows_and_ask_for_each_answer_alike(name: str, answers: int) -> None:
    """The source ``constructed`` makes its rows of the same passages, with the same seed."""
    dataset, corpus = _dataset(name), passages()
    rows, _ = construct_rows(corpus, (dataset.task_type,), 1)
    told: dict[str, str] = {}
    for row in rows.to_pylist():
        own = row["instruction"].replace(row["context"], "").lower()
        told[row["context"]] = told.get(row["context"], "") + own
    (column,) = asked_columns(dataset)

    def known(probes: list[Item]) -> int:
        return sum(
            str(item.columns[column]).rstrip(".").lower() in told.get(item.context, "")
            for item in probes
        )

    every = make_probes(dataset, corpus, 500, 1)
    assert 0 < known(every) < 0.7 * len(every), "the claims have draws of their own"
    unseen = make_probes(dataset, corpus, 500, 1, [rows])
    assert unseen and known(unseen) == 0
    assert len(every) % answers == len(unseen) % answers == 0


def test_other_tasks_and_an_empty_corpus_have_no_probes() -> None:
    assert make_probes(_dataset("incidents"), passages(), 8, 1) == []
    assert make_probes(_dataset("contracts"), passages().slice(0, 0), 8, 1) == []


def test_a_preference_that_hides_what_a_model_knows_is_taken_out() -> None:
    dataset = _dataset("privacy")
    template = dataset.templates[0]
    prefers = math.log(0.9), math.log(0.1)

    def row(name: str, knows: int) -> dict[str, Any]:
        scores = [prefers[0], prefers[1]]
        scores[knows] += 0.5
        values = {"model": "adapted", "dataset": "d", "template": template.name, "item_id": name}
        values |= {"prompt": "", "prediction": template.choices[0], "golds": [""]}
        return values | {"choices": list(template.choices), "scores": scores, "f1": 0.0}

    probes = pa.Table.from_pylist([row(f"p{n}", n % 2) for n in range(40)], schema=EVALUATIONS)
    found = priors([template], probes)
    assert found[template.name][template.choices[0]] == pytest.approx(0.9, abs=0.02)
    assert sum(found[template.name].values()) == pytest.approx(1.0, abs=1e-5)
    items = [Item(id=f"i{n}", context="c", golds=("",), gold=n % 2, columns={}) for n in range(10)]
    answers = pa.Table.from_pylist([row(f"i{n}", n % 2) for n in range(10)], schema=EVALUATIONS)
    asked = (dataset, (template,), items, answers)
    assert float(np.mean(scored_of(*asked).f1())) < 40
    assert float(np.mean(scored_of(*asked, prior=as_arrays([template], found)).f1())) == 100


def test_a_question_keeps_the_name_that_it_begins_with() -> None:
    """A name is no part of a longer small word: "Ann" is not in "annual"."""
    rows = passages().to_pylist()
    rows = [
        row | {"text": row["text"].replace("The harbour", "Ann") + " It had an annual meeting."}
        for row in rows
    ]
    found = make_probes(_dataset("privacy"), pa.Table.from_pylist(rows, PASSAGES), 500, 1)
    asked = [str(item.columns["question"]) for item in found]
    assert not [question for question in asked if " ann " in question]
    assert [question for question in asked if " Ann " in question]
