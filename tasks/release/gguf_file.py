"""A merged checkpoint as one GGUF file, for llama.cpp and programs like it.

Llama models with a byte-level BPE tokenizer. Matrices are F16, vectors F32. The file is read back
by transformers' own reader, which shares no code with this writer, and must give the same logits.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import PipelineError
from tasks.core.files import atomic_path, read_json
from tasks.lm.loading import load_model, need_card
from tasks.lm.memory import freed_after
from tasks.lm.tokenizers import load_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger(__name__)
#: What the file is checked with.
PROMPTS = (
    "The pump failed at noon because its seal broke.",
    "Q: What broke in unit 7 on 12 March 2021?\n\nA:",
    "<|im_start|>user\nIs it true, or false?<|im_end|>\n",
)
#: The largest difference of a logit, as a share of the logits' standard deviation: F16 rounds at
#: 0.05 %, and the layers add that up.
MOST_CHANGE = 0.05
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class NoGgufError(PipelineError):
    """The model is of a kind that this writer does not write."""


@dataclass(frozen=True)
class Compared:
    """The written model against the checkpoint: at how many positions the likeliest token is the
    same, and the largest difference of a logit, as a share of the logits' standard deviation.
    """

    same: int
    positions: int
    change: float


def write_gguf(checkpoint: Path, path: Path, name: str) -> Compared:
    """Write a checkpoint (safetensors with its tokenizer.json) to ``path``, and compare.

    A model of another kind is a :class:`NoGgufError`; a file that does not give the model's logits
    is a :class:`PipelineError`. Neither leaves a file.
    """
    config = read_json(checkpoint / "config.json")
    _need_llama(config)
    tokenizer = read_json(checkpoint / "tokenizer.json")
    splitter = find_splitter(tokenizer)
    _need_room(checkpoint)
    with atomic_path(path) as partial:
        _write(checkpoint, partial, name, config, tokenizer, splitter)
        _need_same_words(partial, tokenizer)
        log.info("reading %s back, to compare its logits with the model's", path.name)
        compared = _compare(checkpoint, partial)
        if not compared.change <= MOST_CHANGE:
            raise PipelineError(
                f"{path.name} gives other logits than the model (by {compared.change:.1%} of their "
                "spread): it is not kept"
            )
    return compared


def _need_llama(config: dict[str, Any]) -> None:
    """Refuse what would need other tensors or keys than those of a plain Llama."""
    kind = (config.get("architectures") or [config.get("model_type")])[0]
    if kind != "LlamaForCausalLM":
        raise NoGgufError(f"GGUF is written for LlamaForCausalLM alone, and the model is {kind}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    odd = {
        "rope_type": rope.get("rope_type", "default") != "default",
        "attention_bias": config.get("attention_bias"),
        "mlp_bias": config.get("mlp_bias"),
        "hidden_act": config.get("hidden_act", "silu") != "silu",
    }
    if faults := [key for key, fault in odd.items() if fault]:
        raise NoGgufError(f"GGUF is written for a plain Llama alone, and the model has {faults[0]}")


def _need_room(checkpoint: Path) -> None:
    """Refuse what a GPU has no room for in float32, in which the logits are compared."""
    try:
        need_card(str(checkpoint), "main", "none", "float32")
    except PipelineError as error:
        raise NoGgufError(f"{error}; or set CUDA_VISIBLE_DEVICES= to write it without") from error


def find_splitter(tokenizer: dict[str, Any]) -> str:
    """Return llama.cpp's name of how a tokenizer.json splits text before its merges (``gpt-2``,
    ``smollm``, ``llama-bpe``).

    With another one llama.cpp would cut text into other tokens than the model was trained on.
    """
    if tokenizer["model"].get("type") != "BPE" or tokenizer.get("normalizer"):
        raise NoGgufError("GGUF is written for byte-level BPE tokenizers alone")
    outer = tokenizer.get("pre_tokenizer") or {}
    steps = outer.get("pretokenizers", [outer])
    kinds = [step.get("type") for step in steps]
    last = steps[-1]
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        if kinds == ["ByteLevel"] and last.get("use_regex"):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and steps[0]["pattern"].get("Regex") == _LLAMA_3:
            return "llama-bpe"
    raise NoGgufError(
        f"GGUF is not written for a tokenizer that splits by {', '.join(map(str, kinds))}"
    )


def _write(
    checkpoint: Path,
    path: Path,
    name: str,
    config: dict[str, Any],
    tokenizer: dict[str, Any],
    splitter: str,
) -> None:
    import numpy as np
    from gguf import MODEL_ARCH, GGUFWriter, LlamaFileType, get_tensor_name_map

    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    _add_shape(writer, config)
    _add_tokenizer(writer, checkpoint, config, tokenizer, splitter)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    with freed_after(load_model(str(checkpoint), precision="float32")) as model:
        own = model.state_dict()
        if config.get("tie_word_embeddings"):
            own.pop("lm_head.weight", None)
        for key, tensor in own.items():
            values, told = _arrange(key, tensor, config), names.get_name(key, (".weight",))
            if told is None:
                raise NoGgufError(f"GGUF has no name for the tensor {key}")
            writer.add_tensor(
                told,
                values.astype(np.float16 if values.ndim > 1 else np.float32),
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _add_shape(writer: Any, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or config
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _add_tokenizer(
    writer: Any, checkpoint: Path, config: dict[str, Any], tokenizer: dict[str, Any], splitter: str
) -> None:
    from gguf import TokenType

    words, kinds = list_tokens(tokenizer, config["vocab_size"])
    loaded = load_tokenizer(str(checkpoint))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(words)
    writer.add_token_types([TokenType[kind] for kind in kinds])
    writer.add_token_merges(list_merges(tokenizer))
    for mark in ("bos", "eos", "pad", "unk"):
        if (number := getattr(loaded, f"{mark}_token_id")) is not None:
            getattr(writer, f"add_{mark}_token_id")(number)
    first = loaded.encode("x")[:1]
    writer.add_add_bos_token(first == [loaded.bos_token_id])
    if loaded.chat_template:
        writer.add_chat_template(loaded.chat_template)


def list_tokens(tokenizer: dict[str, Any], size: int) -> tuple[list[str], list[str]]:
    """Return a tokenizer.json's tokens by id, and their kinds in GGUF's words. A row of the
    embeddings that has no token gets one that is never used.
    """
    words = [f"[PAD{number}]" for number in range(size)]
    kinds = ["UNUSED"] * size
    for word, number in tokenizer["model"]["vocab"].items():
        words[number], kinds[number] = word, "NORMAL"
    for token in tokenizer["added_tokens"]:
        words[token["id"]] = token["content"]
        kinds[token["id"]] = "CONTROL" if token["special"] else "USER_DEFINED"
    return words, kinds


def list_merges(tokenizer: dict[str, Any]) -> list[str]:
    """Return a tokenizer.json's merges, each as two parts with a space between."""
    return [
        pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]
    ]


def _arrange(key: str, tensor: torch.Tensor, config: dict[str, Any]) -> np.ndarray:
    """Return a tensor as GGUF has it: queries and keys with the halves of each head interleaved,
    for the rotary embedding of llama.cpp.
    """
    values: np.ndarray = tensor.cpu().numpy()
    heads = config["num_attention_heads"]
    count = {
        "q_proj.weight": heads,
        "k_proj.weight": config.get("num_key_value_heads") or heads,
    }.get(".".join(key.split(".")[-2:]))
    if count is None:
        return values
    halves = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _need_same_words(path: Path, tokenizer: dict[str, Any]) -> None:
    """Refuse a file whose tokens or merges are not those of the tokenizer.json."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    words = fields["tokenizer.ggml.tokens"].contents()
    same = words == list_tokens(tokenizer, len(words))[0]
    if not same or fields["tokenizer.ggml.merges"].contents() != list_merges(tokenizer):
        raise PipelineError(f"{path.name} has other tokens than tokenizer.json: it is not kept")


def _compare(checkpoint: Path, path: Path) -> Compared:
    import torch

    tokenizer = load_tokenizer(str(checkpoint))
    prompts = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in PROMPTS]
    with freed_after(load_model(str(checkpoint), precision="float32").eval()) as model:
        wanted = _logits(model, prompts)
    with freed_after(_read_back(path)) as model:
        found = _logits(model, prompts)
    return Compared(
        same=int((wanted.argmax(-1) == found.argmax(-1)).sum()),
        positions=len(wanted),
        change=float((wanted - found).abs().max() / torch.clamp(wanted.std(), min=1e-9)),
    )


def _read_back(path: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    # The reader looks at the end of a file's name.
    link = path.with_name(f"{path.name}.gguf")
    link.symlink_to(path.name)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=link.name,
            quantization_config=GgufConfig(gguf_file=link.name, dequantize=True),
            dtype=torch.float32,
            trust_remote_code=False,
        )
    finally:
        link.unlink()
    return model.to("cpu").eval()


def _logits(model: Any, prompts: list[list[int]]) -> torch.Tensor:
    """Return the logits at every position of the prompts [positions, vocabulary]."""
    import torch

    with torch.inference_mode():
        rows = [
            model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float().cpu()
            for ids in prompts
        ]
    return torch.cat(rows)
