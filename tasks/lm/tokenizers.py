"""Tokenizers of models by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError
from tasks.lm.models import base_path, loading_errors, resolve

#: Special tokens that a tokenizer's configuration names, and other keys of it that do not change
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


def load_tokenizer(name: str, revision: str = "main") -> Any:
    """Return the transformers tokenizer of a model or of an adapter's base model."""
    from transformers import AutoTokenizer

    model = resolve(name, revision)
    with loading_errors(model.base):
        folder = base_path(model.base, model.revision, weights=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    _need_same_pieces(model.base, Path(folder), tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenizer_json(name: str, revision: str = "main") -> str:
    """Return a model's tokenizer as JSON of the library tokenizers, or an empty string if it is of
    another kind.

    It equals that of :func:`load_tokenizer`. Where the model's folder holds just this JSON, the
    seconds that importing transformers takes are saved.
    """
    model = resolve(name, revision)
    folder = Path(base_path(model.base, model.revision, weights=False))
    if _stands_alone(folder):
        from tokenizers import Tokenizer

        return str(Tokenizer.from_file(str(folder / "tokenizer.json")).to_str())
    tokenizer = load_tokenizer(name, revision)
    return str(tokenizer.backend_tokenizer.to_str()) if getattr(tokenizer, "is_fast", False) else ""


def _need_same_pieces(name: str, folder: Path, tokenizer: Any) -> None:
    """Refuse a tokenizer that transformers made of a tokenizer.model alone, and made wrong: for
    some model types it leaves out the space before the first word.
    """
    model = folder / "tokenizer.model"
    if (folder / "tokenizer.json").is_file() or not model.is_file():
        return
    from sentencepiece import SentencePieceProcessor

    probe = "yes no"
    pieces = SentencePieceProcessor(model_file=str(model)).encode(probe, out_type=str)
    if tokenizer.tokenize(probe) != pieces:
        raise PipelineError(
            f"model {name!r} has a tokenizer.model and no tokenizer.json, and transformers would "
            "cut text into other tokens than the model was trained on: put the model's "
            "tokenizer.json beside it"
        )


def _stands_alone(folder: Path) -> bool:
    """Tell whether transformers would use the folder's tokenizer.json unchanged: it needs no class
    of its own and holds all special tokens.
    """
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False  # transformers reports the fault
    return (
        config.keys() <= _PLAIN_CONFIG
        and config.get("tokenizer_class") == "TokenizersBackend"
        and {config[name] for name in _MARKS & config.keys()} <= special
    )
