"""The parameters of a trial, where a fault needs others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tasks.core.yaml_file import read_yaml


def set_parameter(folder: Path, name: str, value: Any) -> None:
    """Set ``section.key`` in a trial's folder; one that its file does not have is an error."""
    path = folder / "params.yaml"
    values = read_yaml(path)
    section, _, key = name.partition(".")
    if key not in values[section]:
        raise KeyError(f"{path} has no {name}")
    values[section][key] = value
    path.write_text(yaml.safe_dump(values))
