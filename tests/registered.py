"""Registered versions in a real store: of the tiny model, as a run leaves it, or names alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.files import read_json
from tests.evaluate import test_evaluate

EVIL_NAME = "a|b](http://evil.example) <img src=x onerror=alert(1)>\n# Injected\n| x | y |"


def register_names(folder: Path) -> str:
    """Register two names without files in a new store of a folder; return its address.

    ``incidents-qa`` has versions 1 and 2, which is its champion; ``contracts`` has version 1.
    """
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    run = client.create_run(client.create_experiment("names", (folder / "files").as_uri()))
    for name in ("contracts", "incidents-qa"):
        client.create_registered_model(name)
    for name in ("contracts", "incidents-qa", "incidents-qa"):
        client.create_model_version(name, str(folder / "gone"), run.info.run_id)
    client.set_registered_model_alias("incidents-qa", "champion", "2")
    return uri


def registered(
    make_params: Any, tiny_model: Path, instructions: Path, kind: str = "privacy", **finetune: Any
) -> dict[str, Any]:
    """Train, score and register; return what ``registration.json`` says."""
    test_evaluate._write_judged(instructions)
    params = test_evaluate._finetune(make_params, tiny_model, instructions, kind, **finetune)
    assert test_evaluate._evaluate(params) == 0
    assert test_evaluate._register(params, instructions) == 0
    told: dict[str, Any] = read_json(Path("artifacts/register/registration.json"))
    return told
