"""What the benches measure on: labelled items of data/, chosen by a fixed seed, and the model, in a
folder that every contender can load.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, BenchOptions
from tasks.core.errors import PipelineError
from tasks.lm.models import EMBEDDED, base_path
from tasks.lm.prompts import Prompter, prompt_form
from tasks.lm.tokenizers import load_tokenizer
from tasks.scoring.datasets import load_dataset, load_items, render

SEED = 1
#: Folders of data/, the shipped example's first.
DOMAINS = ("incidents", "contracts", "privacy")


def model_folder(options: BenchOptions) -> str:
    """Return where the model's weights are: what ``--model`` names; for a quick run without one a
    random model of two layers.
    """
    if options.quick and options.model == EMBEDDED:
        return str(_tiny_model(options.work / "tiny"))
    return base_path(options.model)


def data_folder(name: str = "") -> Path:
    """Return data/, or a folder of it."""
    folder = ROOT / "data" / name
    if not folder.is_dir():
        raise PipelineError(f"{folder} is missing: make data")
    return folder


def questions(name: str, passages: int) -> list[dict[str, Any]]:
    """Return the items of ``passages`` passages of a dataset, each with all its questions as in the
    whole file, under every template.

    Each has instruction, choices and response (the gold answer); they come template by template, as
    the pipeline asks them.
    """
    path = data_folder(name) / "evaluation.jsonl"
    dataset = load_dataset(ROOT / "datasets" / f"{name}.yaml")
    items = load_items(dataset, path)
    contexts = list(dict.fromkeys(item.context for item in items))
    chosen = set(random.Random(SEED).sample(contexts, min(passages, len(contexts))))
    return [
        {
            "instruction": render(template, item),
            "choices": list(template.choices),
            "response": template.choices[item.gold] if dataset.classifies else item.golds[0],
        }
        for template in dataset.templates
        for item in items
        if item.context in chosen
    ]


def prompter_of(folder: str, adapted: bool = False) -> Prompter:
    """Return the prompter of a model, before adaptation or for it."""
    tokenizer = load_tokenizer(folder)
    return Prompter(tokenizer, prompt_form(tokenizer, "auto", adapted))


def _tiny_model(folder: Path) -> Path:
    if not (folder / "model.safetensors").is_file():
        from transformers import LlamaConfig, LlamaForCausalLM, set_seed

        tokenizer = load_tokenizer(EMBEDDED)
        set_seed(SEED)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder
