"""Which examples the stage finetune makes of its rows, and in which prompt form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.core.files import read_json
from tasks.core.params import Params
from tasks.core.parquet import write_table
from tasks.finetune import stage as finetune
from tasks.lm.examples import (
    Example,
    build_examples,
    text_examples,
    tokens_trained,
    training_order,
)
from tasks.lm.prompts import Prompter, choose_form
from tasks.lm.tokenizers import load_tokenizer
from tasks.lm.training_set import TrainingSet
from tests.conftest import instruction_table


def test_a_token_budget_takes_as_many_passes_as_it_needs_and_is_met(params: Params) -> None:
    lengths = [10 + number for number in range(20)]
    for budget in (50, 390, 2000):
        order = training_order(lengths, params.finetune.model_copy(update={"max_tokens": budget}))
        assert budget <= sum(lengths[place] for place in order) < budget + max(lengths)
    examples = [Example(list(range(length - 2)), [1, 2]) for length in lengths]
    settings = params.finetune.model_copy(update={"max_tokens": 500, "batch_rows": 4})
    assert 500 <= tokens_trained(examples, settings, 10**6) < 500 + max(lengths)
    assert tokens_trained(examples, settings, 1) == sum(
        lengths[place] for place in training_order(lengths, settings)[:4]
    )


def test_raw_text_is_trained_on_whole_and_in_pieces(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    text = "The pump failed at noon because the seal broke. " * 8
    ids = tokenizer.encode(text.strip(), add_special_tokens=False)
    pieces = text_examples(tokenizer, text, 16)
    assert [token for piece in pieces for token in (*piece.prompt, *piece.response)] == ids and all(
        len(piece.prompt) == 1 for piece in pieces
    )
    tokenizer.chat_template = None
    assert text_examples(tokenizer, text, 16)[0].prompt == [tokenizer.bos_token_id]


def test_instructions_and_raw_text_of_a_mix_are_trained_on_together(
    tiny_model: Path, params: Params
) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    text = "The pump failed at noon."
    rows = [{"instruction": "Why?", "response": "A seal."}, {"instruction": "", "response": text}]
    prompter = Prompter(tokenizer, choose_form(tokenizer, params.finetune, rows, None))
    built = build_examples(rows, prompter, params.finetune)
    assert [len(example.prompt) > 1 for example in built.examples] == [True, False]
    assert built.places == [0, 1] and built.dropped.total() == 0


def test_a_shortened_prompt_is_counted_and_one_without_its_answer_is_left_out(
    tiny_model: Path, params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    middle = "The seal broke at the flange. "
    long = "The pump failed at noon. " * 20 + middle + "The valve held all day. " * 20
    row = {"row_id": "row-1", "task_type": "exqa", "instruction": f"{long}\n\nWhat broke?"}
    rows = [
        {**row, "response": "the  seal"},
        {**row, "response": "The pump"},
        {**row, "task_type": "summarization", "response": "The seal broke."},
        {**row, "instruction": f"{middle}\n\nWhat broke?", "response": "the seal"},
        {**row, "response": "a seal that no text has"},
    ]
    settings = params.finetune.model_copy(
        update={"model": str(tiny_model), "max_prompt_tokens": 60}
    )
    training = TrainingSet.of(lambda: rows, settings, None)
    assert training.dropped == {"answer_cut_out": 1} and training.built.shortened == 3
    assert training.built.places == [1, 2, 3, 4]
    assert all(len(example.prompt) <= 60 for example in training.examples)
    assert "of 3 instructions; 1 more rows lose their answer by it" in caplog.text
    assert caplog.text.strip().endswith("row-1")


def test_prompt_forms_follow_what_the_model_has_seen(
    tiny_model: Path, params: Params, tmp_path: Path
) -> None:
    tokenizer, settings = load_tokenizer(str(tiny_model)), params.finetune
    text, task = [{"instruction": ""}], [{"instruction": "Why?"}]
    assert (
        choose_form(tokenizer, settings, text, None)
        == choose_form(tokenizer, settings, task, None)
        == choose_form(tokenizer, settings, text + task, None)
        == "chat"
    )
    tokenizer.chat_template = None
    assert choose_form(tokenizer, settings, text, None) == "pretrained", (
        "TAPT on a pretrained model is asked as the model was before"
    )
    assert (
        choose_form(tokenizer, settings, task, None)
        == choose_form(tokenizer, settings, text + task, None)
        == "bonito"
    )
    (tmp_path / "provenance.json").write_text('{"prompt": "bonito"}')
    assert choose_form(tokenizer, settings, text, tmp_path) == "bonito", (
        "P3, then TAPT: it has learnt the form"
    )


def test_of_many_rows_only_what_the_steps_can_take_is_tokenised(
    finetuned: Any, params: Params, instructions: Path
) -> None:
    table = instruction_table(40)
    few = params.finetune.model_copy(update={"max_steps": 3, "batch_rows": 4, "epochs": 1.0})
    write_table(instructions, table)
    places = np.arange(40)

    def chosen(**changes: Any) -> list[int]:
        settings = few.model_copy(update=changes)
        return list(finetune.choose_rows(instructions, places, settings))

    assert len(set(chosen())) == 24
    assert chosen() == sorted(chosen()), "the seed alone decides, and the order is the file's"
    assert len(chosen(epochs=0.5)) == 40, "half an epoch needs twice the rows"
    for all_of_them in ({"max_steps": 0}, {"max_tokens": 100}, {"max_steps": 5}):
        assert chosen(**all_of_them) == places.tolist()
    finetuned("incidents", max_steps=2)
    told = read_json(Path("artifacts/finetune/summary.json"))
    assert told["rows_in"] == 40 and told["rows_kept"] == 8 and told["steps"] == 2
    assert told["dropped"] == {"beyond_max_steps": 32}


def test_long_responses_are_left_out_and_counted(finetuned: Any, capsys: Any) -> None:
    with pytest.raises(AssertionError):
        finetuned("incidents", max_response_tokens=1)
    assert "no row of" in capsys.readouterr().err and not Path("artifacts/finetune").exists()
