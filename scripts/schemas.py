"""Write the JSON schemas of the YAML files that people edit, and docs/settings.md.

``make schemas`` runs it.

An editor with a YAML language server reads the first line of such a file, completes keys and marks
wrong values. The schemas come from the typed models that parse the files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import BaseModel

from bonito.params import GeneratorParams
from flows.matrix.matrix_file import Matrix
from tasks.core.files import write_text
from tasks.core.params import Params
from tasks.core.yaml_file import read_yaml
from tasks.scoring.datasets import Dataset

ROOT = Path(__file__).resolve().parents[1]
FOLDER, SETTINGS = ROOT / "schemas", ROOT / "docs/settings.md"
_SETTINGS_HEAD = """\
# Every setting

The value is the one in `params.yaml`; where it has none, the built-in one. A profile or `SET`
overlays it: `make run SET=generate.samples=2`. Where a setting is a path, `supervision/none`
means none. [README.md](README.md#the-words) explains the words. `make schemas` writes this page
from the models that parse the settings (`tasks/core/sections/`)."""


def make_schemas() -> dict[str, dict[str, Any]]:
    """Return file name -> JSON schema."""
    return {
        "params.json": schema_of(Params),
        "profile.json": make_partial(schema_of(Params)),
        "dataset.json": schema_of(Dataset),
        "matrix.json": schema_of(Matrix),
        "bonito-params.json": schema_of(GeneratorParams),
        "bonito-profile.json": make_partial(schema_of(GeneratorParams)),
    }


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's schema under the names of the file, in the dialect that editors expect."""
    schema = model.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def make_partial(schema: dict[str, Any]) -> dict[str, Any]:
    """Return ``schema`` with every section and key optional, as in a file that overlays another."""
    sections = {name: _without_required(part) for name, part in schema["$defs"].items()}
    return {**_without_required(schema), "$defs": sections}


def _without_required(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "required"}


def to_text(schema: dict[str, Any]) -> str:
    """Return the bytes of a schema file, as text."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def make_settings_page() -> str:
    """Return docs/settings.md: each setting, its value in params.yaml or its default, and what it
    does.
    """
    given = read_yaml(ROOT / "params.yaml")
    lines = [_SETTINGS_HEAD]
    for name, section in Params.model_fields.items():
        model: Any = section.annotation
        lines += [f"\n## {name}\n", "| setting | value | what it does |", "|---|---|---|"]
        for key, field in model.model_fields.items():
            value = given.get(name, {}).get(key, field.default)
            shown = json.dumps(value, ensure_ascii=False) if value is not None else "none"
            text = (field.description or "").replace("|", "\\|")
            lines.append(f"| `{key}` | `{shown}` | {text} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write every schema, and the page of the settings."""
    for name, schema in make_schemas().items():
        write_text(FOLDER / name, to_text(schema))
    write_text(SETTINGS, make_settings_page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
