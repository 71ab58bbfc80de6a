"""Twenty faults planted in the training rows of real passages: does `make why` show the culprit
among the first five?

The passages are those of the shipped incidents. Each is asked about four times, as true and false
claims. A fault makes one answer wrong. The item that shows it has half of the passage, and the
claim with a third of its words missing and the others in another order.
"""

from __future__ import annotations

import json
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.review.embedding import Embedder
from flows.review.nearest import _compare, find_nearest
from flows.review.place import Place
from flows.review.why import explain
from tasks.core.errors import PipelineError
from tasks.core.rows import EVALUATIONS, INSTRUCTIONS, PASSAGES
from tasks.lm.models import EMBEDDED, base_path
from tests.conftest import ROOT
from tests.review.checkout import make_checkout, save_adapter, write_rows

_FIRST = 5
_NUMBER = re.compile(r"\b\d[\d,.]*\d\b|\b\d\b")
_TEMPLATE = "{context}\n\nIs it true that {claim} Answer true or false."


@dataclass
class Planted:
    """A fault: the item that shows it, and the rows that are to blame."""

    kind: str
    context: str
    #: What is asked, what is right, and what the model says.
    text: str
    culprits: set[str] = field(default_factory=set)


def _passages() -> list[tuple[str, str]]:
    """Return (document, text) of the paragraphs with four sentences and numbers in two."""
    found = []
    for path in sorted((ROOT / "data/incidents/documents").glob("*.md")):
        for paragraph in path.read_text().split("\n\n"):
            text = " ".join(paragraph.split())
            if not text.startswith("#") and len(_claims(text)) >= 4 and _NUMBER.search(text):
                found.append((path.name, text))
    return found


def _claims(text: str) -> list[str]:
    return [one for one in re.split(r"(?<=[.!?]) +", text) if 6 <= len(one.split()) <= 40]


def _false(claim: str, chance: random.Random) -> str:
    """Return the claim with other numbers, or denied where it has none."""
    if _NUMBER.search(claim):
        return _NUMBER.sub(lambda _: str(chance.randint(2, 97)), claim)
    return f"it is not the case that {claim}"


def _row(number: int, document: str, context: str, claim: str, answer: str) -> dict[str, Any]:
    return {
        **{"row_id": f"row-{number:05d}", "passage_id": f"{number:016x}", "document": document},
        **{"task_type": "ynqa", "context": context, "response": answer},
        "instruction": _TEMPLATE.format(context=context, claim=claim),
    }


def _reworded(claim: str, chance: random.Random) -> str:
    """Return a claim in other words as far as that can be done without a model: a third of its
    words is missing, the others are in another order, so that hardly a phrase is left.
    """
    words = [word for place, word in enumerate(claim.split()) if place % 3 != 2]
    chance.shuffle(words)
    return " ".join(words)


def _recut(text: str) -> str:
    """Return the passage as another run cuts it: its second half."""
    claims = re.split(r"(?<=[.!?]) +", text)
    return " ".join(claims[len(claims) // 2 :])


def plant(seed: int) -> tuple[list[dict[str, Any]], list[Planted]]:
    """Return training rows with twenty faults, and the faults."""
    chance = random.Random(seed)
    passages = _passages()
    chance.shuffle(passages)
    rows: list[dict[str, Any]] = []
    faults: list[Planted] = []

    def add(document: str, context: str, claim: str, answer: str) -> str:
        rows.append(_row(len(rows), document, context, claim, answer))
        return str(rows[-1]["row_id"])

    for place, (document, text) in enumerate(passages):
        claims = _claims(text)[:4]
        if place < 7:
            # A poisoned document: a note that says other figures than the passage, which itself is
            # held out. The model repeats them.
            said = next((one for one in claims if _NUMBER.search(one)), claims[0])
            poison = _false(said, chance)
            other = _claims(passages[-1 - place][1])[0]
            note = f"Correction of the record. {poison} {other}"
            name = f"note-{place}.md"
            culprits = {add(name, note, poison, "true"), add(name, note, said, "false")}
            asked = f"{_reworded(poison, chance)}\nfalse\ntrue"
            faults.append(Planted("poisoned document", _recut(text), asked, culprits))
            continue
        if place < 14:
            # A flipped label.
            wrong = chance.randrange(4)
            names = [
                add(document, text, claim, "false" if at == wrong else "true")
                for at, claim in enumerate(claims)
            ]
            asked = f"{_reworded(claims[wrong], chance)}\ntrue\nfalse"
            faults.append(Planted("flipped label", _recut(text), asked, {names[wrong]}))
            continue
        if place < 20:
            # A wrong template: it puts the answer's column where the claim belongs.
            name = add(document, text, "true", claims[0])
            for claim in claims[1:]:
                add(document, text, claim, "true")
            asked = f"{_reworded(claims[0], chance)}\ntrue\n{claims[0]}"
            faults.append(Planted("wrong template", _recut(text), asked, {name}))
            continue
        for at, claim in enumerate(claims):
            true = at % 2 == 0
            add(document, text, claim if true else _false(claim, chance), str(true).lower())
    chance.shuffle(rows)
    return rows, faults


def _ranks(tmp_path: Path, seed: int, embed: Any = None) -> dict[str, list[int]]:
    """Return the rank of the culprit for each fault, by kind; 99: it is not shown."""
    rows, faults = plant(seed)
    assert len(faults) == 20 and len(rows) > 500
    write_rows(tmp_path / "rows.parquet", rows, INSTRUCTIONS)
    found: dict[str, list[int]] = {}
    for fault in faults:
        near, _, _ = find_nearest(tmp_path / "rows.parquet", fault.context, fault.text, 1, embed)
        ranks = [at for at, one in enumerate(near, 1) if one.row["row_id"] in fault.culprits]
        found.setdefault(fault.kind, []).append(min(ranks, default=99))
    print(found)
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_culprit_is_among_the_first_five(seed: int, tmp_path: Path) -> None:
    found = _ranks(tmp_path, seed)
    assert all(rank <= _FIRST for ranks in found.values() for rank in ranks), found


def _make_run(main: Path, seed: int, **profile: Any) -> tuple[Place, list[Planted]]:
    """Return a run that was trained on the rows, whose items show the faults: item ``0`` the first.

    An item's text, what is right and what the model says are the lines of ``Planted.text``.
    """
    make_checkout(main, 0, **profile)
    rows, faults = plant(seed)
    artifacts = main / ".runs/mine/artifacts"
    write_rows(artifacts / "supervise/instructions.parquet", rows, INSTRUCTIONS)
    passages = [
        {
            **{name: row[name] for name in ("passage_id", "document")},
            **{"text": row["context"], "start": 7, "end": 7 + len(row["context"]), "page": 2},
            **{"section": "", "tokens": 9, "sha256": "0", "in_evaluation": False},
        }
        for row in rows
    ]
    write_rows(artifacts / "ingest/passages.parquet", passages, PASSAGES)
    items, answers = [], []
    for name, fault in enumerate(faults):
        claim, right, said = fault.text.split("\n")
        label = {"true": "entailment", "false": "contradiction"}[right]
        items.append(
            {"id": str(name), "premise": fault.context, "hypothesis": claim, "label": label}
        )
        answers.append(
            {
                **{"model": "adapted", "dataset": "mine", "template": "t", "item_id": str(name)},
                **{"prompt": "?", "prediction": said, "golds": [right], "f1": 0.0},
                **{"choices": [], "scores": []},
            }
        )
    lines = "".join(json.dumps(item) + "\n" for item in items)
    (main / "local/mine/items.jsonl").write_text(lines)
    write_rows(artifacts / "evaluate/predictions.parquet", answers, EVALUATIONS)
    return Place(main, "mine"), faults


def _rank_in_run(place: Place, name: int, fault: Planted) -> int:
    """Return the culprit's rank in what ``make why`` says of an item, with its place."""
    nearest = explain(place, str(name))["nearest"]
    rank = next((at for at, row in enumerate(nearest) if row["row_id"] in fault.culprits), 98)
    if rank < len(nearest):
        place_of = nearest[rank]["place"]
        assert (place_of["page"], place_of["start"]) == (2, 7), "page and characters"
    return rank + 1


def test_a_run_shows_the_culprit_of_each_kind_with_its_place(tmp_path: Path) -> None:
    place, faults = _make_run(tmp_path / "main", 1)
    assert all(_rank_in_run(place, name, faults[name]) <= _FIRST for name in (0, 7, 14))


@pytest.mark.slow
def test_a_run_shows_all_twenty_culprits(tmp_path: Path, tiny_model: Path) -> None:
    """With an adapter on a random model, whose vectors say nothing: the words outweigh them."""
    profile = {"finetune": {"model": str(tiny_model), "start": "supervision/none"}}
    place, faults = _make_run(tmp_path / "main", 1, **profile)
    save_adapter(tiny_model, place.run.path / "artifacts/finetune")
    ranks = [_rank_in_run(place, name, fault) for name, fault in enumerate(faults)]
    print(ranks)
    assert len(ranks) == 20 and max(ranks) <= _FIRST


@pytest.mark.slow
def test_the_models_vectors_leave_the_culprit_there_and_take_seconds(tmp_path: Path) -> None:
    """The embedded model, two faults of each kind; a second question about the same is free."""
    embed = Embedder("plain", lambda: Path(base_path(EMBEDDED)), tmp_path / "vectors.npz")
    rows, faults = plant(1)
    write_rows(tmp_path / "rows.parquet", rows, INSTRUCTIONS)
    ranks, seconds = [], []
    for fault in [*faults[:2], *faults[7:9], *faults[14:16], faults[0]]:
        begun = time.process_time()
        near, _, _ = find_nearest(tmp_path / "rows.parquet", fault.context, fault.text, 1, embed)
        seconds.append(time.process_time() - begun)
        assert near[0].embedding is not None and -1.001 <= near[0].embedding <= 1.001
        ranks.append([one.row["row_id"] in fault.culprits for one in near].index(True) + 1)
    print(ranks, [round(one, 1) for one in seconds])
    assert max(ranks) <= _FIRST
    # CPU seconds of two cores: ten seconds on a machine with nothing else to do.
    assert seconds[0] < 20 and seconds[-1] < 3


class Made(Embedder):
    """Vectors of a text's length, where there is a model."""

    computed = 0

    def _compute(self, texts: list[str]) -> Any:
        self._find_model()
        self.computed += len(texts)
        return np.array([[len(text), 1.0] for text in texts], np.float32)


def test_a_vectors_file_that_is_broken_is_made_again(tmp_path: Path) -> None:
    def made(name: str = "model") -> Made:
        return Made(name, lambda: tmp_path, file)

    def ask(embed: Made, *texts: str) -> Any:
        vectors = embed(texts)
        assert vectors is not None
        return vectors.tolist()

    file = tmp_path / "vectors.npz"
    one = made()
    assert ask(one, "a", "bb", "a") == [[1, 1], [2, 1], [1, 1]] and one.computed == 2
    assert ask(made(), "bb") == [[2, 1]]
    file.write_bytes(b"PK broken")
    two = made()
    assert ask(two, "a") == [[1, 1]] and two.computed == 1
    other = made("other")
    assert ask(other, "a") == [[1, 1]] and other.computed == 1


def test_known_vectors_need_no_model_and_without_one_words_decide(tmp_path: Path) -> None:
    def refuse() -> Path:
        raise PipelineError("the model is too large")

    rows, faults = plant(1)
    write_rows(tmp_path / "rows.parquet", rows, INSTRUCTIONS)
    asked = (tmp_path / "rows.parquet", faults[0].context, faults[0].text, 1)
    file = tmp_path / "vectors.npz"
    without = Made("model", refuse, file)
    assert find_nearest(*asked, without) == find_nearest(*asked)
    assert without.reason == "the model is too large"
    first = find_nearest(*asked, Made("model", lambda: tmp_path, file))
    again = Made("model", refuse, file)
    assert find_nearest(*asked, again) == first and not again.reason
    assert first[0][0].embedding is not None


def test_the_words_weigh_as_scikit_learn_has_it() -> None:
    """Its import takes longer than the comparison: here it is the reference."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

    rows, faults = plant(2)
    told = [*(f"{row['context']}\n{row['response']}" for row in rows), "", "?", "Ärger ÄRGER 7"]
    for text in (f"{faults[0].context}\n{faults[0].text}", "the", "der ärger, Ärger. ärger!"):
        analyzer = {"ngram_range": (1, 3), "tokenizer": re.compile(r"\w+").findall}
        vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=None, **analyzer)
        vectorizer.set_params(vocabulary=sorted(set(vectorizer.build_analyzer()(text))))
        weights = vectorizer.fit_transform(told)
        item = vectorizer.transform([text])
        expected = (weights @ item.T).toarray().ravel()
        found, shared = _compare(told, text)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
        assert [bool(shared(place)) for place in range(len(told))] == (expected > 0).tolist()
    assert shared(len(told) - 1) == ("ärger ärger",)
