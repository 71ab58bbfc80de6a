"""The settings of ``params.yaml`` that are paths, or may be one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError

#: What a setting names where it needs no file or folder. DVC runs a stage only if each of its
#: inputs exists, so "none" has to be a file too. No stage reads its text.
NOTHING = "supervision/none"
#: Suffix of a local file that holds the address of a remote corpus: DVC watches local files only.
POINTER = ".address"
#: How the address of a remote corpus begins.
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|.*::[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_nothing(path: Path) -> bool:
    """Tell whether a setting's path is :data:`NOTHING`, of any checkout."""
    return path.parts[-2:] == Path(NOTHING).parts


def is_address(corpus: str) -> bool:
    """Tell whether a corpus is at an address, or a file that names one: not on this machine."""
    return corpus.endswith(POINTER) or bool(ADDRESS.match(corpus))


def read_pointer(path: Path) -> str:
    """Return the address that a file ``*.address`` holds: its first line. What is below does not
    count, but DVC sees that it changes.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path} is not UTF-8: save it as UTF-8") from error
    address = text.strip().partition("\n")[0].strip()
    if not address:
        raise PipelineError(f"{path} is empty: write the address of a corpus into it")
    return address


#: Settings that are a path, but for the champion of ``finetune.start``.
FILES = (
    ("ingest", "corpus"),
    ("evaluate", "items"),
    ("evaluate", "dataset"),
    ("verify", "tests"),
    ("verify", "reviews"),
    ("supervise", "rows"),
    ("supervise", "prompts"),
    ("finetune", "start"),
    ("finetune", "restart"),
    ("baseline", "general"),
)
#: Settings that may be a path; those of ``verify.fit`` lie a level deeper.
_PATHS = (
    *FILES,
    ("ingest", "tokenizer"),
    ("generate", "generator"),
    ("verify", "reader"),
    ("verify", "fit", "model"),
    ("verify", "fit", "start"),
    ("finetune", "model"),
)
#: Settings that name a model, and have a ``revision`` beside them.
_MODELS = (
    ("generate", "generator"),
    ("verify", "reader"),
    ("verify", "fit", "model"),
    ("finetune", "model"),
)
#: What the revision of a model's folder begins with; its files' digest follows.
FOLDER_REVISION = "sha256:"


def find_paths(params: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the section and the key of each setting that may be a path and has a value."""
    return ((section, key) for _, section, key in _find(params, _PATHS))


def find_models(params: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield name (``generate.generator``), section and key of each setting that names a model and
    has a revision.
    """
    return _find(params, _MODELS)


def _find(
    params: Mapping[str, Any], settings: tuple[tuple[str, ...], ...]
) -> Iterator[tuple[str, dict[str, Any], str]]:
    for *sections, key in settings:
        section: Any = params
        for name in sections:
            section = section.get(name) or {}
        if section.get(key):
            yield ".".join((*sections, key)), section, key
