"""The ``params.yaml`` of a run's checkout: the run's parameters, with what the checkout lacks named
where it is, and models named with their present state.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.runs.git import run_git
from flows.runs.hub_models import pin_hub_models
from tasks.core.digests import kept_sha256_folder
from tasks.core.files import write_text
from tasks.core.sections.finetune import CHAMPION
from tasks.core.setting_paths import FOLDER_REVISION, find_models, find_paths
from tasks.core.stage import WORK

#: First parts of paths that are meant in the main checkout, whatever a worktree has there: what
#: runs make, each in its own, and what is beside the checkout.
_NOT_ITS_OWN = ("artifacts", str(WORK), os.pardir)


def write_params(
    asked: Mapping[str, Any], main: Path, checkout: Path, log: Callable[[str], None]
) -> None:
    """Write the ``params.yaml`` of a run in ``checkout``, a worktree of ``main``.

    A path that exists only in the main checkout, or is meant there, becomes absolute. A model's
    folder gets its digest as revision, a model of the hub its commit: DVC knows only the folder
    ``models``.
    """
    params = copy.deepcopy(dict(asked))
    corpus = params["ingest"]["corpus"]
    if _has_untracked(corpus, main, checkout):
        log(f"the corpus is read in your checkout: git does not track all files of {corpus}")
        params["ingest"]["corpus"] = str((main / corpus).resolve())
    for section, key in find_paths(params):
        value = section[key]
        if (
            (key, value) != ("start", CHAMPION)  # a folder of this run
            and not Path(value).is_absolute()
            and not _has(checkout, value)
            and (main / value).exists()
        ):
            section[key] = str((main / value).resolve())
    for _, section, key in find_models(params):
        folder = checkout / section[key]
        tracked = folder.is_relative_to(checkout / "models")
        if folder.is_dir() and not tracked and section.get("revision", "main") == "main":
            section["revision"] = FOLDER_REVISION + kept_sha256_folder(folder)
    _write_yaml(checkout, params)
    if pin_hub_models(params, checkout, log):
        _write_yaml(checkout, params)


def _has(checkout: Path, value: str) -> bool:
    """Tell whether a worktree itself has what a relative path means."""
    first = os.path.normpath(value).split(os.sep)[0]
    return first not in _NOT_ITS_OWN and (checkout / value).exists()


def _write_yaml(folder: Path, params: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(params, sort_keys=False, allow_unicode=True, width=1000)
    write_text(folder / "params.yaml", text)


def _has_untracked(corpus: str, main: Path, checkout: Path) -> bool:
    """Tell whether a corpus that git tracks in part has files that the worktree lacks."""
    if "://" in corpus or Path(corpus).is_absolute() or not (checkout / corpus).exists():
        return False
    if (checkout / f"{Path(corpus).parts[0]}.dvc").is_file():
        return False  # DVC has put it there whole
    return bool(run_git(main, "ls-files", "--others", "--", corpus, check=False))
