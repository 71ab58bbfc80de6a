"""params.yaml: typed, frozen, and every problem named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bonito.params import GeneratorParams
from flows.matrix.matrix_file import Matrix
from tasks.core.errors import PipelineError
from tasks.core.overlay import overlay
from tasks.core.params import Params, parse_params
from tasks.core.sections.base import Section
from tasks.core.yaml_file import read_yaml
from tasks.scoring.datasets import Dataset
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
        ({"generate": {"temperature": "hot"}}, "generate.temperature = 'hot'"),
        ({"generate": {"task_types": ["exq"]}}, "unknown task type 'exq' .*did you mean 'exqa'"),
        (
            {"generate": {"task_types": ["exqa", "extractive question answering"]}},
            "generate.task_types.*names a type twice: exqa, extractive question answering",
        ),
        ({"finetune": {"micro_batch_rows": 3}}, "micro_batch_rows = 3: .*must divide .*batch_rows"),
        ({"finetune": {"epochs": float("inf")}}, "finetune.epochs = inf"),
        ({"register": {"experiment": " "}}, "register.experiment = ' '"),
        ({"supervise": {"source": "labelled"}}, "supervise.source labelled needs training rows"),
        (
            {"supervise": {"source": "bonito+p3", "rows": "/else/where/supervision/none"}},
            r"supervise.source bonito\+p3 needs training rows: name their file in supervise.rows",
        ),
        ({"generate": {"address": "http://a/v1"}}, "goes with supervise.source prompted, not bon"),
        (
            {"verify": {"address": "http://a/v1", "workers": 2}},
            "verify.workers open the model themselves",
        ),
        ({"verify": {"reader": "cross-fit"}}, "cross-fit trains its readers here: give verify.fit"),
        ({"register": {"model_name": "it's"}}, "register.model_name = "),
    ],
)
def test_a_bad_value_is_one_line_that_names_it(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        parse_params(overlay(read_yaml(ROOT / "params.yaml"), change), "params.yaml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": "abc"}, "generate.samples = 'abc': must be a whole number"),
        ({"samples": 2.5}, "generate.samples = 2.5: must be a whole number"),
        ({"samples": None}, "generate.samples is empty: must be a whole number"),
        (
            {"samples": "4"},
            "generate.samples = '4': must be a whole number, and this is text: write it without "
            "quotes, and 1e-4 as 1.0e-4",
        ),
        ({"samples": 0}, "generate.samples = 0: must be at least 1"),
        ({"top_p": 1.5}, "generate.top_p = 1.5: must be at most 1"),
        ({"engine": "vlm"}, "must be 'vllm' or 'transformers' (did you mean 'vllm'?)"),
        ({"engine": True}, "generate.engine = true: must be 'vllm' or 'transformers'"),
        ({"task_types": []}, "generate.task_types = []: must have 1 or more entries"),
        ({"task_types": ["exq"]}, "generate.task_types = ['exq']: unknown task type 'exq'"),
        ({1: 2}, "'generate.1' is no key: keys are text, so put it in quotes"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(change: dict[str, Any], words: str) -> None:
    values = overlay(read_yaml(ROOT / "params.yaml"), {"generate": change})
    with pytest.raises(PipelineError, match=re.escape(words)) as told:
        parse_params(values, "params.yaml")
    assert str(told.value).startswith("params.yaml: ")


def test_a_section_that_is_none_is_told_how_one_looks() -> None:
    for value, shown in ((5, " = 5"), (None, " is empty"), (["a"], " = ['a']")):
        values = overlay(read_yaml(ROOT / "params.yaml"), {"generate": value})
        words = f"generate{shown}: must be keys with values, such as generator: ..."
        with pytest.raises(PipelineError, match=re.escape(words)):
            parse_params(values, "params.yaml")


def test_text_that_yaml_read_as_something_else_is_told_to_be_quoted() -> None:
    values = overlay(read_yaml(ROOT / "params.yaml"), {"register": {"model_name": True}})
    with pytest.raises(
        PipelineError, match=r"= true: must be text: put it in quotes \(YAML reads yes, no, on"
    ):
        parse_params(values, "params.yaml")


def test_a_name_of_a_wrong_form_is_told_the_form_and_no_pattern() -> None:
    values = overlay(read_yaml(ROOT / "params.yaml"), {"register": {"model_name": "a/b"}})
    with pytest.raises(PipelineError, match="'a/b': must be letters, digits, ") as told:
        parse_params(values, "params.yaml")
    assert "A-Z" not in str(told.value)


def test_a_missing_key_says_what_it_is_for() -> None:
    values = read_yaml(ROOT / "params.yaml")
    del values["generate"]["samples"]
    with pytest.raises(
        PipelineError, match=r"missing key 'generate.samples': add it \(tasks to write for each"
    ):
        parse_params(values, "params.yaml")


_DATASET: dict[str, Any] = {
    "name": "mine",
    "task_type": "ynqa",
    "label": "answer",
    "labels": ["Yes", "No"],
    "templates": [{"name": "a", "instruction": "{{ context }}", "choices": ["Yes", "No"]}],
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"labels": [True, False]},
            [
                "labels, entry 1 = true: must be text: put it in quotes",
                "labels, entry 2 = false: must be text: put it in quotes",
            ],
        ),
        ({"templates": ["a"]}, ["templates, entry 1 = 'a': must be keys with values, such as"]),
        (
            {"templates": [{"nam": "a", "instruction": "b"}]},
            [
                "missing key 'name' of templates, entry 1: add it",
                "unknown key 'nam' of templates, entry 1 (did you mean 'name'?)",
            ],
        ),
        (
            {"templates": [{"name": "a", "instruction": 5}]},
            ["templates, entry 1, instruction = 5: must be text: put it in quotes"],
        ),
        ({"templates": {"a": "b"}}, ["templates = {a: 'b'}: must be a list, such as [a, b]"]),
    ],
)
def test_a_wrong_entry_of_a_list_is_counted_from_one(
    change: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(PipelineError) as told:
        parse_params(_DATASET | change, "mine.yaml", Dataset)
    said = str(told.value).removeprefix("mine.yaml: ").split("; ")
    assert len(said) == len(words)
    for problem, start in zip(said, words, strict=True):
        assert problem.startswith(start)


#: What people write where something else belongs; YAML makes these kinds of values.
_WRONG = ("x", "", 1, -1, 1.5, -0.5, True, None, [], [[]], {}, {"x": []}, float("inf"), 10**20)


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("params.yaml", Params),
        ("datasets/privacy.yaml", Dataset),
        ("matrices/embedded.yaml", Matrix),
        ("bonito/params.yaml", GeneratorParams),
    ],
)
def test_no_error_has_the_words_of_the_library(file: str, model: type[Section]) -> None:
    right, seen = read_yaml(ROOT / file), 0
    for path in _paths(right):
        for wrong in _WRONG:
            try:
                parse_params(_replaced(right, path, wrong), file, model)
            except PipelineError as error:
                seen += 1
                said = str(error)
                for words in ("nput should", "Value error", "hould have", "hould be", "a valid "):
                    assert words not in said, f"{path} = {wrong!r}: {said}"
    assert seen > 50


def _paths(value: Any) -> Iterator[list[Any]]:
    """Yield the path of every value below this one."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        yield [key]
        if isinstance(one, (dict, list)):
            yield from ([key, *rest] for rest in _paths(one))


def _replaced(value: Any, path: list[Any], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("section", sorted(Params.model_fields))
def test_a_missing_section_is_refused(section: str) -> None:
    values = read_yaml(ROOT / "params.yaml")
    del values[section]
    with pytest.raises(PipelineError, match=section):
        parse_params(values, "params.yaml")
