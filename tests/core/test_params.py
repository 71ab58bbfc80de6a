"""params.yaml: typed, frozen, and every problem named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.core.errors import PipelineError
from tasks.core.overlay import overlay
from tasks.core.params import Params, parse_params
from tasks.core.yaml_file import read_yaml
from tests.conftest import ROOT

_PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


def test_there_are_profiles() -> None:
    assert _PROFILES


@pytest.mark.parametrize("path", _PROFILES, ids=lambda path: path.stem)
def test_every_profile_makes_valid_params(path: Path) -> None:
    parse_params(overlay(read_yaml(ROOT / "params.yaml"), read_yaml(path)), path.name)


def test_params_are_frozen(params: Params) -> None:
    with pytest.raises(ValidationError):
        params.generate.temperature = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"generate": {"temprature": 0.7}},
            r"unknown key 'generate.temprature' \(did you mean 'temperature'\?\)",
        ),
        ({"genrate": {}}, r"unknown key 'genrate' \(did you mean 'generate'\?\)"),
        ({"generate": {"top_p": 1.5}}, "generate.top_p = 1.5"),
        ({"generate": {"temperature": "hot"}}, "generate.temperature = 'hot'"),
        ({"generate": {"task_types": ["exq"]}}, "unknown task type 'exq' .*did you mean 'exqa'"),
        ({"generate": {"task_types": []}}, "generate.task_types"),
        ({"generate": {"engine": "llamacpp"}}, "'vllm' or 'transformers'"),
        ({"finetune": {"micro_batch_rows": 3}}, "micro_batch_rows = 3: .*must divide .*batch_rows"),
        ({"finetune": {"epochs": float("inf")}}, "finetune.epochs = inf"),
        ({"register": {"experiment": " "}}, "register.experiment = ' '"),
        ({"register": {"model_name": "a/b"}}, "register.model_name = 'a/b'"),
        ({"register": {"model_name": "it's"}}, "register.model_name = "),
    ],
)
def test_a_bad_value_is_one_line_that_names_it(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        parse_params(overlay(read_yaml(ROOT / "params.yaml"), change), "params.yaml")


def test_task_types_are_known_by_either_name() -> None:
    values = overlay(
        read_yaml(ROOT / "params.yaml"),
        {"generate": {"task_types": ["natural language inference", "exqa"]}},
    )
    assert parse_params(values, "params.yaml").generate.task_types == ("nli", "exqa")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- a", "must be a YAML mapping")]
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(PipelineError, match=message):
        read_yaml(tmp_path / "p.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"absent.yaml does not exist"):
        read_yaml(tmp_path / "absent.yaml")


@pytest.mark.parametrize("section", sorted(Params.model_fields))
def test_a_missing_section_is_refused(section: str) -> None:
    values = read_yaml(ROOT / "params.yaml")
    del values[section]
    with pytest.raises(PipelineError, match=section):
        parse_params(values, "params.yaml")
