"""The settings of a trial, where a fault needs others than the product's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tasks.core.yaml_file import read_yaml

#: One trial in ten waits as long as the product does.
_UNHURRIED = 10
#: Instead of the four seconds for which a stage waits for a lock.
_LOCK_SECONDS = 0.3


def is_unhurried(chance: Random) -> bool:
    """Draw whether a trial keeps every wait of the product: one of ten does. In the others what
    only waits, and does nothing else, is cut short: what is done before and after is the same.
    """
    return chance.randrange(_UNHURRIED) == 0


def mlflow_waits(chance: Random) -> dict[str, str]:
    """Return the environment of a stage whose MLflow goes away: it asks as often as in a run, most
    times without the pauses between.
    """
    if is_unhurried(chance):
        return {}
    names = ("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER")
    return dict.fromkeys(names, "0")


def lock_waits(chance: Random) -> Callable[[], None]:
    """Return what lets a process wait for a lock a shorter time, most times."""
    if is_unhurried(chance):
        return lambda: None

    def hurry() -> None:
        from tasks.core import lock

        real = lock._wait

        def wait(descriptor: int, kind: int, patience: float) -> bool:
            return real(descriptor, kind, min(patience, _LOCK_SECONDS))

        lock._wait = wait

    return hurry


def set_parameter(folder: Path, name: str, value: Any) -> None:
    """Set ``section.key`` in a trial's folder; one that its file does not have is an error."""
    path = folder / "params.yaml"
    values = read_yaml(path)
    section, _, key = name.partition(".")
    if key not in values[section]:
        raise KeyError(f"{path} has no {name}")
    values[section][key] = value
    path.write_text(yaml.safe_dump(values))
