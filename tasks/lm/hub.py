"""Models of the Hugging Face hub: fetched into its cache, pinned to a commit, read as a folder.

The token of gated and private models is ``HF_TOKEN`` of the environment. It is sent only for a
model that a setting names, and is never logged. Without the network the cache is used.
"""

from __future__ import annotations

import logging
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.secrets import hub_token
from tasks.lm.weight_files import PATTERN, loaded_names, weight_bytes, weight_files

log = logging.getLogger(__name__)
#: What a tokenizer is made of, with the configuration and the index of the weights.
_TOKENIZER = ("*.json", "*.jinja", "*.model", "*.txt")
#: Weights, in the one format that holds no code.
_WEIGHTS = "*.safetensors"


@lru_cache
def _configuration(name: str, revision: str) -> Path:
    """Return the folder of a hub model, which is named after the revision's commit (40 hex digits),
    with what its tokenizer needs: one answer for the life of this process.
    """
    return _fetch(name, revision, _TOKENIZER)


@lru_cache
def hub_folder(name: str, revision: str, weights: bool = True) -> Path:
    """Return the folder of a hub model at a revision, with or without its weights.

    What the cache lacks is downloaded; the log says before how much that is, and where it goes. A
    :class:`PipelineError` says in one line what is wrong: no such model or revision, a gated model,
    no network, no room on the disk.
    """
    folder = _configuration(name, revision)
    if not weights:
        return folder
    log.info("model %s is at commit %s of the hub", name, folder.name[:12])
    files = _list(name, folder)
    _announce(name, files)
    loaded = [file.filename for file in files if file.filename.endswith(".safetensors")]
    return _fetch(name, folder.name, (*_TOKENIZER, *(loaded or [PATTERN])))


def hub_weights(name: str, revision: str) -> tuple[int, int]:
    """Return the bytes of a hub model's weights, and of what the cache lacks of the model; nothing
    but its configuration and tokenizer is downloaded for that.

    A model without safetensors is refused, and one whose weights are not all in the cache where
    nothing can be downloaded.
    """
    folder = _configuration(name, revision)
    files = _list(name, folder)
    if not files:  # no network: the cache has to have them all
        if not weight_files(folder) or not all(file.is_file() for file in weight_files(folder)):
            raise _cannot_come(name, "some of its weights are missing")
        return weight_bytes(folder), 0
    weights = [file for file in files if file.filename.endswith(".safetensors")]
    if not weights:
        raise PipelineError(
            f"{name} holds no .safetensors weights (other formats can hold code and are refused): "
            "name a model that has them"
        )
    return _size(weights), _size([file for file in files if file.will_download])


def _announce(name: str, files: list[Any]) -> None:
    """Log what the cache lacks of a model, and refuse what its disk has no room for."""
    from huggingface_hub import constants

    lacking = [file for file in files if file.will_download]
    size = _size(lacking)
    if not size:
        return
    cache = Path(constants.HF_HUB_CACHE)
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    told = f"{size / 1e9:.1f} GB into {cache} ({free / 1e9:.1f} GB free)"
    if size > free:
        raise PipelineError(
            f"model {name!r}: there is no room for {told}: free some, or name another folder in "
            "HF_HUB_CACHE"
        )
    log.info("fetching %s: %d files, %s", name, len(lacking), told)


def _size(files: list[Any]) -> int:
    return sum(file.file_size or 0 for file in files)


def _list(name: str, folder: Path) -> list[Any]:
    """Return the files that are fetched of a model, with their sizes; none without the network,
    where the cache is all that there is. ``folder`` is that of :func:`_configuration`.
    """
    from httpx2 import HTTPError
    from huggingface_hub import snapshot_download

    try:
        files = snapshot_download(
            name,
            revision=folder.name,
            token=hub_token(),
            allow_patterns=[*_TOKENIZER, _WEIGHTS],
            dry_run=True,
        )
    except (HTTPError, OSError, ValueError) as error:  # the download itself says what is wrong
        log.debug("the sizes of %s are not known: %s", name, error)
        return []
    loaded = set(loaded_names(folder, (file.filename for file in files)))
    return [
        file
        for file in files
        if file.filename in loaded or not file.filename.endswith(".safetensors")
    ]


def _fetch(name: str, revision: str, patterns: tuple[str, ...]) -> Path:
    from httpx2 import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    token = hub_token()
    asked = "the token in HF_TOKEN" if token else "HF_TOKEN in the environment"
    try:
        return Path(
            snapshot_download(name, revision=revision, token=token, allow_patterns=list(patterns))
        )
    except GatedRepoError as error:
        raise PipelineError(
            f"model {name!r} is gated: accept its terms at https://huggingface.co/{name}, and "
            + (f"check that {asked} is of that account" if token else f"set {asked}")
        ) from error
    except RepositoryNotFoundError as error:
        raise PipelineError(
            f"model {name!r} is not on the Hugging Face hub, or is private: check the name and "
            + asked
        ) from error
    except RevisionNotFoundError as error:
        raise PipelineError(f"model {name!r} has no revision {revision!r} on the hub") from error
    except (LocalEntryNotFoundError, HTTPError, ValueError) as error:
        raise _cannot_come(name, type(error).__name__) from error


def _cannot_come(name: str, why: str) -> PipelineError:
    from huggingface_hub import constants

    network = "unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "check the network"
    return PipelineError(
        f"model {name!r} is neither whole in the hub's cache nor can it be downloaded ({why}): "
        f"{network}, or download it elsewhere and name its folder"
    )
