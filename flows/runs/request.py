"""A request for a run: profiles, settings and a name, from the command line or Prefect's form.

Everything is checked before anything runs.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from flows.runs.worktree import Run, folder_of
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint
from tasks.core.mix import parse_mix
from tasks.core.overlay import DEFAULT, profile_files, profile_names, read_layers
from tasks.core.params import parse_params
from tasks.core.secrets import SECRET
from tasks.core.setting_paths import NOTHING
from tasks.core.task_types import task_type
from tasks.core.yaml_file import read_yaml
from tasks.scoring.datasets import has_items, load_dataset

#: Written by set-up: a hash of the pins and ``cpu`` or ``gpu`` (see scripts/setup.py).
_PINS = Path(".venv") / "pins.sha256"
#: The paper's setting, for machines whose GPU can run it.
_GPU_PROFILE = "mistral-7b"
#: Most characters of a run's name, and of its words for the settings.
_MOST, _MOST_WORDS = 80, 40
#: Fields of the form that starts a run, and the settings each one sets.
FIELDS = {
    "corpus": ("ingest.corpus",),
    "task_types": ("generate.task_types",),
    "generator": ("generate.generator",),
    "model": ("finetune.model",),
    "rows": ("supervise.max_rows",),
    # Not those of the evaluation: runs of different seeds are asked the same questions.
    "seed": ("generate.seed", "validate.seed", "verify.seed", "supervise.seed", "finetune.seed"),
    "max_minutes": ("run.max_minutes",),
}


def plan(
    main: Path, profile: str = DEFAULT, overrides: list[str] | None = None, name: str = ""
) -> Run:
    """Return the run of profiles (``mistral-7b,mine``: the last one wins) and ``section.key=value``
    settings. Nothing is written.

    Raises :class:`PipelineError` for an unknown profile or parameter, a malformed setting or a
    wrong value.
    """
    settings = overrides or []
    files = profile_files(main / "profiles", profile)
    params, layers = read_layers(main / "params.yaml", files, settings)
    parse_params(params, layers, settings=settings)
    if not files and not _of_results(settings) and not name:
        return Run(DEFAULT, main, main, params, make_command(profile, settings))
    derived = derive_name(profile, settings)
    name = check_name(name or derived)
    # No make command asks for a name of one's own.
    command = make_command(profile, settings) if name == derived else ""
    return Run(name, main, folder_of(main, name), params, command, tuple(files))


def make_command(profile: str, settings: list[str], target: str = "run", **variables: str) -> str:
    """Return the make command of a request, as a person would type it in a shell."""
    given = {} if profile in ("", DEFAULT) else {"PROFILE": profile}
    if settings:
        given["SET"] = shlex.join(settings)
    words = [f"{name}={shlex.quote(text)}" for name, text in (given | variables).items()]
    return " ".join(["make", target, *words])


def find_doubts(run: Run) -> list[str]:
    """Return a line for each setting that makes a run measure little, although it will run."""
    values = run.params
    generate, evaluate = values["generate"], values["evaluate"]
    doubts = []
    shipped = read_yaml(run.main / "params.yaml")
    own_corpus = values["ingest"]["corpus"] != shipped["ingest"]["corpus"]
    if own_corpus and evaluate["items"] == shipped["evaluate"]["items"]:
        doubts.append(
            f"it reads {values['ingest']['corpus']}, and is scored on the questions of the shipped "
            f"example: set evaluate.items and evaluate.dataset (items: {NOTHING}, no F1)"
        )
    types = [task_type(str(name)) for name in generate["task_types"]]
    asked = _asked_type(run)
    if asked and asked not in types and parse_mix(values["supervise"]["source"]).generator:
        doubts.append(
            f"it learns {', '.join(types)} (generate.task_types), and is asked {asked} "
            f"({evaluate['dataset']}): a model learns the form that its rows have"
        )
    return doubts


def _asked_type(run: Run) -> str:
    """Return the task type of the labelled items; empty without items, or where the dataset file is
    wrong: the first stage that reads it says how.
    """
    evaluate = run.params["evaluate"]
    try:
        dataset = load_dataset(run.main / evaluate["dataset"])
    except PipelineError:
        return ""
    return task_type(dataset.task_type) if has_items(Path(evaluate["items"])) else ""


def machine_profile(main: Path) -> str:
    """Return the profile that suits this machine: with the GPU pins the paper's.

    A run takes it only where it is asked for: it fetches 29 GB.
    """
    pins = main / _PINS
    gpu = pins.is_file() and pins.read_text(encoding="utf-8").split()[-1:] == ["gpu"]
    return _GPU_PROFILE if gpu and _GPU_PROFILE in profile_names(main / "profiles") else DEFAULT


def name_run(parameters: dict[str, Any]) -> str:
    """Return the run name of a flow run's parameters."""
    name = parameters.get("name")
    if name and not holds_secret(name):
        return str(name)
    return derive_name(parameters.get("profile") or DEFAULT, read_settings(parameters))


def read_settings(parameters: dict[str, Any]) -> list[str]:
    """Return a form's filled fields as ``section.key=value`` settings, its ``overrides`` last."""
    settings: list[str] = []
    for name, keys in FIELDS.items():
        value = parameters.get(name)
        if value:
            if isinstance(value, (list, tuple)):
                value = [getattr(part, "value", part) for part in value]
            # As it is: JSON writes an emoji as two halves, which YAML does not put together.
            text = json.dumps(value, ensure_ascii=False)
            settings += [f"{key}={text}" for key in keys]
    return settings + list(parameters.get("overrides") or [])


def derive_name(profile: str, overrides: list[str]) -> str:
    """Return a readable name that is unique to the request, whatever its limits: another one must
    continue the same run.
    """
    overrides = _of_results(overrides)
    names = [part for part in map(str.strip, profile.split(",")) if part not in ("", DEFAULT)]
    names = names or [DEFAULT]
    if len(names) == 1 and not overrides:
        return names[0]
    if holds_secret(overrides):  # it will be refused; the name must not repeat it
        overrides = []
    values = [
        re.sub(r"(?:[^A-Za-z0-9.]|\.{2,})+", "-", override.partition(".")[2]).strip("-.")
        for override in sorted(overrides)
    ]
    # Without repetition: the form's one seed is five settings.
    words = "-".join(dict.fromkeys(values))[:_MOST_WORDS]
    stacked = [",".join(names)] if len(names) > 1 else []
    key = fingerprint([*stacked, *sorted(overrides)])[:6]
    stack = "-".join(names)[: _MOST - len(f"-{key}")]
    words = words[: max(0, _MOST - len(f"{stack}--{key}"))].strip("-.")
    return "-".join(filter(None, (stack, words, key)))


def _of_results(settings: list[str]) -> list[str]:
    """Return the settings that results depend on."""
    return [setting for setting in settings if not setting.startswith("run.")]


def holds_secret(values: Any) -> bool:
    """Tell whether a request's values hold what looks like a password or a key."""
    return bool(SECRET.search(json.dumps(values, default=str)))


def check_name(name: str) -> str:
    """Return ``name`` if a worktree and a DVC experiment can have it; refuse any other."""
    if SECRET.search(name):
        raise PipelineError("the run's name looks like a password or a key: give it another one")
    if (
        name == DEFAULT
        or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)
        or len(name) > _MOST
        or ".." in name
        or name.endswith((".", ".lock"))
    ):
        raise PipelineError(
            f"{name!r} cannot name a run of its own: use letters, digits, '.', '-', '_', at most "
            f"{_MOST}, and not {DEFAULT!r}"
        )
    return name
