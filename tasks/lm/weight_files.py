"""Which files of a model hold the weights that are loaded.

Mistral's models hold them twice: in ``model-*.safetensors`` and, under other names of tensors, in
``consolidated.safetensors``. transformers reads the first alone, and so does vLLM where there is an
index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.files import read_json

#: Tensor -> file, of weights in several files.
INDEX = "model.safetensors.index.json"
#: The files where there is no index.
PATTERN = "model*.safetensors"
_FILE = re.compile(r"[\w-][\w.-]{0,199}\.safetensors", re.ASCII)


def loaded_names(folder: Path, names: Iterable[str]) -> list[str]:
    """Return the files of weights that are loaded of a model that has the files ``names``, sorted:
    those that the index in ``folder`` names, else :data:`PATTERN`.

    An index that names no files, or others than safetensors beside it (transformers would load a
    pickle by it), is a :class:`PipelineError`; files that it names can be missing.
    """
    if not (folder / INDEX).is_file():
        return sorted(name for name in names if fnmatch(name, PATTERN))
    index = read_json(folder / INDEX)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict):
        raise PipelineError(f"{folder / INDEX} names no files of weights: download the model again")
    for name in files.values():
        if not isinstance(name, str) or not _FILE.fullmatch(name):
            raise PipelineError(
                f"{folder / INDEX} names {str(name)[:40]!r}, which is no .safetensors file beside "
                "it (other formats can hold code and are refused): download the model again"
            )
    return sorted(set(files.values()))


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights that are loaded of a model's folder; they can be missing."""
    return [
        folder / name for name in loaded_names(folder, (path.name for path in folder.iterdir()))
    ]


def weight_bytes(folder: Path) -> int:
    """Return the bytes of the weights that are loaded of a model's folder, of the files there."""
    return sum(file.stat().st_size for file in weight_files(folder) if file.is_file())
