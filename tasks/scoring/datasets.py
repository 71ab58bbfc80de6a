"""Labelled evaluation sets: a dataset file (task type, columns, labels, templates) and its items.

A user adds a dataset with one YAML file in ``datasets/`` and no code.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError, UndefinedError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field

from tasks.core.errors import PipelineError, did_you_mean
from tasks.core.files import choose
from tasks.core.params import load_params
from tasks.core.row_reader import read_rows
from tasks.core.sections.base import FORM, Section, TypeName
from tasks.core.setting_paths import is_nothing
from tasks.core.spans import holds
from tasks.core.task_types import EXTRACTION, task_type
from tasks.scoring.item_values import (
    holds_bytes,
    read_answers,
    read_document,
    read_plain,
    read_text,
    read_value,
)

log = logging.getLogger(__name__)
#: Task type -> an item as the dataset files that ship with the repository read it.
ITEM_FORMS = {
    "exqa": '{"id": "q1", "context": "...", "question": "...", "answers": ["..."]}',
    "ynqa": '{"id": "q1", "context": "...", "question": "...", "answer": "yes"}',
    "nli": '{"id": "q1", "premise": "...", "hypothesis": "...", "label": "neutral"}',
}


class Template(Section):
    """A prompt: ``instruction`` is Jinja over the item's columns, ``choices`` follow ``labels``."""

    name: str
    instruction: str
    choices: tuple[str, ...] = ()


class Dataset(Section):
    """A dataset file.

    Column names may be dotted paths into nested values (``answers.text``), unless a column has the
    whole name; lists of text are joined by a new line.
    """

    #: Part of MLflow's names of metrics and models.
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]*$",
        json_schema_extra={
            FORM: "must be letters and digits, and after the first of them also . _ - and spaces"
        },
    )
    task_type: TypeName
    description: str = ""
    id: str = "id"
    context: str = "context"
    #: Column that names the passage's document, where a document has several passages.
    document: str = ""
    answers: str = Field("", description="extraction: column of the gold answers")
    label: str = Field("", description="classification: column of the gold label")
    labels: tuple[str, ...] = Field((), description="classification: the label values of the data")
    templates: tuple[Template, ...] = Field(min_length=1)

    @property
    def classifies(self) -> bool:
        """Whether answers are ranked choices (macro F1) or extracted text (SQuAD F1)."""
        return bool(self.labels)


class Item(Section):
    """One labelled item.

    ``gold`` is the label's index (classification), ``golds`` the acceptable answers as text.
    """

    id: str
    context: str
    golds: tuple[str, ...]
    gold: int
    columns: dict[str, Any]
    document: str = ""

    @property
    def cluster(self) -> str:
        """What the item is drawn with in a bootstrap: its document, else its passage.

        Scores of items on one document are correlated, whichever of its passages they are on.
        """
        return self.document or self.context

    @property
    def held_out(self) -> bool:
        """Whether ingest keeps the item's passage out of the corpus (docs/review.md)."""
        return str(self.columns.get("held_out") or "").lower() not in ("", "false", "0")


def has_items(path: Path) -> bool:
    """Tell whether ``evaluate.items`` names labelled items: ``supervision/none`` says that there
    are none, and so does a file that is empty, as ``make start`` makes it for ``make label``.
    """
    return not is_nothing(path) and not (path.is_file() and not path.stat().st_size)


def load_dataset(path: Path) -> Dataset:
    """Read a dataset file; contradictions in it are errors before anything is trained."""
    dataset: Dataset = load_params(path, Dataset)
    task_type(dataset.task_type)
    if bool(dataset.labels) == bool(dataset.answers):
        raise PipelineError(
            f"{path}: give either answers (extraction) or label and labels (classification)"
        )
    if dataset.labels and not dataset.label:
        raise PipelineError(
            f"{path}: labels are given, but not the column that holds them: add label"
        )
    if dataset.labels and len(set(dataset.labels)) < max(2, len(dataset.labels)):
        raise PipelineError(f"{path}: labels must be two or more, all different")
    names = [template.name for template in dataset.templates]
    if len(set(names)) < len(names):
        raise PipelineError(f"{path}: two templates have the same name")
    for template in dataset.templates:
        if len(template.choices) != len(dataset.labels):
            raise PipelineError(
                f"{path}: template {template.name!r} has {len(template.choices)} choices "
                f"for {len(dataset.labels)} labels"
            )
        if len(set(template.choices)) < len(template.choices):
            raise PipelineError(f"{path}: template {template.name!r} offers the same choice twice")
    return dataset


def load_items(dataset: Dataset, path: Path, most: int = 0, seed: int = 0) -> list[Item]:
    """Read the items in file order; ``most`` > 0 makes a seeded choice.

    Missing columns, unknown labels, empty golds and duplicate ids are errors that name the row.
    Templates that do not show the passage are errors too.
    """
    items: dict[str, Item] = {}
    places: dict[str, str] = {}
    for number, row in enumerate(read_rows(path), start=1):
        place = f"{path} row {number}"
        item = parse_item(dataset, row, place)
        if item.id in items:
            raise PipelineError(f"{place}: the id {item.id!r} was there before: ids must be unique")
        items[item.id], places[item.id] = item, place
    if not items:
        raise PipelineError(f"{path} has no items")
    chosen = list(items.values())
    if dataset.document and not any(item.document for item in chosen):
        log.warning(
            "%s has no column %r: intervals draw passages, not documents", path, dataset.document
        )
    chosen = [chosen[place] for place in choose(items, most, seed, "item").to_pylist()]
    # All are rendered: a column that only the last item lacks would end the run after the training.
    for item in chosen:
        try:
            check_prompts(dataset, item)
        except PipelineError as error:
            raise PipelineError(f"{places[item.id]}: {error}") from error
    return chosen


def check_prompts(dataset: Dataset, item: Item) -> None:
    """Raise :class:`PipelineError` unless every template can be filled and shows the passage, and
    there is something to ask.
    """
    for template in dataset.templates:
        if item.context.strip() not in render(template, item):
            raise PipelineError(
                f"dataset {dataset.name}: template {template.name!r} does not show "
                f"the passage: it must insert {{{{context}}}}"
            )
    asked = [name for name in asked_columns(dataset) if name in item.columns]
    if asked and not any(str(item.columns[name] or "").strip() for name in asked):
        raise PipelineError(
            f"item {item.id!r}: {' and '.join(asked)} is empty, there is nothing to ask"
        )


def asked_columns(dataset: Dataset) -> tuple[str, ...]:
    """Return the columns besides the passage that the templates show: the question, the claim."""
    given = {"context", dataset.context.split(".")[0]} | ({"choices"} if dataset.labels else set())
    given |= {dataset.label.split(".")[0], dataset.answers.split(".")[0]}
    shown = (_find_columns(template.instruction) for template in dataset.templates)
    return tuple(sorted(frozenset[str]().union(*shown) - given))


@lru_cache(maxsize=64)
def _find_columns(instruction: str) -> frozenset[str]:
    return frozenset(find_undeclared_variables(_environment().parse(instruction)))


def find_misplaced(dataset: Dataset, items: Iterable[Item]) -> list[str]:
    """Return the ids of extraction items none of whose answers is a span of the passage, of whole
    words in any case and spacing: a model that copies from the passage cannot give them.
    """
    if dataset.classifies or task_type(dataset.task_type) not in EXTRACTION:
        return []
    return [item.id for item in items if not any(holds(item.context, gold) for gold in item.golds)]


def find_missing_labels(dataset: Dataset, items: Iterable[Item]) -> list[str]:
    """Return the declared labels that no item has: macro F1 then averages over fewer classes, and
    over one more as soon as a model names such a label.
    """
    found = {item.gold for item in items}
    return [label for number, label in enumerate(dataset.labels) if number not in found]


def render(template: Template, item: Item) -> str:
    """Return the instruction of an item.

    A column the item lacks is an error that names the template and the item's columns.
    """
    try:
        # Without labels a template has no choices: an item's column of that name is shown.
        own = {"choices": list(template.choices)} if template.choices else {}
        values = {"context": item.context, **own}
        return str(_compile(template.instruction).render({**item.columns, **values})).strip()
    except Exception as error:  # a template may raise anything, such as a division by 0
        kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
        columns = ", ".join(item.columns) if isinstance(error, UndefinedError) else ""
        there = f"; the item has the columns {columns}" if columns else ""
        raise PipelineError(
            f"template {template.name!r}, item {item.id!r}: {kind}{error}{there}"
        ) from error


def parse_item(dataset: Dataset, row: dict[str, Any], where: str) -> Item:
    """Return the item of a row; ``where`` names the row in errors."""
    context = read_text(read_value(row, dataset.context, where), f"{where}: {dataset.context}")
    if not context.strip():
        raise PipelineError(f"{where}: the passage ({dataset.context}) is empty")
    gold = 0
    golds: tuple[str, ...]
    if dataset.classifies:
        label = read_plain(read_value(row, dataset.label, where), f"{where}: {dataset.label}")
        if label not in dataset.labels:
            raise PipelineError(
                f"{where}: unknown label {label!r}{did_you_mean(label, dataset.labels)}"
            )
        gold, golds = dataset.labels.index(label), (label,)
    else:
        golds = read_answers(read_value(row, dataset.answers, where), f"{where}: {dataset.answers}")
        if not golds:
            raise PipelineError(f"{where}: no gold answer in {dataset.answers}")
    name = read_plain(read_value(row, dataset.id, where), f"{where}: {dataset.id}")
    document = read_document(row, dataset.document, where)
    shown = {column: value for column, value in row.items() if not holds_bytes(value)}
    return Item(id=name, context=context, golds=golds, gold=gold, columns=shown, document=document)


@lru_cache(maxsize=64)
def _compile(instruction: str) -> Any:
    return _environment().from_string(instruction)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        finalize=lambda value: "" if value is None else value,  # not the word None
    )
    # They draw without our seed: each process would give an item another prompt.
    del environment.filters["random"], environment.globals["lipsum"]
    return environment
