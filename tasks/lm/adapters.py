"""Whether an adapter fits the model that it names, and the training that starts from it.

It imports no torch: a run asks before it begins.
"""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, read_json, sha256_file
from tasks.core.rows import ADAPTER_FILES
from tasks.core.sections.finetune import Finetune
from tasks.core.setting_paths import is_nothing
from tasks.lm.models import resolve

log = logging.getLogger(__name__)
_LAYER = re.compile(r"\.layers\.(\d+)\.", re.ASCII)
_MOST_DIGITS = 9
#: A matrix whose inputs are the hidden states, in Llama, Mistral and most others.
_FROM_HIDDEN = "q_proj.lora_A.weight"
#: Rank and alpha where a configuration does not say them.
_PEFT_DEFAULT = 8
#: Settings of peft by which an adapter has other trained weights too, and their values without.
_BESIDE = ("modules_to_save", "trainable_token_indices", "lora_bias", "bias")
_WITHOUT: tuple[object, ...] = (None, False, [], "none")


def digest_adapter(folder: Path) -> str:
    """Return one SHA-256 of an adapter's weights and configuration.

    A champion that was fetched has the digest of the adapter that finetune wrote.
    """
    return fingerprint(*(sha256_file(folder / name) for name in ADAPTER_FILES))


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return what an adapter's ``provenance.json`` says; nothing of an adapter of other tools.

    A file that finetune has not written is a :class:`PipelineError`.
    """
    path = folder / "provenance.json"
    told = read_json(path) if path.is_file() else {}
    if not isinstance(told, dict) or not isinstance(told.get("settings", {}), dict):
        raise PipelineError(f"{path} is not as finetune writes it: fetch the adapter again")
    return told


def check_adapter(folder: Path, base: str, config: dict[str, Any]) -> None:
    """Raise :class:`PipelineError` unless the adapter's matrices fit the configuration of its base
    model, ``base``, and the rank that it names.
    """
    own = read_json(folder / "adapter_config.json")
    rank, ranks = own.get("r", _PEFT_DEFAULT), own.get("rank_pattern")
    for key in ("hidden_size", "num_hidden_layers"):
        if not isinstance(config.get(key, 0), int):
            raise PipelineError(f"{base}: its config.json says {key} = {str(config[key])[:40]}")
    most = config.get("num_hidden_layers")
    for name, shape in _shapes(folder / "adapter_model.safetensors").items():
        layer = _LAYER.search(name)
        wrong = ""
        if name.endswith("lora_A.weight") and len(shape) != 2:
            wrong = f"a matrix of {len(shape)} dimensions"
        elif name.endswith("lora_A.weight") and not ranks and shape[0] != rank:
            wrong = f"rank {shape[0]}, but its adapter_config.json says {rank}"
        elif name.endswith(_FROM_HIDDEN) and shape[1] != config.get("hidden_size", shape[1]):
            wrong = f"width {shape[1]}, but {base} has {config['hidden_size']}"
        elif layer and (len(layer[1]) > _MOST_DIGITS or int(layer[1]) >= (most or math.inf)):
            wrong = f"a layer {layer[1][:20]}, but {base} has {most} layers"
        if wrong:
            raise PipelineError(
                f"adapter {folder} has {wrong}: it is of another model; correct "
                "base_model_name_or_path in its adapter_config.json, or name another adapter"
            )


def _shapes(path: Path) -> dict[str, list[int]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise PipelineError(f"{path} cannot be read ({error}): fetch it again") from error


def start_adapter(settings: Finetune, start: Path, setting: str = "finetune.start") -> Path | None:
    """Return the adapter to start from, None for a new one; ``setting`` names it in messages.

    One that does not fit the model and the LoRA settings is an error. Other rounding of the base
    weights is a warning: an adapter of unquantised weights can be a good start on 4-bit ones.
    """
    if is_nothing(start):
        return None
    named = f"{setting} = {start}"
    if start.is_file():
        raise PipelineError(f"{named} is a file: name the adapter's folder")
    model = resolve(str(start))
    if model.adapter is None:
        raise PipelineError(f"{named}: no adapter there (adapter_config.json is missing)")
    config = read_json(start / "adapter_config.json")
    beside = [name for name in _BESIDE if config.get(name, "none") not in _WITHOUT]
    if beside:
        raise PipelineError(
            f"{named} has trained weights beside LoRA's matrices ({beside[0]}): a "
            "training here would lose them; name an adapter without"
        )
    trained_with = {
        "model": model.base,
        "revision": model.revision,
        "lora_rank": config.get("r", _PEFT_DEFAULT),
        "lora_alpha": config.get("lora_alpha", _PEFT_DEFAULT),
    }
    if "main" in (model.revision, settings.revision):
        # Adapters of other tools name no commit: their main may be any. So may a folder's.
        del trained_with["revision"]
    section = setting.rpartition(".")[0]
    for name, value in trained_with.items():
        if value != getattr(settings, name):
            raise PipelineError(
                f"{named} was trained with {name} {value}, but {section}.{name} is "
                f"{getattr(settings, name)}: they must agree"
            )
    trained = read_provenance(start).get("settings", {})
    rounding = trained.get("quantization", settings.quantization)
    if rounding != settings.quantization:
        log.warning(
            "%s was trained on weights with quantization %s; here they have %s",
            named,
            rounding,
            settings.quantization,
        )
    return start
