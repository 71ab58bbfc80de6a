"""F1 against scikit-learn and by hand; intervals."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sklearn.metrics import f1_score

from tasks.scoring.f1 import (
    Scored,
    correct_prior,
    interval,
    macro_f1,
    majority_f1,
    normalise_answer,
    resample,
    squad_f1,
)


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_agrees_with_scikit_learn(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    golds, predictions = drawn.integers(0, 3, 40), drawn.integers(0, 1 + seed % 3, 40)
    expected = 100 * f1_score(golds, predictions, average="macro")
    assert macro_f1(golds.tolist(), predictions.tolist(), 3) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("golds", "predictions"),
    [
        ([0, 1, 0, 1], [0, 1, 0, 1]),  # nothing is of the third class
        ([0, 1, 0, 1], [0, 1, 2, 1]),  # it is predicted alone
        ([0, 1, 2, 1], [0, 1, 1, 1]),  # it is gold alone
        ([1, 1], [1, 1]),
    ],
)
def test_macro_f1_leaves_out_a_class_that_is_neither_gold_nor_predicted(
    golds: list[int], predictions: list[int]
) -> None:
    expected = 100 * f1_score(golds, predictions, average="macro", zero_division=0)
    assert macro_f1(golds, predictions, 3) == pytest.approx(expected, abs=1e-6)


def test_each_resample_averages_over_the_classes_that_it_has() -> None:
    """A rare class that a resample does not draw must not cost a perfect model points."""
    golds = np.array([0, 1] * 9 + [0, 2])
    weights = resample([str(item) for item in range(20)], 300, seed=1)
    perfect = Scored(golds[None].astype(float), golds, 3)
    assert (weights[:, 19] == 0).any() and perfect.f1(weights) == pytest.approx(100)

    said = np.random.default_rng(5).integers(0, 3, 20)
    found = Scored(said[None].astype(float), golds, 3).f1(weights)[:, 0]
    for row, points in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(20), row.astype(int))
        expected = f1_score(golds[drawn], said[drawn], average="macro", zero_division=0)
        assert points == pytest.approx(100 * expected)


@pytest.mark.parametrize(
    ("prediction", "golds", "expected"),
    [
        ("The seal.", ["seal"], 1.0),
        ("a broken seal", ["seal"], 2 / 3),
        ("pump", ["seal", "the Pump"], 1.0),
        ("", ["seal"], 0.0),
        ("the", ["a"], 1.0),
    ],
)
def test_squad_f1_takes_the_best_gold(prediction: str, golds: list[str], expected: float) -> None:
    assert squad_f1(prediction, golds) == pytest.approx(expected)


def test_squad_f1_agrees_with_a_public_implementation() -> None:
    """transformers carries the SQuAD script; over several golds the best counts."""
    from transformers.data.metrics.squad_metrics import compute_f1

    chance = random.Random(7)
    words = [
        "the",
        "a",
        "Seal",
        "seal,",
        "broke",
        "U.S.",
        "pump-7",
        "“noon”",
        "",
        "  ",
        "3.5",
        "Café",
        "an",
    ]
    for _ in range(2000):
        said, *golds = (
            " ".join(chance.choices(words, k=chance.randint(0, 5)))
            for _ in range(1 + chance.randint(1, 4))
        )
        assert squad_f1(said, golds) == pytest.approx(
            max(compute_f1(gold, said) for gold in golds), abs=1e-6
        ), (said, golds)


def test_answers_are_normalised_as_squad_does() -> None:
    assert normalise_answer("  The U.S.A., an  answer! ") == "usa answer"


def test_majority_is_the_score_of_one_class() -> None:
    assert majority_f1([0, 0, 1], 2) == pytest.approx(100 * 0.8 / 2)


def test_a_liking_for_a_choice_is_taken_out_without_labels() -> None:
    evidence = np.array([[1.0, 0.0], [0.0, 1.0]] * 10)
    scores = -40 + evidence + np.array([7.0, 0.0])  # says the first choice whatever the item
    assert set(scores.argmax(axis=1)) == {0}
    assert correct_prior(scores).tolist() == [0, 1] * 10
    assert correct_prior(evidence).tolist() == [0, 1] * 10


def test_an_items_own_scale_does_not_matter_to_the_prior() -> None:
    scores = np.random.default_rng(3).normal(size=(30, 3))
    shifted = (
        scores + np.random.default_rng(4).normal(size=(30, 1)) * 50
    )  # longer prompts: all choices less likely
    assert correct_prior(shifted).tolist() == correct_prior(scores).tolist()


def test_resampling_draws_whole_groups_and_is_seeded() -> None:
    weights = resample(["a", "a", "b", "c"], 50, seed=3)
    assert (weights[:, 0] == weights[:, 1]).all() and set(weights[:, [0, 2, 3]].sum(axis=1)) == {
        3.0
    }
    assert (weights == resample(["a", "a", "b", "c"], 50, seed=3)).all()
    assert not (weights == resample(["a", "a", "b", "c"], 50, seed=4)).all()


def test_interval_holds_the_middle_95_percent() -> None:
    assert interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))
