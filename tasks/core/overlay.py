"""Settings in layers: a file, then profiles in order, then single settings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError, did_you_mean
from tasks.core.yaml_file import parse_yaml, read_yaml

#: The profile that changes nothing.
DEFAULT = "default"
_SETTING = re.compile(r"([a-z_]+(?:\.[a-z0-9_]+)+)=(.*)", re.DOTALL)


def overlay(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with its values replaced by those of ``over``, section by section."""
    merged = dict(base)
    for key, value in over.items():
        merged[key] = (
            overlay(base[key], value)
            if isinstance(value, dict) and isinstance(base.get(key), dict)
            else value
        )
    return merged


def read_layers(
    base: Path, profiles: Sequence[Path] = (), settings: Sequence[str] = ()
) -> tuple[dict[str, Any], str]:
    """Return the values of a file, its profiles and ``section.key=value`` settings, unchecked, and
    their source for error messages. Later layers win.
    """
    values = read_yaml(base)
    for profile in profiles:
        values = overlay(values, read_yaml(profile))
    for text in settings:
        values = _replace(values, *parse_setting(text))
    return values, " + ".join([str(base), *map(str, profiles), *settings])


def parse_setting(text: str) -> tuple[list[str], Any]:
    """Return the path and the value of ``generate.temperature=0.7``.

    The value is YAML, as in ``generate.task_types=[ynqa,nli]``; no value is an empty text.
    """
    match = _SETTING.fullmatch(text.strip())
    if match is None:
        raise PipelineError(
            f"{text!r} is not a setting: write section.key=value, such as generate.temperature=0.7"
        )
    return match[1].split("."), parse_yaml(match[2], f"the value of {text!r}") if match[2] else ""


def split_settings(text: str) -> list[str]:
    """Return the settings of one text, such as make's ``SET``, split like words of a shell; a list
    or a map may have spaces.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise PipelineError(
            f"the settings {text!r} cannot be split into words: {error}; write section.key=value "
            "with spaces between, and quotes around a value with spaces"
        ) from error
    settings: list[str] = []
    for word in words:
        if settings and _is_open(settings[-1]) and not _SETTING.fullmatch(word):
            settings[-1] += f" {word}"
        else:
            settings.append(word)
    return settings


def _is_open(setting: str) -> bool:
    """Tell whether a list or a map begins in a setting and does not end there."""
    return sum(map(setting.count, "[{")) > sum(map(setting.count, "]}"))


def _replace(values: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Return ``values`` with one value replaced: ``finetune.mixture={}`` empties a profile's."""
    key, *rest = path
    if not rest:
        return {**values, key: value}
    inner = values.get(key)
    return {**values, key: _replace(inner if isinstance(inner, dict) else {}, rest, value)}


def profile_names(folder: Path) -> list[str]:
    """Return the names of the profiles in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def profile_files(folder: Path, names: str) -> list[Path]:
    """Return the files of profiles named like ``mistral-7b,mine``; ``default`` adds none."""
    known = profile_names(folder)
    wanted = [name for part in names.split(",") if (name := part.strip()) not in ("", DEFAULT)]
    for name in wanted:
        if name not in known:
            raise PipelineError(
                f"unknown profile {name!r}{did_you_mean(name, [DEFAULT, *known])}: "
                f"profiles are the files of {folder.name}/"
            )
    return [folder / f"{name}.yaml" for name in wanted]
