"""An evaluation prompt that the target model has no positions for is refused by the first stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from tasks.core.errors import PipelineError
from tasks.core.params import Params, load_params
from tasks.ingest import stage as ingest
from tasks.lm.models import count_positions
from tasks.lm.prompts import Prompter
from tasks.lm.tokenizers import load_tokenizer
from tasks.scoring import lengths
from tasks.scoring.datasets import load_dataset, load_items, render
from tests.conftest import ROOT

Make = Callable[..., Path]
#: Positions of the tiny model.
_POSITIONS = 1024


@pytest.fixture
def make(make_params: Any, tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> Make:
    """Return a function that writes the parameters of a run on the tiny model, with one short item
    and one whose passage has ``words`` words.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))

    def call(words: int, dataset: str = "incidents", **evaluate: Any) -> Path:
        rows = [
            {
                "id": name,
                "context": " ".join(["seal"] * count),
                "question": "Why?",
                "answers": ["seal"],
                "answer": "yes",
            }
            for name, count in (("short", 3), ("long", words))
        ]
        Path("items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tiny = {"model": str(tiny_model), "start": "supervision/none", "precision": "float32"}
        asked = {"dataset": str(ROOT / f"datasets/{dataset}.yaml"), "items": "items.jsonl"}
        path: Path = make_params(
            ingest={"corpus": "documents"},
            generate={"generator": str(tiny_model), "precision": "float32"},
            verify={"reader": "none"},
            finetune=tiny,
            evaluate=asked | evaluate,
        )
        return path

    return call


def _room(params: Params) -> int:
    """Return how many tokens the model still has positions for, after the longest prompt and an
    answer of ``max_new_tokens``.
    """
    dataset = load_dataset(Path(params.evaluate.dataset))
    items = load_items(dataset, Path(params.evaluate.items))
    prompter = Prompter(load_tokenizer(params.finetune.model), "chat")
    prompts = [
        prompter.prompt(render(template, item)) for template in dataset.templates for item in items
    ]
    return _POSITIONS - params.evaluate.max_new_tokens - max(map(len, prompts))


def test_a_prompt_that_just_fits_is_taken_and_one_more_word_is_refused(make: Make) -> None:
    words = 400
    for _ in range(3):  # a word is one token or two
        words += _room(load_params(make(words))) // 2
    while _room(load_params(make(words + 1))) >= 0:
        words += 1
    lengths.check_lengths(load_params(make(words)))
    line = r"^evaluate\.items, item 'long': template '.*' makes a prompt of \d,?\d+ tokens, and "
    with pytest.raises(PipelineError, match=line) as refused:
        lengths.check_lengths(load_params(make(words + 1)))
    assert "has positions for 1,024, 25 of them for the answer" in str(refused.value)
    assert "shorten its passage" in str(refused.value)


def test_the_first_stage_of_a_run_refuses_it_before_any_work(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_STAGE", "ingest")
    assert ingest.main(["--params", str(make(1200)), "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ingest: evaluate.items, item 'long': ") and "1 item" not in line
    assert not Path("out").exists()


def test_only_what_is_asked_counts(make: Make) -> None:
    lengths.check_lengths(load_params(make(1200, items=str(ROOT / "supervision/none"))))
    for seed in range(4):
        params = load_params(make(1200, max_items=1, seed=seed))
        (asked,) = load_items(
            load_dataset(ROOT / "datasets/incidents.yaml"), Path("items.jsonl"), 1, seed
        )
        if asked.id == "short":
            lengths.check_lengths(params)
        else:
            with pytest.raises(PipelineError):
                lengths.check_lengths(params)


def test_choices_are_part_of_what_a_classifier_reads(make: Make) -> None:
    with pytest.raises(PipelineError, match=r"item 'long'.* of them for the answer"):
        lengths.check_lengths(load_params(make(1200, dataset="privacy")))
    lengths.check_lengths(load_params(make(200, dataset="privacy")))


def test_short_items_are_measured_without_a_tokenizer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lengths, "load_tokenizer", None)
    lengths.check_lengths(load_params(make(20)))


def test_gpt_2_has_another_name_for_its_positions(tmp_path: Path) -> None:
    """Its positions are rows of a matrix: a longer prompt ends the scoring with an index error."""
    GPT2LMHeadModel(GPT2Config(n_positions=96, n_embd=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path
    )
    assert count_positions(str(tmp_path)) == 96
