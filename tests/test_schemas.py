"""The JSON schemas of the YAML files that people edit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bonito.answering import stage as answering
from scripts.schemas import (
    FOLDER,
    SETTINGS,
    make_schemas,
    make_settings_page,
    schema_of,
    to_text,
)
from tests.conftest import ROOT

#: Schema -> the shipped files that follow it.
_FILES = {
    "params.json": ["params.yaml"],
    "profile.json": ["profiles/*.yaml"],
    "dataset.json": ["datasets/*.yaml"],
    "matrix.json": ["matrices/*.yaml"],
    "bonito-params.json": ["bonito/params.yaml"],
    "bonito-profile.json": ["bonito/profiles/*.yaml"],
}
#: Figures of others that a report shows: nobody writes such a file.
_WITHOUT = {"matrices/published.yaml"}


def shipped() -> list[tuple[str, str]]:
    found = [
        (schema, str(path.relative_to(ROOT)))
        for schema, patterns in _FILES.items()
        for pattern in patterns
        for path in sorted(ROOT.glob(pattern))
        if str(path.relative_to(ROOT)) not in _WITHOUT
    ]
    assert {schema for schema, _ in found} == set(_FILES)
    return found


def problems(schema: str, values: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(json.loads((FOLDER / schema).read_text()))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(values)]


def test_every_setting_is_on_its_page_and_described() -> None:
    """``make schemas`` writes it again."""
    page = make_settings_page()
    assert SETTINGS.read_text(encoding="utf-8") == page
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 120
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_number_has_an_upper_bound() -> None:
    """A slip of the keyboard is one line at the start, not an allocation hours later."""

    def find_endless(value: Any, place: str) -> Iterator[str]:
        if isinstance(value, dict):
            number = value.get("type") in ("integer", "number")
            if number and not {"maximum", "exclusiveMaximum"} & value.keys():
                yield place
            for key, inner in value.items():
                yield from find_endless(inner, f"{place}.{key}")
        elif isinstance(value, list):
            for inner in value:
                yield from find_endless(inner, place)

    schemas = {**make_schemas(), "answering": schema_of(answering.Params)}
    del schemas["dataset.json"]
    assert [row for name, schema in schemas.items() for row in find_endless(schema, name)] == []


def test_the_schemas_are_those_of_the_models() -> None:
    """``make schemas`` writes them again."""
    schemas = make_schemas()
    assert {path.name for path in FOLDER.iterdir()} == set(schemas) == set(_FILES)
    for name, schema in schemas.items():
        assert (FOLDER / name).read_text() == to_text(schema), f"{name}: run make schemas"


@pytest.mark.parametrize(("schema", "path"), shipped())
def test_a_shipped_file_names_its_schema_and_follows_it(schema: str, path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    line = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert line, f"{path}: the first line names no schema"
    assert (ROOT / Path(path).parent / line[1]).resolve() == FOLDER / schema
    assert problems(schema, yaml.safe_load(text)) == []


@pytest.mark.parametrize("schema", ["params.json", "profile.json"])
def test_a_misspelt_key_and_a_wrong_value_are_marked(schema: str) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert problems(schema, values) == []
    values["generate"] |= {"temprature": 0.5, "task_types": ["exaq"], "samples": 0}
    assert len(problems(schema, values)) == 3
    assert "temprature" in "".join(problems(schema, values))


def test_a_profile_may_leave_out_what_params_must_say() -> None:
    part = {"generate": {"temperature": 0.7}}
    assert problems("profile.json", part) == []
    assert problems("params.json", part)
