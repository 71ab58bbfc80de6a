"""Load a model's weights for training and ranking; :mod:`tasks.lm.vllm_engine` loads its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.lm.memory import need_free
from tasks.lm.models import base_path, find_weights, loading_errors
from tasks.lm.precision import dtype

if TYPE_CHECKING:
    # Its import takes a second, which a stage that loads nothing saves.
    import torch

#: Of a 4-bit value with its constants.
NF4_BYTES = 0.53
#: Settings of generation that name tokens: where to begin, to end and to pad.
_MARKS = ("bos_token_id", "eos_token_id", "pad_token_id")


def load_model(
    name: str, revision: str = "main", quantization: str = "none", precision: str = "auto"
) -> Any:
    """Load a causal language model on the GPU if there is one, else the CPU.

    ``quantization`` is ``none`` or ``nf4`` (bitsandbytes, double quantisation, bf16 compute:
    QLoRA's, arXiv 2305.14314). An adapter is not merged here, see :mod:`tasks.lm.merged`. Free it
    with :mod:`tasks.lm.memory` before the next one is loaded: a GPU holds one.
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
    with loading_errors(name):
        need_card(name, revision, quantization, precision)
        folder = base_path(name, revision)
        # Again: a download takes long, and something else can have taken the card meanwhile.
        need_card(name, revision, quantization, precision)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype(precision),
            use_safetensors=True,
            trust_remote_code=False,
            **extra,
        )
    _forget_decoding(model)
    return model


def _forget_decoding(model: Any) -> None:
    """Keep of a model's generation settings its marks alone.

    Some come with sampling and a penalty on words that the prompt holds already. transformers and
    the server of a merged model would apply it, vLLM in a stage does not: three ways to answer.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    marks = {name: getattr(own, name) for name in _MARKS if getattr(own, name, None) is not None}
    model.generation_config = GenerationConfig(**marks)


def need_card(name: str, revision: str, quantization: str, precision: str) -> None:
    """Raise :class:`PipelineError` where a base model's weights take more than what is free on the
    GPU; without a GPU do nothing.

    Their size comes from the hub's list or the model's folder: ask before they are downloaded.
    """
    import torch

    if torch.cuda.is_available():
        width = 1 if precision == "fp8" else dtype(precision).itemsize
        size = find_weights(name, revision).values * (NF4_BYTES if quantization == "nf4" else width)
        need_free(f"model {name!r}", size)


def vocabulary_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Return float32 logits [positions, vocabulary] of hidden states [positions, width].

    They equal those of the model's forward, which applies the head everywhere: for a small model
    with a large vocabulary the head is much of the work.
    """
    import torch

    logits = model.get_output_embeddings()(hidden).float()
    divisor, factor, cap = (
        getattr(model.config, name, None)
        for name in ("logits_scaling", "logit_scale", "final_logit_softcapping")
    )
    logits = logits / divisor if divisor else logits
    logits = logits * factor if factor else logits
    return torch.tanh(logits / cap) * cap if cap else logits
