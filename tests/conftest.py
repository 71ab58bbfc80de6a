"""Fixtures: a tiny random language model (the only thing faked is its knowledge), and small files
of every row type.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.files import write_table
from tasks.core.overlay import overlay
from tasks.core.params import Params, parse_params
from tasks.core.rows import INSTRUCTIONS, PASSAGES
from tasks.core.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[1]
# A shell that starts the tests in the background lets them ignore Ctrl-C, and what they start with
# them: some of that is to be stopped by it.
signal.signal(signal.SIGINT, signal.default_int_handler)
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}{% if "
    "add_generation_prompt %}<|im_start|>{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See :func:`make_tiny_model`."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def make_tiny_model(folder: Path) -> Path:
    """A two-layer random Llama with a tokenizer of its own and a chat template, saved as
    safetensors.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    tokenizer = _tokenizer()
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = [
        (
            "The pump failed at noon because the seal broke. Question: Why did it fail? "
            "Answer yes or no."
        ),
        "Instruct: <|input|> <|output|> <|pipe|>",
    ]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(words, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    fast.chat_template = _CHAT
    return fast


@pytest.fixture
def params() -> Params:
    """The embedded default."""
    return parse_params(read_yaml(ROOT / "params.yaml"), "params.yaml")


@pytest.fixture
def make_params(tmp_path: Path) -> Any:
    """Return a function that writes params.yaml with overrides to ``tmp_path`` and returns its
    path.
    """
    import yaml

    def make(**sections: dict[str, Any]) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(
            yaml.safe_dump(overlay(read_yaml(ROOT / "params.yaml"), sections)), encoding="utf-8"
        )
        return path

    return make


def passage_table(count: int) -> pa.Table:
    """Return ``count`` passages as rows.PASSAGES."""
    rows = [
        {
            "passage_id": f"{number:016x}",
            "document": f"report-{number % 3}.md",
            "page": 0,
            "section": "",
            "start": 0,
            "end": 30,
            "tokens": 12,
            "sha256": f"{number:064x}",
            "in_evaluation": False,
            "text": f"Pump P-{number} failed at {number} minutes past noon because its seal broke.",
        }
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=PASSAGES)


def instruction_table(count: int) -> pa.Table:
    """Return ``count`` training rows as rows.INSTRUCTIONS."""
    rows = []
    for number in range(count):
        context = f"Pump P-{number} failed at noon because its seal broke."
        rows.append(
            {
                "row_id": f"row-{number}",
                "passage_id": f"{number:016x}",
                "document": "report.md",
                "task_type": "exqa",
                "context": context,
                "instruction": f"{context}\n\nQuestion: Why did P-{number} fail?",
                "response": "its seal broke",
            }
        )
    return pa.Table.from_pylist(rows, schema=INSTRUCTIONS)


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    """A file of 12 training rows."""
    path = tmp_path / "instructions.parquet"
    write_table(path, instruction_table(12))
    return path
