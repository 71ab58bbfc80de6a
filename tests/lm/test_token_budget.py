"""A training with a token budget makes token ids of few rows and is the same training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.core.files import sha256_file
from tasks.core.params import Params
from tasks.core.sections.finetune import Finetune
from tasks.lm import training_set
from tasks.lm.examples import Built, build_examples
from tasks.lm.prompts import Prompter
from tasks.lm.token_budget import build_within_budget
from tasks.lm.tokenizers import load_tokenizer
from tasks.lm.training_set import TrainingSet

_ROWS = 600
_TEXT = "Pump P-{number} failed at noon because its seal broke. "


def _row(number: int) -> dict[str, Any]:
    """Return a row; of 20 one is too long in each way, and one is raw text of several examples."""
    context = _TEXT.format(number=number)
    kind, response = ("exqa", "its seal broke") if number % 4 == 0 else ("ynqa", "Yes")
    question = "Why?"
    match number % 20:
        case 3:
            response = "a long answer " * 30
        case 4:  # the answer is in the middle, which is cut out
            context, question = "Nothing. " * 80 + context, "So? " * 80
        case 5:
            context = context * 20
        case 7:
            return {
                **_named(number, "qa"),
                "context": "",
                "instruction": "",
                "response": _TEXT * 30,
            }
        case 8:  # as long, and the answer stays
            context = context + "Nothing. " * 80
    asked = f"{context}\n\n{question}"
    return {**_named(number, kind), "context": context, "instruction": asked, "response": response}


def _named(number: int, kind: str) -> dict[str, Any]:
    return {"row_id": f"row-{number}", "task_type": kind}


def _rows() -> list[dict[str, Any]]:
    return [_row(number) for number in range(_ROWS)]


class _Counting:
    """A tokenizer that counts the texts that it makes token ids of."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.texts = inner, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def encode(self, text: str, **options: Any) -> Any:
        self.texts[text] += 1
        return self.inner.encode(text, **options)


@pytest.fixture
def settings(params: Params, tiny_model: Path) -> Finetune:
    sizes = {"max_prompt_tokens": 200, "max_response_tokens": 30, "max_steps": 0}
    batches = {"batch_rows": 8, "micro_batch_rows": 8, "checkpoint_steps": 100}
    told = {"model": str(tiny_model), "precision": "float32", "max_tokens": 1_500}
    return params.finetune.model_copy(update={**sizes, **batches, **told})


def _both(settings: Finetune) -> tuple[TrainingSet, TrainingSet]:
    """Return the training on all rows as token ids, and that on those within the budget."""
    prompter = Prompter(load_tokenizer(settings.model), "bonito")
    return (
        TrainingSet(settings, prompter, build_examples(_rows(), prompter, settings), None, ""),
        TrainingSet(settings, prompter, build_within_budget(_rows, prompter, settings), None, ""),
    )


def _count_made(built: Built) -> int:
    return sum(map(bool, built.examples))


@pytest.mark.parametrize("budget", [1, 1_500, 8_000])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_rows_of_a_budget_are_those_of_all_rows(
    settings: Finetune, budget: int, seed: int
) -> None:
    settings = settings.model_copy(update={"max_tokens": budget, "seed": seed})
    whole, few = _both(settings)
    assert few.built.places == whole.built.places and few.dropped == whole.dropped
    assert set(whole.dropped) == {"response_too_long", "answer_cut_out"}
    assert few.built.cut_out == whole.built.cut_out
    steps = 10**6
    used = training_set.examples_trained(whole.examples, settings, steps)
    assert used == training_set.examples_trained(few.examples, settings, steps) != []
    assert [few.examples[index] for index in used] == [whole.examples[index] for index in used]
    assert few.rows_trained(steps) == whole.rows_trained(steps)
    assert few.left_out(steps) == whole.left_out(steps)
    known = {"tokens", "rows", "prompt", "settings"}
    trained = training_set.Trained([], steps, 0)
    told, told_of_whole = few.provenance(trained), whole.provenance(trained)
    assert {name: told[name] for name in known} == {name: told_of_whole[name] for name in known}
    assert _count_made(few.built) < _count_made(whole.built) * 2 // 3


def test_few_texts_are_made_into_tokens(settings: Finetune) -> None:
    """Beside those of the budget those alone of which nothing else tells whether they count."""
    counting = _Counting(load_tokenizer(settings.model))
    prompter = Prompter(counting, "bonito")
    rows = _rows()
    build_within_budget(lambda: rows, prompter, settings)
    prompts = {prompter.text(row["instruction"]): row for row in rows if row["instruction"]}
    asked = [prompts[text] for text in counting.texts if text in prompts]
    short = [row for row in asked if row["task_type"] == "ynqa"]
    assert 20 < len(short) < sum(row["task_type"] == "ynqa" for row in rows) // 4


def test_rows_that_fill_the_budget_hardly_twice_all_have_token_ids(settings: Finetune) -> None:
    """So has a matrix: the key of its trainings stays."""
    for budget in (40_000, 10**6):
        whole, few = _both(settings.model_copy(update={"max_tokens": budget}))
        assert list(few.examples) == list(whole.examples) and few.key == whole.key
        assert few.built.shortened == whole.built.shortened > 0


def test_a_tokenizer_with_more_tokens_than_bytes_costs_time_alone(settings: Finetune) -> None:
    class Wordy(_Counting):
        def encode(self, text: str, **options: Any) -> Any:
            ids = self.inner.encode(text, **options)
            return ids * 20 if text.strip() == "Yes" else ids

    prompter = Prompter(Wordy(load_tokenizer(settings.model)), "bonito")
    few = build_within_budget(_rows, prompter, settings)
    assert list(few.examples) == list(build_examples(_rows(), prompter, settings).examples)


def test_the_adapter_has_the_same_bytes(settings: Finetune, tmp_path: Path) -> None:
    digests = set()
    for name, training in zip(("whole", "few"), _both(settings), strict=True):
        training.train(tmp_path / name, tmp_path / f"{name}-checkpoints")
        digests.add(sha256_file(tmp_path / name / "adapter_model.safetensors"))
    assert len(digests) == 1
