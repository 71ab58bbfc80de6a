"""Prompt bytes and parsing: the formats of arXiv 2402.18334."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.task_types import TASK_TYPES
from tasks.lm.prompts import (
    Prompter,
    bonito_input,
    bonito_output,
    fill,
    generator_prompt,
    parse_prediction,
    prompt_form,
    trained_form,
)
from tasks.lm.tokenizers import load_tokenizer
from tests.conftest import make_sentencepiece_model


@pytest.mark.parametrize(
    ("short", "full"), [(name, kind.full_name) for name, kind in TASK_TYPES.items()]
)
def test_bonito_input_names_the_full_task_type(short: str, full: str) -> None:
    assert (
        bonito_input("A passage.", short)
        == f"<|tasktype|>\n{full}\n<|context|>\nA passage.\n<|task|>\n"
    )


def test_output_and_parsing_are_inverses() -> None:
    task = parse_prediction(bonito_output("{{context}}\nWhy?", "because"))
    assert (task.instruction, task.response, task.reason) == ("{{context}}\nWhy?", "because", "")


@pytest.mark.parametrize(
    ("prediction", "finished", "reason"),
    [
        ("no mark at all", True, "no_pipe"),
        ("no mark at all", False, "truncated"),
        ("a\n<|pipe|>\nb<|pipe|>c", True, "many_pipes"),
        ("\n<|pipe|>\nyes", True, "empty_instruction"),
        ("Why?\n<|pipe|>\n ", True, "empty_response"),
        ("Why?\n<|pipe|>\nbecause the", False, "truncated"),
    ],
)
def test_every_unusable_prediction_has_a_reason(
    prediction: str, finished: bool, reason: str
) -> None:
    assert parse_prediction(prediction, finished).reason == reason


def test_fill_takes_any_spacing_and_leaves_the_passage_alone() -> None:
    assert (
        fill("{{context}} {{ context }} {{  context}}", r"a\1b {{x}}")
        == r"a\1b {{x}} a\1b {{x}} a\1b {{x}}"
    )


def test_forms(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    assert prompt_form(tokenizer, "auto", adapted=True) == "chat"
    assert prompt_form(tokenizer, "bonito", adapted=False) == "chat", (
        "a chat model as it came is asked by its own template"
    )
    assert prompt_form(tokenizer, "bonito", adapted=True) == "bonito"
    tokenizer.chat_template = None
    assert (
        prompt_form(tokenizer, "auto", adapted=True),
        prompt_form(tokenizer, "auto", adapted=False),
    ) == ("bonito", "pretrained")
    assert prompt_form(tokenizer, "bonito", adapted=False) == "pretrained", (
        "the paper's zero-shot form of a pretrained model"
    )
    assert Prompter(tokenizer, "bonito").text("Why?") == "<|input|>\nWhy?\n<|output|>\n"
    assert Prompter(tokenizer, "pretrained").text("Why?") == "Instruct: Why?\nAnswer:"


def test_prompt_starts_with_bos_once_and_response_ends_with_eos(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    for form in ("bonito", "chat", "pretrained"):
        ids = Prompter(tokenizer, form).prompt("Why did it fail?")
        assert ids.count(tokenizer.bos_token_id) - ids[1:].count(tokenizer.bos_token_id) == 1
    assert Prompter(tokenizer, "chat").response("yes")[-1] == tokenizer.eos_token_id


def test_a_long_instruction_loses_its_middle_not_its_question(tiny_model: Path) -> None:
    prompter = Prompter(load_tokenizer(str(tiny_model)), "bonito")
    ids = prompter.prompt("Start. " + "filler " * 400 + "Question: Why?", max_tokens=64)
    text = prompter.tokenizer.decode(ids)
    assert (
        len(ids) <= 64
        and "Start." in text
        and "Question: Why?" in text
        and text.endswith("<|output|>\n")
    )


def test_a_limit_that_the_prompts_own_marks_fill_is_refused(tiny_model: Path) -> None:
    prompter = Prompter(load_tokenizer(str(tiny_model)), "bonito")
    text = "filler " * 400
    words = prompter.tokenizer.encode(text, add_special_tokens=False)
    marks = len(prompter.prompt(text)) - len(words)
    with pytest.raises(PipelineError, match=f"finetune.max_prompt_tokens is {marks + 8}, and"):
        prompter.prompt(text, max_tokens=marks + 8)
    assert len(prompter.prompt(text, max_tokens=marks + 9)) <= marks + 9


@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_the_generator_gets_the_tokens_that_the_authors_engine_makes_of_the_text(
    tmp_path: Path, model_type: str
) -> None:
    """It gives the text to the tokenizer; a published Llama's or Mistral's puts the BOS in front."""
    tokenizer = load_tokenizer(str(make_sentencepiece_model(tmp_path / "model", model_type)))
    ids = generator_prompt(tokenizer, "  A passage.\n", "nli")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    text = "<|tasktype|>\nnatural language inference\n<|context|>\nA passage.\n<|task|>\n"
    assert ids == tokenizer(text)["input_ids"]
    assert generator_prompt(tokenizer, "A passage.", "nli") == ids, "no BOS of the tokenizer's too"


@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_an_answer_after_a_pretrained_prompt_begins_with_one_space(
    tmp_path: Path, model_type: str
) -> None:
    """SentencePiece puts it there itself: with ours it would be two, which no text has."""
    tokenizer = load_tokenizer(str(make_sentencepiece_model(tmp_path / "model", model_type)))
    prompter = Prompter(tokenizer, "pretrained")
    whole = tokenizer.encode(prompter.text("Why?") + " yes", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(prompter.response("yes")) == ["▁yes", "</s>"]
    assert [*prompter.prompt("Why?")[1:], *prompter.response("yes")[:-1]] == whole


def test_a_byte_level_tokenizer_gets_the_space_from_us(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    assert tokenizer.decode(Prompter(tokenizer, "pretrained").response("yes")[:-1]) == " yes"


def test_a_tokenizer_model_that_is_read_wrong_is_refused(tmp_path: Path) -> None:
    """Without tokenizer.json transformers leaves out the first space for some model types."""
    folder = make_sentencepiece_model(tmp_path / "mistral", "mistral", fast=False)
    with pytest.raises(PipelineError, match=r"no tokenizer\.json, .* put the model's tokenizer"):
        load_tokenizer(str(folder))
    right = load_tokenizer(str(make_sentencepiece_model(tmp_path / "llama", "llama", fast=False)))
    assert right.tokenize("yes no") == ["▁yes", "▁no"]


def test_a_prompt_is_the_same_on_every_day(tiny_model: Path) -> None:
    """Llama 3.2 and others put the date of the day before every conversation."""
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}"
    assert Prompter(tokenizer, "chat").text("Why?") == "26 Jul 2024 Why?"


def test_an_adapter_whose_provenance_names_no_form_is_asked_as_it_would_be_trained(
    tiny_model: Path, tmp_path: Path
) -> None:
    """So is the generator's, which models/ has."""
    tokenizer = load_tokenizer(str(tiny_model))
    assert trained_form(tmp_path, tokenizer, "auto") == "chat"
    write_json(tmp_path / "provenance.json", {"base": str(tiny_model)})
    assert trained_form(tmp_path, tokenizer, "auto") == "chat"
    write_json(tmp_path / "provenance.json", {"prompt": "bonito"})
    assert trained_form(tmp_path, tokenizer, "auto") == "bonito"
