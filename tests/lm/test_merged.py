"""A merged model belongs to the bytes of its base and its adapter, not to their places."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from tasks.core.files import sha256_file, write_json
from tasks.core.store import seal_folder
from tasks.lm import merged
from tasks.lm.loading import load_model
from tasks.lm.merged import merged_folder


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are made; no model is loaded for them."""
    folders: list[Path] = []

    def make(folder: Path, keep: int, save: Callable[[Path], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        seal_folder(folder)
        folders.append(folder)

    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(merged, "make_checkpoint", make)
    return folders


def test_other_weights_in_the_same_place_are_merged_again(tmp_path: Path, made: list[Path]) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
        write_json(folder / "config.json", {})
    (base / "model.safetensors").write_bytes(b"one")
    (adapter / "adapter_model.safetensors").write_bytes(b"one")
    write_json(adapter / "adapter_config.json", {})

    def folder(quantization: str = "none") -> Path:
        return merged_folder(str(base), "main", adapter, quantization, "float32")

    first = folder()
    assert folder() == first and made == [first]
    (adapter / "adapter_model.safetensors").write_bytes(b"two")
    second = folder()
    (adapter / "loss.csv").write_text("step,loss")
    assert folder() == second, "how it was made is no part of it"
    (base / "consolidated.safetensors").write_bytes(b"other")
    assert folder() == second, "nor are weights that are not loaded"
    (base / "model.safetensors").write_bytes(b"three")
    assert len({first, second, folder(), folder("nf4")}) == 4


def test_an_adapter_is_merged_alike_into_the_rounded_base_of_the_cache(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    base, adapter = str(tiny_model), tmp_path / "adapter"
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load_model(base, precision="float32"), config).save_pretrained(adapter)
    asked = (base, "main", adapter, "nf4", "float32")
    first = sha256_file(merged_folder(*asked) / "model.safetensors")
    shutil.rmtree(tmp_path / "cache")
    rounded = merged_folder(base, "main", None, "nf4", "float32")
    monkeypatch.setattr(merged, "round_through_nf4", None)
    assert sha256_file(merged_folder(*asked) / "model.safetensors") == first
    assert sha256_file(rounded / "model.safetensors") != first


def test_a_large_one_is_written_in_parts_that_load_as_one(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_model(str(tiny_model), precision="float32").state_dict()
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(merged, "_FILE", "100KB")
    folder = merged_folder(str(tiny_model), "main", None, "none", "float32")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    parts = load_model(str(folder), precision="float32").state_dict()
    assert parts.keys() == whole.keys()
    assert all(parts[name].equal(whole[name]) for name in whole)


def test_a_damaged_one_is_made_again(tmp_path: Path, made: list[Path]) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"one")
    folder = merged_folder(str(base), "main", None, "none", "float32")
    (folder / "weights").write_bytes(b"x")
    seal_folder(folder)
    assert merged_folder(str(base), "main", None, "none", "float32") == folder and len(made) == 1
    (folder / "weights").write_bytes(b"yy")
    merged_folder(str(base), "main", None, "none", "float32")
    assert made == [folder, folder]


@pytest.mark.parametrize("kind", ["biogpt", "falcon", "gpt2", "llama"])
def test_the_weights_that_4_bit_loading_rounds_are_rounded_and_no_other(
    kind: str, tmp_path: Path
) -> None:
    """GPT-2 has layers of another kind, Falcon such as 4-bit loading leaves alone, and BioGPT's
    output layer, which shares its weight, has a name of its own.
    """
    set_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 96}
    config = AutoConfig.for_model(kind, num_attention_heads=2, pad_token_id=1, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    packed = load_model(str(tmp_path), quantization="nf4", precision="float32")
    rounded = load_model(str(tmp_path), precision="float32")
    merged.round_through_nf4(rounded)
    values = dict(rounded.named_parameters())
    for name, weight in packed.named_parameters():
        state = getattr(weight, "quant_state", None)
        wanted = weight if state is None else dequantize_4bit(weight.data, state)
        assert torch.equal(values[name], wanted) or torch.equal(values[name].T, wanted), name
