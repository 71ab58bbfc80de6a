"""The commits of a run's hub models, written into its parameters before the graph runs.

DVC knows a model by its settings alone. With the commit there a branch that has moved is another
setting: every stage that loads the model runs again, and none mixes two states of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.runs.own_process import run_module
from tasks.core.sections.verify import CROSS_FIT
from tasks.core.setting_paths import find_models

_COMMIT = re.compile(r"[0-9a-f]{40}")


def pin_hub_models(params: dict[str, Any], folder: Path, log: Callable[[str], None]) -> bool:
    """Set the ``revision`` of each hub model that a run loads to its present commit; return whether
    there is one.

    ``folder`` is the run's checkout, and has these parameters in its ``params.yaml``. A process of
    its own asks the hub, or its cache where there is no network. A model that cannot be loaded is a
    :class:`PipelineError`. With work pools (``PIPELINE_POOLS``) there is none: the machines that
    load the models may have another network than this one, and their stages ask for themselves.
    """
    moving = {
        setting: section
        for setting, section, key in find_models(params)
        if _is_on_hub(section[key], folder)
        and not _COMMIT.fullmatch(section.get("revision", "main"))
    }
    if not moving:
        return False
    commits = json.loads(run_module("tasks.lm.hub_commits", "models", folder))
    for setting, commit in commits.items():
        if setting in moving:
            moving[setting]["revision"] = commit
            log(f"{setting} is at commit {commit[:12]} of the hub")
    return bool(moving.keys() & commits.keys())


def _is_on_hub(name: str, folder: Path) -> bool:
    """Tell whether a setting can only mean a model of the hub."""
    # The hub has no account "models": its own pages begin so.
    named = not name.startswith(("embedded:", "models/")) and name not in ("none", CROSS_FIT)
    return named and not (folder / name).exists()
