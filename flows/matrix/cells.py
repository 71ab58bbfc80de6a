"""The cells of a matrix file: target model x dataset x supervision x rows x seed, each a run of the
pipeline. Everything is checked before anything runs.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.matrix.matrix_file import Matrix, MatrixDataset, Variant
from flows.matrix.supervision import START, Supervision, parse_supervision
from flows.runs.worktree import RUNS
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint
from tasks.core.overlay import overlay, profile_files, read_layers
from tasks.core.params import parse_params
from tasks.core.sections.finetune import CHAMPION
from tasks.core.setting_paths import FILES, NOTHING, is_nothing
from tasks.scoring.datasets import load_dataset, load_items


@dataclass(frozen=True)
class Cell:
    """One pipeline run of the matrix."""

    name: str
    model: str
    dataset: str
    supervision: str
    rows: int
    seed: int
    variant: str
    params: dict[str, Any] = field(repr=False)
    #: Name of the cell whose adapter this one continues; empty: a fresh adapter.
    start: str = ""

    def identity(self) -> dict[str, Any]:
        """Return the columns that identify a row of cells.json."""
        return {
            name: getattr(self, name)
            for name in ("model", "dataset", "supervision", "rows", "seed", "variant")
        }


@dataclass(frozen=True)
class _Point:
    """What tells one cell from another. A variant is None where there is none."""

    model: str
    target: MatrixDataset
    supervision: Supervision
    rows: int
    seed: int
    variant: Variant | None = None

    @property
    def variant_name(self) -> str:
        """The variant's name; empty where there is none."""
        return self.variant.name if self.variant else ""


def expand(matrix: Matrix, main: Path) -> list[Cell]:
    """Return the cells, each once: zero-shot cells first, a starting point before its continuation.

    Cells that continue from the champion come before all others, one of which might become the
    champion. All settings are parsed.
    """
    cells: dict[str, Cell] = {}
    parsed = [parse_supervision(text) for text in matrix.supervision]
    parsed.sort(key=lambda each: (str(each) != "none", each.after_p3))
    for model, target, supervision in itertools.product(matrix.models, matrix.datasets, parsed):
        for cell in _of_supervision(matrix, main, model, target, supervision):
            cells.setdefault(cell.name, cell)
    return sorted(cells.values(), key=lambda cell: cell.params["finetune"]["start"] != CHAMPION)


def check_inputs(matrix: Matrix, cells: list[Cell], main: Path) -> None:
    """Look for every file and read every dataset file with its items, so that an error comes before
    the first cell.
    """
    for cell in cells:
        if is_nothing(Path(cell.params["evaluate"]["items"])):
            raise PipelineError(
                f"target {cell.dataset} has no labelled items, and a matrix compares F1: name "
                "their file in evaluate.items of its set or profile"
            )
    targets = {dataset.name: dataset for dataset in matrix.datasets}
    for section, key in FILES:
        for value, target in {
            str(cell.params[section][key]): targets[cell.dataset] for cell in cells
        }.items():
            if not _is_there(value, main):
                raise PipelineError(
                    f"{section}.{key}: {value} does not exist (looked in {main})"
                    + _advice(section, key, value, target)
                )
    for file, items in sorted(
        {(cell.params["evaluate"]["dataset"], cell.params["evaluate"]["items"]) for cell in cells}
    ):
        load_items(load_dataset(main / file), main / items)


def _is_there(value: str, main: Path) -> bool:
    """Tell whether a path exists, or may exist later: on another machine, made by a cell, or
    fetched as a cell begins.
    """
    later = "://" in value or f"{RUNS}/" in value or value == CHAMPION
    return later or (main / value).exists()


def _advice(section: str, key: str, value: str, target: MatrixDataset) -> str:
    """Return how to make a missing file, where the matrix or the documentation says so."""
    if section in ("ingest", "evaluate") or value == target.training:
        return f". Target {target.name} is made by: {target.made_by}" if target.made_by else ""
    return ". Rows of annotated datasets are made as docs/generator.md says"


def _of_supervision(
    matrix: Matrix, main: Path, model: str, target: MatrixDataset, supervision: Supervision
) -> list[Cell]:
    if str(supervision) == "none":  # not trained: rows and seeds make no difference
        return [_cell(matrix, main, _Point(model, target, supervision, 0, matrix.seeds[0]))]
    variants = [each for each in matrix.variants if str(supervision) in each.supervision]
    cells = []
    for rows, seed in itertools.product(matrix.rows, matrix.seeds):
        start = ""
        if supervision.after_p3:
            p3 = _Point(model, target, parse_supervision("p3"), rows, seed)
            cells.append(_cell(matrix, main, p3))
            start = cells[-1].name
        for variant in (None, *variants):
            point = _Point(model, target, supervision, rows, seed, variant)
            cells.append(_cell(matrix, main, point, start))
    return cells


def _cell(matrix: Matrix, main: Path, point: _Point, start: str = "") -> Cell:
    """Return the cell of a point; ``start`` is the name of the cell whose adapter it continues."""
    profiles = f"{matrix.profile},{point.target.profile}"
    params, _ = read_layers(main / "params.yaml", profile_files(main / "profiles", profiles))
    for over in (
        matrix.set,
        point.target.set,
        _axes(matrix, point),
        point.variant.set if point.variant else {},
        {"finetune": {"start": str(main / RUNS / start / "artifacts/finetune")}} if start else {},
    ):
        params = overlay(params, over)
    params = _lists(params)
    # Trained on nothing, a cell with a starting point shows that point alone.
    begins = params["finetune"]["start"] != NOTHING
    alone = str(point.supervision) == "none" and begins
    shown = START if alone else str(point.supervision)
    name = _name(matrix.name, point, shown)
    parse_params(params, f"cell {name}")
    return Cell(
        name,
        point.model,
        point.target.name,
        shown,
        point.rows,
        point.seed,
        point.variant_name,
        params,
        start,
    )


def _axes(matrix: Matrix, point: _Point) -> dict[str, Any]:
    """Return the settings of the axes and the budget.

    Every source gets the same passages: cut by one tokenizer, drawn with one seed.
    """
    mix, rows, seed = point.supervision.mix, point.rows, point.seed
    training = {"p3": matrix.p3_rows, "labelled": point.target.training}
    from_file = next((training[name] for name in mix.names if name in training), NOTHING)
    axes: dict[str, Any] = {
        "ingest": {"tokenizer": matrix.models[0]},
        "supervise": {"source": str(mix), "rows": from_file, "max_rows": rows, "seed": seed},
        "finetune": {
            "model": point.model,
            "seed": seed,
            "max_tokens": matrix.tokens or matrix.tokens_per_row * rows,
        },
        "baseline": {"general": matrix.general or NOTHING},
    }
    if matrix.passages:
        axes["generate"] = {"max_passages": matrix.passages}
    if mix.generator == "prompted" and matrix.prompted:
        chat_model = {
            "generator": matrix.prompted.generator,
            "address": matrix.prompted.address,
            **matrix.prompted.set,
        }
        axes["generate"] = {**axes.get("generate", {}), **chat_model}
    return axes


def _name(matrix: str, point: _Point, shown: str) -> str:
    """Return a name for worktree and DVC experiment: readable, at most 80 characters, stable.

    ``shown`` is the supervision as tables have it.
    """
    model, target, variant = point.model, point.target.name, point.variant_name
    slug = START if shown == START else point.supervision.slug
    rows = f"r{point.rows}" if point.rows else ""
    parts = (matrix, re.split(r"[/:]", model)[-1], target, slug, rows, f"s{point.seed}", variant)
    text = re.sub(r"[^A-Za-z0-9.-]+", "-", ".".join(filter(None, parts)))
    key = fingerprint(matrix, model, target, shown, point.rows, point.seed, variant)
    # Of a name that is cut the key alone may tell rows, seeds and variants apart.
    return f"{text[:70].rstrip('.-')}.{key[: 8 if len(text) > 70 else 4]}"


def _lists(value: Any) -> Any:
    """Return a value with the tuples of parsed sections as lists, which YAML can write."""
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value
