"""Texts as vectors of the model that a run adapted: the mean of its last hidden states.

A vector is kept under the digest of its text and model, so that a second question costs little.
"""

from __future__ import annotations

import contextlib
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import atomic_path, fingerprint, read_json, sha256_file
from tasks.core.params import Params

#: Tokens of a text that are read, and texts at a time.
_TOKENS, _BATCH = 64, 8
#: Bytes of weights that a CPU reads texts with in seconds: the embedded model has 0.3 GB.
MOST_BYTES = 1 << 30
#: Ends of the names of an adapter's matrices, and the settings of kinds that scale or place their
#: product in another way.
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_OTHER_KINDS = (
    *("alpha_pattern", "fan_in_fan_out", "layer_replication", "rank_pattern"),
    *("use_bdlora", "use_dora", "use_qalora", "use_rslora"),
)
Vectors = NDArray[np.float32]


class Embedder:
    """``embedder(texts)``: vectors [texts, width] of length 1, or None if no model can read them;
    then ``reason`` says why.
    """

    def __init__(
        self, name: str, find_model: Callable[[], Path], cache: Path, adapter: Path | None = None
    ) -> None:
        """``name`` tells the model from others; ``find_model`` returns its folder, and is called
        only for texts that have no vector in ``cache`` yet. ``adapter`` is put on the model.
        """
        self.reason = ""
        self.name, self._find_model, self._cache = name, find_model, cache
        self._adapter, self._folder = adapter, Path()
        self._model: Any = None

    def __call__(self, texts: Sequence[str]) -> Vectors | None:
        """Return the vectors, computed or from the cache."""
        names = [fingerprint(self.name, text) for text in texts]
        known = self._read()
        new = {name: text for name, text in zip(names, texts, strict=True) if name not in known}
        if new:
            try:
                computed = self._compute(list(new.values()))
            except PipelineError as error:
                self.reason = str(error)
                return None
            known |= dict(zip(new, computed, strict=True))
            self._write(known)
        return np.stack([known[name] for name in names])

    def _compute(self, texts: list[str]) -> Vectors:
        if self._model is None:
            self._folder = self._find_model()
            self._model = _load(self._folder, self._adapter)
        # Their import takes seconds, which texts with known vectors need not wait for.
        import torch

        from tasks.lm.tokenizers import load_tokenizer

        tokenizer = load_tokenizer(str(self._folder))
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"][:_TOKENS] for text in texts]
        # Texts of one length together: padding would be half of the work.
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        found: dict[int, Vectors] = {}
        with torch.inference_mode(), _one_thread():
            for first in range(0, len(order), _BATCH):
                places = order[first : first + _BATCH]
                parts = [ids[place] or [0] for place in places]
                longest = max(map(len, parts))
                padded = torch.tensor([part + [0] * (longest - len(part)) for part in parts])
                mask = torch.tensor(
                    [[1] * len(part) + [0] * (longest - len(part)) for part in parts]
                )
                padded, mask = padded.to(self._model.device), mask.to(self._model.device)
                # Without the head, which is a fifth of a small model's work.
                hidden = self._model.base_model(padded, attention_mask=mask).last_hidden_state
                sums = (hidden.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
                vectors = torch.nn.functional.normalize(sums, dim=1).cpu().numpy()
                found |= dict(zip(places, vectors, strict=True))
        return np.stack([found[place] for place in range(len(ids))]).astype(np.float32)

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


def _load(folder: Path, adapter: Path | None) -> Any:
    """Return a model with its adapter. Its weights are not rounded as those of the training were:
    rounding and writing them again takes longer than everything else here.
    """
    with _without_scipy_and_sklearn():
        from tasks.lm.loading import load_model

        model = load_model(str(folder))
    return (_put_on(model, adapter) if adapter else model).eval()


def _put_on(model: Any, adapter: Path) -> Any:
    """Return the model with the products of an adapter's matrices added to its weights.

    peft does this for every kind of LoRA. Its import takes two CPU seconds, which the plain kind,
    that of finetune, does without.
    """
    from safetensors.torch import load_file

    config = read_json(adapter / "adapter_config.json")
    weights = load_file(adapter / "adapter_model.safetensors")
    plain = all(name.endswith((_DOWN, _UP)) for name in weights)
    if not plain or any(config.get(name) for name in _OTHER_KINDS):
        from peft import PeftModel

        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    for name in weights:
        if name.endswith(_DOWN):
            module = name.removeprefix("base_model.model.").removesuffix(_DOWN)
            product = weights[name.removesuffix(_DOWN) + _UP].float() @ weights[name].float()
            weight = model.get_submodule(module).weight.data
            weight += (product * (config["lora_alpha"] / config["r"])).to(weight)
    return model


@contextlib.contextmanager
def _without_scipy_and_sklearn() -> Iterator[None]:
    """Let transformers find neither scikit-learn nor SciPy in the block. It would import them for a
    way to generate and a loss that are not used here: a second or more.
    """
    hidden = {"scipy", "sklearn"} - set(sys.modules)
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread in the block. Where other work has the cores, several wait for each
    other, and a question takes twice as long.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def open_embedder(params: Params, adapter: Path, cache: Path) -> Embedder:
    """Return an embedder of the model that was trained."""
    finetune = params.finetune
    # Not of the folder's other files: they tell of the training, and change nothing here.
    files = (adapter / name for name in ("adapter_config.json", "adapter_model.safetensors"))
    digests = [sha256_file(file) for file in files if file.is_file()]
    name = fingerprint(*digests, finetune.model, finetune.revision, _TOKENS)

    def find_model() -> Path:
        from tasks.lm.models import base_path
        from tasks.lm.weight_files import weight_bytes

        if not (adapter / "adapter_config.json").is_file():
            raise PipelineError("the run has no adapter here")
        folder = Path(base_path(finetune.model, finetune.revision))
        size = weight_bytes(folder)
        if size > MOST_BYTES:
            raise PipelineError(f"a model of {size / 2**30:.1f} GB takes more than seconds")
        take_cards()
        return folder

    return Embedder(name, find_model, cache, adapter)
