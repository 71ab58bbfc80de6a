"""Texts as vectors of the model that a run adapted: the mean of its last hidden states.

A vector is kept under the digest of its text and model, so that a second question costs little.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import PipelineError
from tasks.core.files import atomic_path, fingerprint
from tasks.core.params import Params

#: Tokens of a text that are read, and texts at a time.
_TOKENS, _BATCH = 64, 64
#: Bytes of weights that a CPU reads texts with in seconds: the embedded model has 0.3 GB.
MOST_BYTES = 1 << 30
Vectors = NDArray[np.float32]


class Embedder:
    """``embedder(texts)``: vectors [texts, width] of length 1, by the model in ``folder``."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self._folder, self._cache = folder, cache
        self._model: Any = None

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors, computed or from the cache."""
        names = [fingerprint(self._folder.name, text) for text in texts]
        known = self._read()
        new = {name: text for name, text in zip(names, texts, strict=True) if name not in known}
        if new:
            known |= dict(zip(new, self._compute(list(new.values())), strict=True))
            self._write(known)
        return np.stack([known[name] for name in names])

    def _compute(self, texts: list[str]) -> Vectors:
        import torch

        from tasks.lm.models import load_model, load_tokenizer

        if self._model is None:
            self._model = load_model(str(self._folder)).eval()
        tokenizer = load_tokenizer(str(self._folder))
        found = []
        with torch.inference_mode():
            for first in range(0, len(texts), _BATCH):
                ids = [
                    tokenizer(text, add_special_tokens=False)["input_ids"][:_TOKENS] or [0]
                    for text in texts[first : first + _BATCH]
                ]
                longest = max(map(len, ids))
                padded = torch.tensor([part + [0] * (longest - len(part)) for part in ids])
                mask = torch.tensor([[1] * len(part) + [0] * (longest - len(part)) for part in ids])
                padded, mask = padded.to(self._model.device), mask.to(self._model.device)
                # Without the head, which is a fifth of a small model's work.
                hidden = self._model.base_model(padded, attention_mask=mask).last_hidden_state
                sums = (hidden.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
                found.append(torch.nn.functional.normalize(sums, dim=1).cpu().numpy())
        return np.concatenate(found).astype(np.float32)

    def _read(self) -> dict[str, Vectors]:
        try:
            with np.load(self._cache, allow_pickle=False) as file:
                return dict(zip(file["names"].tolist(), file["vectors"], strict=True))
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            zipfile.BadZipFile,
        ):  # missing, or of a killed write
            return {}

    def _write(self, known: dict[str, Vectors]) -> None:
        names = sorted(known)
        with atomic_path(self._cache) as partial, partial.open("wb") as file:
            np.savez(file, names=np.array(names), vectors=np.stack([known[n] for n in names]))


def open_embedder(params: Params, adapter: Path, cache: Path) -> tuple[Embedder | None, str]:
    """Return an embedder of the model that was trained; else None and the reason."""
    from tasks.lm.merged import merged_folder
    from tasks.lm.models import base_path

    finetune = params.finetune
    if not (adapter / "adapter_config.json").is_file():
        return None, "the run has no adapter here"
    try:
        base = Path(base_path(finetune.model, finetune.revision))
        size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
        if size > MOST_BYTES:
            return None, f"a model of {size / 2**30:.1f} GB takes more than seconds"
        folder = merged_folder(
            finetune.model, finetune.revision, adapter, finetune.quantization, finetune.precision
        )
    except PipelineError as error:
        return None, str(error)
    return Embedder(folder, cache), ""
