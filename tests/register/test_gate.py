"""What may become the champion: nothing that is equal, constant, chance, or below a simpler way.

The answers are drawn, no model is asked; dataset, items and figures are the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.files import write_json
from tasks.core.params import load_params
from tasks.core.parquet import write_table
from tasks.core.rows import EVALUATIONS
from tasks.register import champion, gate
from tasks.register.gate import Comparison, Exam, describe_leak, find_faults
from tasks.scoring.datasets import Item, load_dataset, load_items

_LABELS = {"yes": ["yes", "no", "no"], "no": ["no", "yes", "yes"]}


def _asked(tmp_path: Path, kind: str, number: int) -> Exam:
    """``number`` items, two to a passage; of three answers two are "no"."""
    rows = [
        {
            "id": str(n),
            "context": f"Passage {n // 2}.",
            "question": "?",
            "answer": "yes" if n % 3 == 0 else "no",
            "answers": [f"part {n} of the pump"],
        }
        for n in range(number)
    ]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    params = load_params(Path("params.yaml")).evaluate
    dataset = load_dataset(Path(f"datasets/{kind}.yaml"))
    short = params.model_copy(update={"templates": 2, "bootstrap": 1000})
    return Exam.make(dataset, load_items(dataset, path), short)


def test_items_of_one_document_are_drawn_together(tmp_path: Path) -> None:
    asked = _asked(tmp_path, "privacy", 12)
    named = [item.model_copy(update={"document": f"{int(item.id) // 6}"}) for item in asked.items]
    params = load_params(Path("params.yaml")).evaluate
    weights = Exam.make(asked.dataset, named, params).weights
    assert (weights[:, :6] == weights[:, :1]).all() and (weights[:, 6:] == weights[:, 6:7]).all()
    assert not (asked.weights[:, :6] == asked.weights[:, :1]).all(), "passages of two items"


def test_the_digest_of_the_questions_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _asked(tmp_path, "privacy", 4)
    digest = asked.digest
    with monkeypatch.context() as patch:
        patch.delattr(gate, "render")
        assert asked.digest == digest
    assert _asked(tmp_path, "privacy", 4).digest == digest
    assert _asked(tmp_path, "privacy", 5).digest != digest


def test_answers_that_were_written_otherwise_are_not_the_same(tmp_path: Path) -> None:
    """A shorter answer may score higher: a champion's answers are compared with their like."""
    for kind, differs in (("incidents", True), ("privacy", False)):
        asked = _asked(tmp_path, kind, 4)
        params = load_params(Path("params.yaml")).evaluate.model_copy(update={"templates": 2})
        for change in ({"max_new_tokens": 5}, {"engine": "transformers"}):
            other = Exam.make(asked.dataset, asked.items, params.model_copy(update=change))
            assert (other.digest != asked.digest) == differs, (kind, change)


def _answers(asked: Exam, answer: Callable[[Item], str], lean: float = 0.0) -> pa.Table:
    """Answers as they are stored. ``lean``: how far the scores of all items prefer choice 0."""
    rows: list[dict[str, Any]] = []
    for template in asked.templates:
        for item in asked.items:
            text = answer(item)
            scores: Sequence[float] = ()
            if asked.dataset.classifies:
                place = asked.dataset.labels.index(text)
                text = template.choices[place]
                scores = [float(place == n) + (lean if n == 0 else 0.0) for n in range(2)]
            rows.append(
                {
                    "model": "any",
                    "dataset": asked.dataset.name,
                    "template": template.name,
                    "item_id": item.id,
                    "prompt": "?",
                    "prediction": text,
                    "golds": list(item.golds),
                    "scores": list(scores),
                    "f1": float(text in item.golds),
                }
            )
    return pa.Table.from_pylist(rows, schema=EVALUATIONS)


def _gold(item: Item) -> str:
    return item.golds[0]


def _wrong(item: Item) -> str:
    return {"yes": "no", "no": "yes"}.get(_gold(item), "nothing of it")


def _drawn(random: np.random.Generator, rates: dict[str, float]) -> Callable[[Item], str]:
    return lambda item: _gold(item) if random.random() < rates[item.id] else _wrong(item)


@pytest.mark.parametrize("number", [20, 60])
@pytest.mark.parametrize("kind", ["privacy", "incidents"])
def test_of_200_equal_pairs_at_most_one_in_forty_is_called_better(
    tmp_path: Path, kind: str, number: int
) -> None:
    """Both models answer an item rightly with the item's own chance, each by its own draw."""
    asked, random = _asked(tmp_path, kind, number), np.random.default_rng(11)
    rates = {item.id: float(random.beta(1, 1)) for item in asked.items}
    won = 0
    for _ in range(200):
        new, old = (asked.score(_answers(asked, _drawn(random, rates))) for _ in range(2))
        won += asked.compare(new, old, "its equal").won
    # 2.5 % and two standard deviations of a count of 200.
    assert won <= 9


def _faults(asked: Exam, adapted: pa.Table, zero_shot: pa.Table, **scores: Any) -> str:
    return "; ".join(find_faults(asked, adapted, zero_shot, scores))


@pytest.mark.parametrize("kind", ["privacy", "incidents"])
def test_a_good_model_has_no_fault(tmp_path: Path, kind: str) -> None:
    asked, random = _asked(tmp_path, kind, 60), np.random.default_rng(1)
    good = _answers(asked, _drawn(random, dict.fromkeys(map(str, range(60)), 0.95)))
    assert _faults(asked, good, _answers(asked, _wrong), gain_over_start={"f1": 0.0}) == ""
    comparison = asked.compare(asked.score(good), asked.score(_answers(asked, _wrong)), "x")
    assert comparison.won and comparison.chance <= 0.001


def test_over_a_zero_shot_below_the_majority_a_gain_is_not_enough(tmp_path: Path) -> None:
    """Seen on 20 items: +12.1 over a zero-shot that the majority class beats too."""
    asked = _asked(tmp_path, "privacy", 60)
    constant, zero_shot = _answers(asked, lambda _: "no"), _answers(asked, _wrong)
    assert asked.compare(asked.score(constant), asked.score(zero_shot), "zero-shot").won
    faults = _faults(asked, constant, zero_shot)
    assert "not better than the majority class: +0.0 F1 [+0.0, +0.0]" in faults
    assert "it answers with one class only" in faults
    assert "its answers do not depend on the items" in faults


def test_an_unadapted_model_that_only_leans_to_one_choice_must_be_beaten_without_it(
    tmp_path: Path,
) -> None:
    """Its scores tell the items apart, and without correction it always answers the same."""
    asked, random = _asked(tmp_path, "privacy", 60), np.random.default_rng(2)
    rates = dict.fromkeys(map(str, range(60)), 0.85)
    leans = _answers(asked, _gold, lean=5.0)
    faults = _faults(asked, _answers(asked, _drawn(random, rates)), leans)
    assert faults.startswith("not better than the prior-corrected unadapted model: -")


@pytest.mark.parametrize("kind", ["privacy", "incidents"])
def test_with_shuffled_labels_nothing_is_promoted(tmp_path: Path, kind: str) -> None:
    """The answers are right, for other items."""
    asked, random = _asked(tmp_path, kind, 60), np.random.default_rng(3)
    promoted = 0
    for _ in range(20):
        order = random.permutation(len(asked.items))
        moved = {item.id: _gold(asked.items[place]) for item, place in zip(asked.items, order)}
        answers = _answers(asked, lambda item, moved=moved: moved[item.id])  # type: ignore[misc]
        promoted += not _faults(asked, answers, _answers(asked, _wrong))
    assert promoted <= 2


def test_below_its_start_it_is_no_champion(tmp_path: Path) -> None:
    asked = _asked(tmp_path, "incidents", 20)
    good, bad = _answers(asked, _gold), _answers(asked, _wrong)
    assert _faults(asked, good, bad, gain_over_start={"f1": -0.6}) == (
        "below its start alone: -0.6 F1"
    )


def test_a_fault_or_too_few_passages_make_a_challenger() -> None:
    won = Comparison("x", 3.0, 0.1, 6.0, 0.01)
    assert won.alias == "champion" and won.describe() == "+3.0 F1 [+0.1, +6.0] against x"
    assert Comparison("x", 3.0, 0.0, 6.0).alias == "challenger"
    few = Comparison("x", 3.0, 0.1, 6.0, 0.0625)
    assert few.alias == "challenger" and "p 0.062 when answers are exchanged" in few.describe()
    faulty = Comparison("x", 3.0, 0.1, 6.0, faults=("it answers with one class only",))
    assert faulty.alias == "challenger"
    assert faulty.describe() == "+3.0 F1 [+0.1, +6.0] against x; it answers with one class only"


def test_what_leaked_is_told() -> None:
    told = {"rows_kept": 300, "dropped": {"in_evaluation": 2}, "in_evaluation": 14}
    assert describe_leak(told).startswith("12 of 300 passages of the corpus are also in the eval")
    for clean in ({"in_evaluation": 2}, {"in_evaluation": None}):
        assert describe_leak(told | clean) == ""


def test_what_is_held_out_has_not_leaked() -> None:
    told = {"rows_kept": 300, "dropped": {"held_out": 3, "in_evaluation": 1}, "in_evaluation": 4}
    assert describe_leak(told) == ""
    assert describe_leak(told | {"in_evaluation": 5}).startswith("1 of 300 passages")


def test_leaked_items_are_counted_among_those_that_ingest_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is the whole file, however few of its items are asked."""
    asked = _asked(tmp_path, "incidents", 100)
    params = load_params(Path("params.yaml"))
    found = {"items": str(tmp_path / "items.jsonl"), "max_items": 20}
    params = params.model_copy(update={"evaluate": params.evaluate.model_copy(update=found)})
    few = replace(asked, items=asked.items[:20])
    write_json(tmp_path / "scores.json", {})
    write_table(tmp_path / "predictions.parquet", EVALUATIONS.empty_table())
    stage: Any = SimpleNamespace(params=params)
    stage.path = lambda name: tmp_path / ("ingest.json" if name == "ingest" else "")
    monkeypatch.setattr(champion, "find_faults", lambda *_: ())
    comparison = Comparison("x", 9.0, 4.0, 12.0)
    monkeypatch.setattr(champion, "_compare", lambda *_: comparison)
    nothing: Any = SimpleNamespace(champion=lambda _: None)
    for leaked, alias in ((5, "champion"), (6, "challenger")):
        write_json(tmp_path / "ingest.json", {"leaked_items": leaked})
        judged = champion.judge(stage, nothing, "m", nothing, few)
        assert judged.alias == alias, judged.describe()


def test_items_that_the_corpus_answers_are_a_fault() -> None:
    for leaked in (None, 0, 5):
        assert list(gate.find_leaked_items({"leaked_items": leaked}, 100)) == []
    (fault,) = gate.find_leaked_items({"leaked_items": 6}, 100)
    assert fault == "6 of 100 items are in the corpus, with their answers"
