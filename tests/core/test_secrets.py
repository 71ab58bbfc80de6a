"""A password or key among the parameters is refused before anything could write it down, and never
shown.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.runs import request
from tasks.core.errors import PipelineError
from tasks.core.params import parse_params
from tasks.core.yaml_file import read_yaml
from tasks.tracking.mlflow_store import shown_uri
from tests.conftest import ROOT

_KEYS = [
    "hf_" + "a1B2" * 8,
    "sk-proj-" + "a1B2" * 8,
    "ghp_" + "a1B2" * 9,
    "AKIA" + "A1B2" * 4,
    "https://me:hunter2hunter2@host/models",
    "-----BEGIN RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", _KEYS)
def test_refused_and_not_repeated(secret: str) -> None:
    values = read_yaml(ROOT / "params.yaml")
    values["generate"]["generator"] = secret
    with pytest.raises(
        PipelineError, match=r"the value of generate\.generator looks like a password or a key"
    ) as refused:
        parse_params(values, "params.yaml")
    assert secret not in str(refused.value)


def test_nor_on_the_command_line() -> None:
    with pytest.raises(PipelineError, match=r"finetune\.model looks like") as refused:
        request.plan(ROOT, overrides=[f"finetune.model={_KEYS[0]}"], name="x")
    assert _KEYS[0] not in str(refused.value)


@pytest.mark.parametrize(
    "harmless",
    [
        "mistralai/Mistral-7B-v0.1",
        "data/incidents/documents",
        "http://127.0.0.1:5000",
        "/home/me/hf_models/sk-small",
    ],
)
def test_names_and_paths_pass(harmless: str) -> None:
    values = read_yaml(ROOT / "params.yaml")
    values["generate"]["generator"] = harmless
    assert parse_params(values, "params.yaml").generate.generator == harmless


def test_the_stores_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    assert shown_uri() == "http://***@127.0.0.1:9"


def test_every_shipped_file_of_parameters_passes() -> None:
    files = [*Path(ROOT / "profiles").glob("*.yaml"), ROOT / "params.yaml"]
    assert len(files) > 2
    for file in files:
        name = "default" if file.name == "params.yaml" else file.stem
        request.plan(ROOT, name)
