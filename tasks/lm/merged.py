"""One plain checkpoint of a base model and its adapter, in the cache."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.digests import kept_sha256
from tasks.core.files import fingerprint, write_json
from tasks.core.privacy import cache_folder
from tasks.core.store import is_still_whole, work_key
from tasks.lm.adapters import digest_adapter
from tasks.lm.loading import load_model
from tasks.lm.memory import freed_after
from tasks.lm.model_cache import make_checkpoint
from tasks.lm.models import base_path, pinned, resolve
from tasks.lm.precision import dtype
from tasks.lm.tokenizers import load_tokenizer
from tasks.lm.weight_files import weight_files

if TYPE_CHECKING:
    # Its import takes a second, which only a merge needs.
    import torch

log = logging.getLogger(__name__)
#: Size of a file of weights: of a model on a GPU each is copied into this machine's memory whole.
_FILE = "2GB"


def merged_folder(
    base: str, revision: str, adapter: Path | None, quantization: str, precision: str = "auto"
) -> Path:
    """Return a cached folder with one plain checkpoint: the base weights, with ``quantization`` nf4
    rounded through NF4, and the adapter merged in.

    Rounding through NF4 gives the weights that 4-bit training computed with (bitsandbytes
    dequantises them to the same values at every forward pass). So the merged model is the one that
    was trained, up to one rounding of the sum to ``precision``.
    """
    made_from = _made_from(base, revision, adapter, quantization, precision)

    def save(out: Path) -> None:
        with freed_after(_load_base(base, revision, adapter, quantization, precision)) as model:
            plain = model
            if adapter:
                from peft import PeftModel

                plain = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
            plain.save_pretrained(out, max_shard_size=_FILE)
        load_tokenizer(base, revision).save_pretrained(out)
        write_json(out / "made_from.json", made_from)

    folder = _folder(made_from)
    if not is_still_whole(folder):
        log.info("merging %s%s", base, f" + {adapter}" if adapter else "")
        make_checkpoint(folder, 8, save)
    os.utime(folder)
    return folder


def scored_folder(provenance: dict[str, Any], adapter: Path | None) -> Path:
    """Return the merged checkpoint that a run scored: an adapter's, or without one its base
    model's, as the adapter's ``provenance.json`` describes them.
    """
    return merged_folder(
        provenance["base"],
        provenance["revision"],
        adapter,
        provenance["quantization"],
        provenance["precision"],
    )


def _load_base(
    base: str, revision: str, adapter: Path | None, quantization: str, precision: str
) -> Any:
    """Return the base model for an adapter, its weights rounded.

    Rounding takes longer than loading: where the cache has the rounded base alone, those are its
    weights.
    """
    whole = (base, revision, None, quantization, precision)
    if adapter and quantization == "nf4" and is_merged(*whole):
        return load_model(str(merged_folder(*whole)), precision=precision)
    model = load_model(base, revision, precision=precision)
    if quantization == "nf4":
        round_through_nf4(model)
    return model


def is_merged(
    base: str, revision: str, adapter: Path | None, quantization: str, precision: str
) -> bool:
    """Tell whether the cache has the folder of :func:`merged_folder`, without reading its weights;
    those of a base model in a folder are read once (:mod:`tasks.core.digests`).
    """
    return _folder(_made_from(base, revision, adapter, quantization, precision)).is_dir()


def _folder(made_from: dict[str, Any]) -> Path:
    return cache_folder() / "merged" / work_key(__name__, made_from)[:24]


def _made_from(
    base: str, revision: str, adapter: Path | None, quantization: str, precision: str
) -> dict[str, Any]:
    return {
        "base": _identity(base, revision),
        "adapter": digest_adapter(adapter) if adapter else None,
        "quantization": quantization,
        "precision": str(dtype(precision)),
    }


def plain_weights(
    name: str, revision: str, quantization: str = "none", precision: str = "auto"
) -> str:
    """Return the folder that an engine loads for a model or adapter: a plain model's own, else that
    of one checkpoint (:func:`merged_folder`).
    """
    model = resolve(name, revision)
    if not model.adapter and quantization == "none":
        return base_path(model.base, model.revision)
    asked = (model.base, model.revision, model.adapter, quantization, precision)
    return str(merged_folder(*asked))


def round_through_nf4(model: Any) -> None:
    """Replace, in place, each weight that 4-bit loading rounds by its NF4 value: those of the
    linear layers, and of GPT-2's, but of the output layer and of a model's own kinds of layers.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    for module in model.modules():
        if module is head:
            continue
        if type(module) is torch.nn.Linear:
            module.weight.data = round_weight(module.weight.data)
        elif isinstance(module, Conv1D):  # [in, out]
            module.weight.data = round_weight(module.weight.data.T.contiguous()).T.contiguous()


def round_weight(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight's NF4 value [out, in] (block 64, as bitsandbytes rounds it)."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    rounded, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    value: torch.Tensor = dequantize_4bit(rounded, state)
    return value.to(weight.dtype)


def _identity(base: str, revision: str) -> str:
    """Return what identifies a base model's weights: digests for folders (of the weights that are
    loaded, and of the configuration), name and commit for hub models.
    """
    commit = pinned(base, revision)
    if not (base.startswith("embedded:") or Path(base).is_dir()):
        return f"{base}@{commit}"
    path = Path(base_path(base, commit))
    files = sorted({*weight_files(path), *path.glob("*.json")})
    return fingerprint(*(f"{file.name}:{kept_sha256(file)}" for file in files))
