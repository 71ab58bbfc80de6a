"""Mistral's architecture through every path that has a model, on a CPU, tiny: grouped queries, a
sliding window shorter than the prompts, and a SentencePiece tokenizer of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import MistralConfig, MistralForCausalLM, set_seed

from tasks.core.files import read_json
from tasks.core.params import load_params
from tasks.core.parquet import read_table, write_table
from tasks.core.stage import Stage
from tasks.generate import stage as generate
from tasks.lm.loading import load_model
from tasks.lm.merged import merged_folder
from tasks.lm.tokenizers import load_tokenizer
from tasks.register.parity import check_parity
from tests.conftest import make_sentencepiece_model, passage_table
from tests.lm.test_memory import _score
from tests.registered import finetune_tiny

_WINDOW = 16


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_sentencepiece_model(tmp_path_factory.mktemp("mistral") / "model", "mistral")
    set_seed(0)
    config = MistralConfig(
        vocab_size=335,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        sliding_window=_WINDOW,
        bos_token_id=1,
        eos_token_id=2,
    )
    MistralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["privacy", pytest.param("incidents", marks=pytest.mark.slow)])
def test_a_tiny_mistral_goes_all_the_way(
    kind: str,
    workplace: Path,
    make_params: Any,
    tiny_mistral: Path,
    instructions: Path,
) -> None:
    """Q-LoRA, merge, zero-shot and adapted scores (ranked, or greedy), parity, generation."""
    # The profile's shape of a training: 4 bits at rest, checkpointed activations.
    shape = {"resident": "nf4", "gradient_checkpointing": True, "micro_batch_rows": 2}
    params = finetune_tiny(
        make_params, tiny_mistral, instructions, kind, learning_rate=0.02, max_steps=6, **shape
    )
    provenance = read_json(Path("artifacts/finetune/provenance.json"))
    assert (provenance["prompt"], provenance["quantization"]) == ("bonito", "nf4")
    weights = load_file("artifacts/finetune/adapter_model.safetensors")
    assert len(weights) == 2 * 2 * 7, "two matrices on each of two layers' seven"
    losses = [
        float(line.split(",")[1])
        for line in Path("artifacts/finetune/loss.csv").read_text().split()[1:]
    ]
    assert losses[-1] < losses[0]
    four_bits = load_model(str(tiny_mistral), quantization="nf4", precision="float32")
    packed = [part for part in four_bits.parameters() if part.dtype == torch.uint8]
    assert len(packed) == 14, "every linear layer but the head"
    _score(params)
    rows = read_table(Path("artifacts/evaluate/predictions.parquet")).to_pylist()
    tokenizer = load_tokenizer(str(tiny_mistral))
    assert all(len(tokenizer.encode(row["prompt"])) > _WINDOW for row in rows)
    assert {row["prompt"][:9] for row in rows if row["model"] == "adapted"} == {"<|input|>"}
    assert all(row["prompt"].startswith("Instruct:") for row in rows if row["model"] == "zero_shot")
    assert len({tuple(row["scores"]) for row in rows}) > 6 or kind == "incidents"
    found = load_params(params)
    inputs = {name: Path("artifacts") / name for name in ("finetune", "evaluate")}
    stage = Stage("register", found, inputs, workplace / "out", workplace / "work")
    parity = check_parity(stage)
    assert (parity.items, parity.served) == (6, 6) and parity.trained >= 5, parity.describe()
    merged = merged_folder(
        str(tiny_mistral), "main", Path("artifacts/finetune"), "nf4", provenance["precision"]
    )
    assert read_json(merged / "config.json")["sliding_window"] == _WINDOW
    write_table(Path("passages.parquet"), passage_table(3))
    as_generator = make_params(
        generate={
            "generator": "artifacts/finetune",
            "engine": "transformers",
            "precision": "float32",
            "max_tokens": 8,
            "samples": 1,
        }
    )
    command = ["--params", str(as_generator), "--passages", "passages.parquet", "--out", "written"]
    assert generate.main(command) == 0
    written = read_table(Path("written/predictions.parquet")).to_pylist()
    assert len(written) == 3 and all(row["output_tokens"] > 0 for row in written)
    assert all(row["prompt_tokens"] > _WINDOW for row in written)
