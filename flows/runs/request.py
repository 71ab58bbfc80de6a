"""What a run is asked for: profiles, settings, a name; from the command line or from the form of
Prefect's pages. Everything is checked before anything runs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from flows.runs.worktree import Run, folder_of
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint
from tasks.core.overlay import DEFAULT, profile_files, profile_names, read_layers
from tasks.core.params import parse_params

#: What set-up chose pins for: a hash and ``cpu`` or ``gpu`` (see scripts/setup.py).
_PINS = Path(".venv") / "pins.sha256"
#: The paper's setting, for machines whose GPU can run it.
_GPU_PROFILE = "mistral-7b"
#: Fields of the form by which a run is started, and the settings each stands for.
FIELDS = {
    "corpus": ("ingest.corpus",),
    "task_types": ("generate.task_types",),
    "generator": ("generate.generator",),
    "model": ("finetune.model",),
    "rows": ("validate.max_rows",),
    "seed": ("generate.seed", "validate.seed", "finetune.seed"),
}


def plan(
    main: Path, profile: str = DEFAULT, overrides: list[str] | None = None, name: str = ""
) -> Run:
    """Return the run that profiles (``mistral-7b,mine``: the last one is strongest) and
    ``section.key=value`` settings ask for. Nothing is written.

    Raises :class:`PipelineError` for an unknown profile, a malformed setting, an unknown
    parameter, a wrong value.
    """
    settings = overrides or []
    files = profile_files(main / "profiles", profile)
    params, layers = read_layers(main / "params.yaml", files, settings)
    parse_params(params, layers)
    if not files and not settings and not name:
        return Run(DEFAULT, main, main, params)
    name = check_name(name or derive_name(profile, settings))
    return Run(name, main, folder_of(main, name), params)


def choose_profile(main: Path) -> str:
    """Return the profile of a run that names none: the paper's where set-up installed the GPU pins,
    else the embedded default.
    """
    pins = main / _PINS
    gpu = pins.is_file() and pins.read_text(encoding="utf-8").split()[-1:] == ["gpu"]
    return _GPU_PROFILE if gpu and _GPU_PROFILE in profile_names(main / "profiles") else DEFAULT


def name_run(parameters: dict[str, Any]) -> str:
    """Return the name of the run that a flow run's parameters ask for."""
    return str(
        parameters.get("name")
        or derive_name(parameters.get("profile") or DEFAULT, read_settings(parameters))
    )


def read_settings(parameters: dict[str, Any]) -> list[str]:
    """Return a form's fields as ``section.key=value`` settings, the form's own ``overrides`` last;
    an empty field asks for nothing.
    """
    asked: list[str] = []
    for asked_field, keys in FIELDS.items():
        value = parameters.get(asked_field)
        if value:
            value = (
                [getattr(part, "value", part) for part in value]
                if isinstance(value, (list, tuple))
                else value
            )
            asked += [f"{key}={json.dumps(value)}" for key in keys]
    return asked + list(parameters.get("overrides") or [])


def derive_name(profile: str, overrides: list[str]) -> str:
    """Return a readable name that is the same for the same request and for no other."""
    names = [name.strip() for name in profile.split(",")]
    if len(names) == 1 and not overrides:
        return profile
    values = [
        re.sub(r"[^A-Za-z0-9.]+", "-", override.partition(".")[2]).strip("-.")
        for override in sorted(overrides)
    ]
    words = "-".join(dict.fromkeys(values))[:40].strip(
        "-."
    )  # the form's one seed is three settings
    stacked = [",".join(names)] if len(names) > 1 else []
    key = fingerprint([*stacked, *sorted(overrides)])[:6]
    return "-".join([*names, *([words] if words else []), key])


def check_name(name: str) -> str:
    """Return a name that a worktree and a DVC experiment can have; refuse any other."""
    if (
        name == DEFAULT
        or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name)
        or ".." in name
        or name.endswith((".", ".lock"))
    ):
        raise PipelineError(
            f"{name!r} cannot name a run of its own: use letters, digits, '.', '-' and "
            f"'_', at most 80, and not {DEFAULT!r}"
        )
    return name
