"""Models of Mistral's architecture with seeded random weights and a tokenizer of their own, made
on the spot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import MistralConfig, MistralForCausalLM

from tasks.core.files import row_seed, write_json

_SEED = 1
_LAYER = re.compile(r"layers\.(\d+)\.")
#: The tokenizer's first words. The marks of the prompt forms are words, so that no prompt begins
#: with unknown tokens.
_SPECIAL = ("<unk>", "<s>", "</s>")
_MARKS = ("<|input|>", "<|output|>", "Instruct:", "Answer:")


@dataclass(frozen=True)
class Shape:
    """The shape of a model, and how much of each path is run on it.

    ``config`` are arguments of MistralConfig without the number of layers. Lengths are tokens.
    """

    config: dict[str, int]
    layers: int
    precision: str
    #: Values of the section finetune that differ from profiles/mistral-7b.yaml.
    finetune: dict[str, Any] = field(default_factory=dict)
    steps: int = 5
    #: A passage has between half of this and all of it.
    passage: int = 800
    prompts: int = 64
    new_tokens: int = 64
    #: Side of the square matrices of the measured ceiling.
    side: int = 8192
    #: Free disk that the check needs, in GB: the model, the merged one, its cut,
    #: checkpoints, the embedded model.
    disk: int = 45


SHAPES = {
    "mistral-7b": Shape(
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
        },
        layers=32,
        precision="bfloat16",
    ),
    "tiny": Shape(
        {
            "vocab_size": 512,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "sliding_window": 64,
        },
        layers=4,
        precision="float32",
        finetune={"lora_rank": 8, "batch_rows": 4, "precision": "float32"},
        steps=3,
        passage=40,
        prompts=6,
        new_tokens=8,
        side=256,
        disk=3,
    ),
}


def write_model(folder: Path, shape: Shape, layers: int) -> Path:
    """Write a model of the first ``layers`` layers, as safetensors in bfloat16, with its tokenizer.

    A tensor's values depend on its name alone, so a model of fewer layers is a cut of one of more.
    One layer is in memory at a time, and is a file.
    """
    folder.mkdir(parents=True)
    config = MistralConfig(
        **shape.config,
        num_hidden_layers=layers,
        architectures=["MistralForCausalLM"],
        dtype="bfloat16",
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device("meta"):
        sizes = {
            name: tuple(parameter.shape)
            for name, parameter in MistralForCausalLM(config).named_parameters()
        }
    files: dict[str, str] = {}
    total = 0
    for layer, names in _parts(sizes):
        file = f"model-{layer}.safetensors"
        weights = {name: _weights(name, sizes[name], config.initializer_range) for name in names}
        save_file(weights, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(names, file)
        total += sum(tensor.nbytes for tensor in weights.values())
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": files},
    )
    config.save_pretrained(folder)
    _tokenizer(shape.config["vocab_size"]).save_pretrained(folder)
    return folder


def words(count: int, shape: Shape, *key: object) -> str:
    """Return a text of ``count`` random words, each a token, of the key's seed."""
    chance = torch.Generator().manual_seed(row_seed(_SEED, *key))
    known = shape.config["vocab_size"] - len(_SPECIAL) - len(_MARKS)
    return " ".join(f"w{number}" for number in torch.randint(known, (count,), generator=chance))


def _parts(sizes: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    def part(name: str) -> str:
        found = _LAYER.search(name)
        return f"layer-{int(found[1]):02}" if found else "ends"

    for layer, names in groupby(sorted(sizes, key=part), key=part):
        yield layer, list(names)


def _weights(name: str, size: tuple[int, ...], deviation: float) -> torch.Tensor:
    if len(size) == 1:  # of a norm
        return torch.ones(size, dtype=torch.bfloat16)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chance = torch.Generator(device).manual_seed(row_seed(_SEED, name))
    empty = torch.empty(size, dtype=torch.bfloat16, device=device)
    return empty.normal_(0.0, deviation, generator=chance).cpu()


def _tokenizer(size: int) -> Any:
    """Return a tokenizer of ``size`` words, each a token: an answer's text tells its tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = [*_SPECIAL, *_MARKS]
    known += [f"w{number}" for number in range(size - len(known))]
    inner = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(known)}, unk_token=_SPECIAL[0])
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    unknown, start, end = _SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token=unknown, bos_token=start, eos_token=end
    )
