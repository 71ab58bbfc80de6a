"""A registered version of the tiny model, as a run leaves it: trained, scored, in a real store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.files import read_json
from tests.evaluate import test_evaluate

EVIL_NAME = "a|b](http://evil.example) <img src=x onerror=alert(1)>\n# Injected\n| x | y |"


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
