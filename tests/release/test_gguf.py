"""The GGUF file gives the model's logits, and other kinds of models are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.release import gguf_file
from tasks.release.gguf_file import NoGgufError, find_splitter, list_tokens, write_gguf


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_the_file_gives_the_models_logits(checkpoint: Path) -> None:
    path = checkpoint / "out.gguf"
    compared = write_gguf(checkpoint, path, "tiny")
    assert compared.same == compared.positions > 20 and compared.change < 0.01
    assert [file.name for file in checkpoint.glob("*gguf*")] == ["out.gguf"]
    from gguf import GGUFReader

    read = GGUFReader(path)
    told = {name: field.contents() for name, field in read.fields.items()}
    assert told["general.architecture"] == "llama" and told["tokenizer.ggml.pre"] == "gpt-2"
    assert told["llama.attention.head_count_kv"] == 1 and "<|im_start|>" in str(
        told["tokenizer.chat_template"]
    )
    assert "output.weight" not in {tensor.name for tensor in read.tensors}, "tied"


def test_a_file_with_queries_left_as_they_are_is_found_and_not_kept(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    for name, tensor in weights.items():
        # So small are random queries and keys that attention looks everywhere alike.
        tensor *= 10 if "q_proj" in name or "k_proj" in name else 1
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    assert write_gguf(checkpoint, checkpoint / "out.gguf", "tiny").change < 0.01
    (checkpoint / "out.gguf").unlink()
    monkeypatch.setattr(gguf_file, "_arrange", lambda key, tensor, config: tensor.numpy())
    with pytest.raises(PipelineError, match=r"out.gguf gives other logits than the model \(by"):
        write_gguf(checkpoint, checkpoint / "out.gguf", "tiny")
    assert not list(checkpoint.glob("*gguf*"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "the model is MistralForCausalLM"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "the model has rope_type"),
        ({"attention_bias": True}, "the model has attention_bias"),
    ],
)
def test_other_models_are_refused_in_one_line(
    checkpoint: Path, values: dict[str, Any], message: str
) -> None:
    write_json(checkpoint / "config.json", read_json(checkpoint / "config.json") | values)
    with pytest.raises(NoGgufError, match=message):
        write_gguf(checkpoint, checkpoint / "out.gguf", "tiny")
    assert not list(checkpoint.glob("*gguf*"))


def test_a_gpu_without_room_to_check_the_file_is_told_and_the_rest_is_exported(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits are compared in float32: of a model of 8 billion values that is 32 GB."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda *_: (10**5, 24 * 10**9))
    with pytest.raises(NoGgufError, match=r"needs .* GB of the GPU, .*; or set CUDA_VISIBLE_DEV"):
        write_gguf(checkpoint, checkpoint / "out.gguf", "tiny")
    assert not list(checkpoint.glob("*gguf*"))


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([{"type": "ByteLevel", "use_regex": True}], "gpt-2"),
        (
            [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "use_regex": True},
            ],
            "smollm",
        ),
        ([{"type": "Whitespace"}], ""),
        ([{"type": "ByteLevel", "use_regex": True, "add_prefix_space": True}], ""),
        ([{"type": "Split", "pattern": {"Regex": "."}}, {"type": "ByteLevel"}], ""),
    ],
)
def test_how_text_is_split_is_told_or_refused(steps: list[dict[str, Any]], name: str) -> None:
    outer = {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else steps[0]
    tokenizer = {"model": {"type": "BPE"}, "pre_tokenizer": outer}
    if name:
        assert find_splitter(tokenizer) == name
    else:
        with pytest.raises(NoGgufError, match="GGUF is not written for a tokenizer that splits by"):
            find_splitter(tokenizer)


def test_rows_of_the_embeddings_without_a_token_are_unused() -> None:
    tokenizer = {
        "model": {"vocab": {"a": 0, "b": 1}},
        "added_tokens": [{"id": 2, "content": "<e>", "special": True}],
    }
    words, kinds = list_tokens(tokenizer, 4)
    assert words == ["a", "b", "<e>", "[PAD3]"]
    assert kinds == ["NORMAL", "NORMAL", "CONTROL", "UNUSED"]
