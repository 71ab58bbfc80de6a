"""Sources of annotated rows: local files, hub datasets or a mix of them, read row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field

from bonito.templating.templates import source_name
from tasks.core.errors import PipelineError, did_you_mean
from tasks.core.params import load_params
from tasks.core.row_reader import Row, holds_rows, read_hub_rows, read_rows
from tasks.core.sections.base import Section


class AnnotatedDataset(Section):
    """Passage, licence and split of a dataset configuration."""

    dataset: str
    config: str = ""
    passage: str = Field(description="Jinja expression over a row's columns that gives the passage")
    licence: str = "not stated"
    split: str = Field(default="train", description="the split the paper used")
    leave_out: tuple[str, ...] = Field(
        default=(), description="templates to leave out, such as those without a task type"
    )

    @property
    def key(self) -> tuple[str, str]:
        """Dataset and configuration."""
        return self.dataset, self.config


class DatasetsFile(Section):
    """A file such as ``bonito/datasets.yaml``."""

    datasets: tuple[AnnotatedDataset, ...]


class RowSource(Section):
    """Rows of one dataset configuration: in a file, in a folder, or on the hub.

    ``columns`` renames columns that the templates call otherwise.
    """

    dataset: str
    config: str = ""
    path: str = Field(
        default="",
        description="file, folder or glob of JSONL(.gz), CSV or Parquet, relative to this file",
    )
    hub: str = Field(default="", description="dataset on the Hugging Face hub; streamed")
    hub_config: str = Field(
        default="",
        description="its configuration there, if the templates call it otherwise",
    )
    split: str = Field(default="", description="hub split; empty: the dataset's own")
    revision: str = Field(
        default="", description="hub revision, such as a commit or refs/convert/parquet"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="name in the templates -> name in the rows"
    )
    labels: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="column with label names -> the names in the order of their numbers",
    )
    constants: dict[str, Any] = Field(
        default_factory=dict, description="columns to add to every row, with their value"
    )

    @property
    def key(self) -> tuple[str, str]:
        """Dataset and configuration."""
        return self.dataset, self.config


class SourcesFile(Section):
    """A sources file."""

    sources: tuple[RowSource, ...] = Field(min_length=1)


def load_datasets(paths: Sequence[Path]) -> dict[tuple[str, str], AnnotatedDataset]:
    """Read dataset files; a dataset in a later file replaces that of an earlier one."""
    files: list[DatasetsFile] = [load_params(path, DatasetsFile) for path in paths]
    return {
        dataset.key: dataset for dataset in chain.from_iterable(file.datasets for file in files)
    }


def load_sources(
    path: Path, datasets: dict[tuple[str, str], AnnotatedDataset]
) -> dict[tuple[str, str], list[RowSource]]:
    """Read a sources file, grouped by dataset configuration in the file's order.

    A configuration that no datasets file has is an error.
    """
    grouped: dict[tuple[str, str], list[RowSource]] = {}
    for source in load_params(path, SourcesFile).sources:
        if source.key not in datasets:
            name = source_name(*source.key)
            hint = did_you_mean(name, [source_name(*key) for key in datasets])
            raise PipelineError(
                f"{path}: no passage is known for {name!r}{hint}: add it to a datasets file"
            )
        if bool(source.path) == bool(source.hub):
            raise PipelineError(f"{path}: {source_name(*source.key)} needs either 'path' or 'hub'")
        of_hub = [name for name in ("hub_config", "split", "revision") if getattr(source, name)]
        if source.path and of_hub:
            raise PipelineError(
                f"{path}: {source_name(*source.key)}: {of_hub[0]!r} goes with 'hub'; all rows at "
                "'path' are read"
            )
        grouped.setdefault(source.key, []).append(source)
    return grouped


def read_sources(
    sources: Sequence[RowSource], root: Path, dataset: AnnotatedDataset
) -> Iterator[Row]:
    """Yield the rows of one dataset configuration, with the column names of its templates.

    Relative paths start at ``root``.
    """
    for source in sources:
        rows = _read_hub(source, dataset) if source.hub else _read_files(root / source.path)
        for number, row in enumerate(rows, start=1):
            yield _map_columns(row, source, number)


def dump_row(row: Row) -> str:
    """Return a row as JSON, as it waits in the remix's draw; what JSON has no form for, such as a
    date, is text.
    """
    return json.dumps(row, ensure_ascii=False, sort_keys=True, default=str)


def _map_columns(row: Row, source: RowSource, number: int) -> Row:
    where = f"row {number} of {source.path or source.hub} ({source_name(*source.key)})"
    given = {**source.constants, **row}
    row = dict(given)
    for wanted, column in source.columns.items():
        if column not in given:
            raise PipelineError(
                f"{where} lacks the column {column!r}, which 'columns' names"
                f"{did_you_mean(column, given)}"
            )
        row[wanted] = given[column]  # not row[column]: two columns may swap their names
    for column, names in source.labels.items():
        if row.get(column) not in names:
            raise PipelineError(
                f"{where}: the label {row.get(column)!r} in {column!r} is not one of "
                f"{', '.join(names)}"
            )
        row[column] = names.index(row[column])
    return row


def _read_hub(source: RowSource, dataset: AnnotatedDataset) -> Iterator[Row]:
    config, split = source.hub_config or source.config, source.split or dataset.split
    try:
        yield from read_hub_rows(source.hub, config, split, source.revision)
    except PipelineError as error:
        raise PipelineError(f"{source_name(*source.key)}: {error}") from error


def _read_files(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, of a folder's files or of a glob's files, in the order of names."""
    if path.is_dir():
        files = sorted(inner for inner in path.rglob("*") if inner.is_file() and holds_rows(inner))
    elif path.is_file():
        files = [path]
    else:
        pattern = str(path.relative_to(path.anchor) if path.anchor else path)
        files = sorted(Path(path.anchor or ".").glob(pattern))
    if not files:
        raise PipelineError(
            f"no rows at {path}: expected a file, a folder or a glob of .jsonl, .csv, .tsv (.gz "
            "too), .parquet or .arrow"
        )
    for file in files:
        # Labels index the answer choices, so they must be numbers in a CSV file too.
        yield from read_rows(file, infer_types=True)
