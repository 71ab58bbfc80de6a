"""Language models by name: the embedded one, folders, hub names and adapters.

A *model name* is ``embedded:smollm2-135m-instruct``, a folder, or a Hugging Face name. An *adapter*
is a PEFT folder whose ``adapter_config.json`` names its base model. Weights are safetensors; a
model with code of its own is refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.digests import kept_sha256_folder
from tasks.core.errors import PipelineError
from tasks.core.files import read_if_there, read_json
from tasks.core.setting_paths import FOLDER_REVISION
from tasks.lm.embedded import EMBEDDED_BYTES, EMBEDDED_CONFIG, embedded_folder, embedded_place
from tasks.lm.hub import hub_folder, hub_weights
from tasks.lm.weight_files import INDEX, weight_bytes, weight_files

EMBEDDED = "embedded:smollm2-135m-instruct"

#: Bytes of a value of weights; 2 for what is not named.
_STORED = {"float32": 4, "float64": 8}
#: The most that an adapter's rank can be; PEFT makes the matrices before it reads the weights.
_MOST_RANK = 4096
#: Keys of an adapter's configuration whose texts PEFT takes for regular expressions.
_PATTERNS = (
    *("target_modules", "exclude_modules", "target_parameters", "layers_pattern"),
    *("rank_pattern", "alpha_pattern"),
)
#: What a config.json calls the number of positions: the second is GPT-2's name, and its like's.
_POSITIONS = ("max_position_embeddings", "n_positions")
#: A branch, tag, commit or digest.
_REVISION = re.compile(r"(?!.*\.\.)[\w.:+-][\w./:+-]{0,199}", re.ASCII)
#: A module's name, or the end of one, as PEFT writes it.
_MODULE = re.compile(r"\^?[\w.\\-]*\$?")
#: Files that can name Python classes of the model's own.
_CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json")


@dataclass(frozen=True)
class ModelName:
    """A base model, and the adapter if the name was an adapter's folder."""

    base: str
    revision: str
    adapter: Path | None = None


@dataclass(frozen=True)
class Weights:
    """A base model: its size in values, the bytes that must come first, and its ``config.json``."""

    name: str
    revision: str
    values: int
    #: Bytes to download, or to convert.
    lacking: int
    config: dict[str, Any]


def resolve(name: str, revision: str = "main") -> ModelName:
    """Tell an adapter folder from a base model by its ``adapter_config.json``."""
    folder = Path(name)
    file = folder / "adapter_config.json"
    if not file.is_file():
        return ModelName(name, revision)
    config = read_json(file)
    if not (folder / "adapter_model.safetensors").is_file():
        raise PipelineError(
            f"{folder} has no adapter_model.safetensors (other weight formats can hold code and "
            "are refused)"
        )
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not base:
        raise PipelineError(
            f"{file} names no base model: base_model_name_or_path must be a folder or a hub name"
        )
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":  # others load further models, which may bring code
        raise PipelineError(f"{file} says peft_type {kind!r}: only LORA is taken")
    _check_layers(file, config)
    return ModelName(base, str(config.get("revision") or "main"), folder)


def _check_layers(file: Path, config: dict[str, Any]) -> None:
    """Refuse an adapter whose layers PEFT would look for without end, or without memory to hold,
    that has it import a library, or that changes its base model's weights where it is loaded.
    """
    ranks = config.get("rank_pattern") or {}
    if not isinstance(ranks, dict):
        raise PipelineError(f"{file}: rank_pattern must be an object: module and rank")
    for name, rank in {"r": config.get("r", 8), **ranks}.items():
        if not isinstance(rank, int) or not 1 <= rank <= _MOST_RANK:
            raise PipelineError(
                f"{file}: {name[:40]} is {str(rank)[:40]}, and must be a whole number from 1 to "
                f"{_MOST_RANK}"
            )
    if config.get("megatron_config"):  # PEFT imports what megatron_core names
        raise PipelineError(f"{file}: megatron_config is not taken: name an adapter without")
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise PipelineError(
            f"{file}: init_lora_weights is {str(config['init_lora_weights'])[:40]!r}, by which the "
            "adapter changes its base model: convert it to an ordinary one (PEFT's documents)"
        )
    revision = config.get("revision") or "main"
    if not isinstance(revision, str) or not _REVISION.fullmatch(revision):
        raise PipelineError(
            f"{file}: revision is {str(revision)[:40]!r}, and must name a branch, tag or commit"
        )
    for key in _PATTERNS:
        given = config.get(key) or ()
        for text in given if isinstance(given, (list, tuple, dict)) else (given,):
            if not isinstance(text, str) or not _MODULE.fullmatch(text):
                raise PipelineError(
                    f"{file}: {key} has {str(text)[:40]!r}, a regular expression, which may never "
                    "end: name the modules in a list"
                )


def base_path(name: str, revision: str = "main", weights: bool = True) -> str:
    """Return the folder that transformers and vLLM load a base model from.

    That of a hub model is in the hub's cache: what is missing there is downloaded, without
    ``weights`` only what the tokenizer needs.
    """
    if name == EMBEDDED:
        return str(embedded_folder())
    if name.startswith("embedded:"):
        raise PipelineError(f"unknown embedded model {name!r}: there is {EMBEDDED!r}")
    if Path(name).is_dir():
        _refuse_own_code(name, Path(name))
        return _need_safetensors(name, Path(name))
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise PipelineError(
            f"model {name!r} is neither a folder here nor a hub name such as "
            "mistralai/Mistral-7B-v0.1"
        )
    folder = hub_folder(name, revision, weights)
    _refuse_own_code(name, folder)
    return _need_safetensors(name, folder) if weights else str(folder)


def _need_safetensors(name: str, folder: Path) -> str:
    files = weight_files(folder)
    if not files:
        raise PipelineError(
            f"{name} holds no .safetensors weights that transformers loads (other formats can hold "
            "code and are refused): name a model that has them"
        )
    for file in files:
        if not file.is_file():
            raise PipelineError(
                f"model {name!r} lacks {file.name}, which its {INDEX} names: download it again"
            )
    return str(folder)


def _refuse_own_code(name: str, folder: Path) -> None:
    """Refuse a model whose classes are Python files of its own: transformers would ask at the
    terminal whether to run them.
    """
    for file in _CONFIGS:
        config = read_json(folder / file) if (folder / file).is_file() else {}
        if not isinstance(config, dict) or "auto_map" in config:
            reason = "brings code of its own (auto_map)" if config else "is no JSON object"
            raise PipelineError(
                f"model {name!r}: its {file} {reason}, which is never run: choose a model that "
                "transformers has a class for"
            )


def pinned(name: str, revision: str = "main") -> str:
    """Return the present commit of a hub model's revision; other models keep theirs.

    A folder whose revision is a digest (flows/runs/run_params.py writes it) must still have that.
    """
    if name.startswith("embedded:"):
        return revision
    if Path(name).is_dir():
        if revision.startswith(FOLDER_REVISION) and revision != (
            FOLDER_REVISION + kept_sha256_folder(Path(name))
        ):
            raise PipelineError(
                f"model {name!r} is not the one that its run began with or was trained on: its "
                f"files have changed since (revision {revision[:19]}): give the run's command "
                "again to use the new one"
            )
        return revision
    return Path(base_path(name, revision, weights=False)).name


def identify(name: str, revision: str = "main") -> str:
    """Return what distinguishes a model from any other: a folder's content hash (with that of a
    base in another folder, or its commit where it names a branch of the hub), or the hub name and
    commit.
    """
    folder = Path(name)
    if not folder.is_dir():
        return f"{name}@{pinned(name, revision)}"
    model = resolve(name, revision)
    commit = pinned(model.base, model.revision)
    moving = f" on {commit}" if commit != model.revision else ""
    if model.adapter and Path(model.base).is_dir() and not commit.startswith(FOLDER_REVISION):
        moving = f" on {FOLDER_REVISION}{kept_sha256_folder(Path(model.base))}"
    return f"sha256:{kept_sha256_folder(folder)}{moving}"


def count_positions(name: str, revision: str = "main") -> int:
    """Return the most tokens that a model, or an adapter's base model, has positions for; 0 where
    its configuration does not say. Another value than a number is a :class:`PipelineError`.
    """
    model = resolve(name, revision)
    folder = Path(base_path(model.base, model.revision, weights=False))
    config = read_if_there(folder / "config.json") or {}
    key = next((key for key in _POSITIONS if config.get(key)), _POSITIONS[0])
    positions = config.get(key) or 0
    if not isinstance(positions, int) or positions < 0:
        raise PipelineError(
            f"model {model.base!r}: its config.json says {key} = "
            f"{str(positions)[:40]}, which is no number of tokens"
        )
    return positions


def find_weights(name: str, revision: str = "main") -> Weights:
    """Look at a base model's files, or at the hub's list of them; download its configuration and
    tokenizer, no weights.
    """
    if name == EMBEDDED:
        lacking = 0 if embedded_place().is_dir() else EMBEDDED_BYTES
        return Weights(name, revision, EMBEDDED_BYTES // 2, lacking, EMBEDDED_CONFIG)
    folder = Path(base_path(name, revision, weights=False))
    config = read_if_there(folder / "config.json") or {}
    if Path(name).is_dir():
        size, lacking = weight_bytes(folder), 0
    else:
        revision = pinned(name, revision)
        size, lacking = hub_weights(name, revision)
    return Weights(name, revision, _count_values(size, config), lacking, config)


def _count_values(size: int, config: dict[str, Any]) -> int:
    """Return the number of values that ``size`` bytes of weights hold, as ``config.json`` tells."""
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return size // _STORED.get(stored, 2)


@contextlib.contextmanager
def loading_errors(name: str) -> Iterator[None]:
    """Turn the errors of loading a model into one line that names it."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise PipelineError(
            f"model {name!r} cannot be loaded ({reason}): check the name, or download it "
            "and name its folder"
        ) from error
