"""promptsource templates, read from a folder of YAML files.

The layout is promptsource's, ``<dataset>/[<config>/]templates.yaml``; your own templates in this
format work too. A template is Jinja over one row's columns, ``instruction ||| response``; its
answer choices are a second template, separated by ``|||``.
"""

from __future__ import annotations

import csv
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.core.errors import PipelineError
from tasks.core.task_types import task_type
from tasks.core.yaml_file import StrictLoader

TemplateKey = tuple[str, str, str]
#: Columns of a table of task types: a template's key and its type.
_COLUMNS = ("dataset_name", "dataset_config_name", "template_name", "task_type")


@dataclass(frozen=True)
class PromptTemplate:
    """One prompt template.

    ``config`` is empty where the dataset has none; ``task_type`` is the short form, or empty.
    """

    dataset: str
    config: str
    name: str
    jinja: str
    answer_choices: str = ""
    task_type: str = ""

    @property
    def key(self) -> TemplateKey:
        """Dataset, configuration and name."""
        return self.dataset, self.config, self.name

    def __str__(self) -> str:
        return f"{source_name(self.dataset, self.config)}: {self.name}"


def source_name(dataset: str, config: str) -> str:
    """Return ``dataset/config``, or ``dataset`` without a configuration."""
    return f"{dataset}/{config}" if config else dataset


def load_templates(
    folder: Path, types: Mapping[TemplateKey, str], broken: dict[Path, str] | None = None
) -> list[PromptTemplate]:
    """Read every ``templates.yaml`` below ``folder`` with its task types; sorted by key.

    Raises :class:`PipelineError` for a folder without templates, a file that is not in
    promptsource's format, and a repeated name. With ``broken``, the last two are recorded there by
    file instead, and the other files are read.
    """
    paths = sorted(folder.rglob("templates.yaml"))
    if not paths:
        raise PipelineError(
            f"{folder} holds no templates.yaml: expected <dataset>/[<config>/]templates.yaml"
        )
    templates: dict[TemplateKey, PromptTemplate] = {}
    for path in paths:
        try:
            for template in _read(path, folder, types):
                if template.key in templates:
                    raise PipelineError(
                        f"{path}: two templates are called {template.name!r}: rename one"
                    )
                templates[template.key] = template
        except PipelineError as error:
            if broken is None:
                raise
            broken[path] = str(error)
    return [templates[key] for key in sorted(templates)]


def load_task_types(paths: Iterable[Path]) -> dict[TemplateKey, str]:
    """Read tables ``dataset_name,dataset_config_name,template_name,task_type`` into short task
    types; a later file wins.
    """
    types: dict[TemplateKey, str] = {}
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig", newline="") as handle:
                table = csv.DictReader(handle)
                for column in _COLUMNS:
                    if column not in (table.fieldnames or ()):
                        raise PipelineError(f"{path} lacks the column {column!r}")
                for row in table:
                    where = f"{path}, line {table.line_num}"
                    if None in row or None in row.values():
                        cells = len(table.fieldnames or ())
                        raise PipelineError(f"{where} does not have {cells} cells, as the header")
                    dataset, config, template, name = (row[column] for column in _COLUMNS)
                    try:
                        types[dataset, config, template] = task_type(name)
                    except PipelineError as error:
                        raise PipelineError(f"{where}: {error}") from error
        except FileNotFoundError as error:
            raise PipelineError(f"{path} does not exist") from error
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise PipelineError(f"{path} cannot be read as a table of UTF-8: {error}") from error
    return types


class _Loader(StrictLoader):
    """The strict loader, and promptsource's two tags as plain mappings."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("!Template", _mapping)
_Loader.add_constructor("!TemplateMetadata", _mapping)


def _read(path: Path, root: Path, types: Mapping[TemplateKey, str]) -> Iterator[PromptTemplate]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe loader with two constructors of our own
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PipelineError(f"{path} is not a promptsource file: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("templates"), dict):
        raise PipelineError(f"{path} is not a promptsource file: it has no mapping 'templates'")
    dataset, config = _place(path.relative_to(root).parts[:-1], path)
    for entry in content["templates"].values():
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("name"), str)
            or not isinstance(entry.get("jinja"), str)
        ):
            raise PipelineError(
                f"{path}: a template needs 'name' and 'jinja', both text; found {str(entry)[:80]!r}"
            )
        if not isinstance(entry.get("answer_choices") or "", str):
            raise PipelineError(
                f"{path}: the 'answer_choices' of {entry['name']!r} must be one text, such as "
                "'No ||| Yes'"
            )
        key = (dataset, config, entry["name"])
        yield PromptTemplate(
            *key, entry["jinja"], entry.get("answer_choices") or "", types.get(key, "")
        )


def _place(parts: tuple[str, ...], path: Path) -> tuple[str, str]:
    if len(parts) not in (1, 2):
        raise PipelineError(
            f"{path}: expected <dataset>/[<config>/]templates.yaml below the templates folder"
        )
    return parts[0], parts[1] if len(parts) == 2 else ""
