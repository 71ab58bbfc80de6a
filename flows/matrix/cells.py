"""The cells of a matrix file: target model x dataset x supervision x rows x seed, each a run of the
pipeline. Everything is checked before anything runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.matrix.matrix_file import Matrix, MatrixDataset, Variant
from flows.matrix.supervision import START, Supervision, parse_supervision
from flows.runs.worktree import RUNS
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint
from tasks.core.mix import Mix
from tasks.core.overlay import overlay, profile_files, read_layers
from tasks.core.params import parse_params
from tasks.core.sections.finetune import CHAMPION
from tasks.core.setting_paths import FILES, NOTHING
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


def expand(matrix: Matrix, main: Path) -> list[Cell]:
    """Return the cells, each once: zero-shot cells first, a starting point before its continuation.

    Cells that continue from the champion come before all others, one of which might become the
    champion. All settings are parsed.
    """
    cells: dict[str, Cell] = {}
    for model in matrix.models:
        for dataset in matrix.datasets:
            for text in sorted(
                matrix.supervision,
                key=lambda text: (text != "none", parse_supervision(text).after_p3),
            ):
                for cell in _of_supervision(matrix, main, model, dataset, parse_supervision(text)):
                    cells.setdefault(cell.name, cell)
    return sorted(cells.values(), key=lambda cell: cell.params["finetune"]["start"] != CHAMPION)


def check_inputs(matrix: Matrix, cells: list[Cell], main: Path) -> None:
    """Look for every file and read every dataset file with its items, so that an error comes before
    the first cell.
    """
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
    matrix: Matrix, main: Path, model: str, dataset: MatrixDataset, supervision: Supervision
) -> list[Cell]:
    if str(supervision) == "none":  # not trained: rows and seeds make no difference
        return [_cell(matrix, main, model, dataset, supervision, 0, matrix.seeds[0], None)]
    p3 = parse_supervision("p3")
    cells = []
    for rows in matrix.rows:
        for seed in matrix.seeds:
            start = (
                [_cell(matrix, main, model, dataset, p3, rows, seed, None)]
                if supervision.after_p3
                else []
            )
            variants = [
                None,
                *(each for each in matrix.variants if str(supervision) in each.supervision),
            ]
            begin = start[0].name if start else ""
            cells += start
            cells += [
                _cell(matrix, main, model, dataset, supervision, rows, seed, variant, begin)
                for variant in variants
            ]
    return cells


def _cell(
    matrix: Matrix,
    main: Path,
    model: str,
    dataset: MatrixDataset,
    supervision: Supervision,
    rows: int,
    seed: int,
    variant: Variant | None,
    start: str = "",
) -> Cell:
    profiles = f"{matrix.profile},{dataset.profile}"
    params, _ = read_layers(main / "params.yaml", profile_files(main / "profiles", profiles))
    for over in (
        matrix.set,
        dataset.set,
        _axes(matrix, model, dataset, supervision.mix, rows, seed),
        variant.set if variant else {},
        {"finetune": {"start": str(main / RUNS / start / "artifacts/finetune")}} if start else {},
    ):
        params = overlay(params, over)
    params = _lists(params)
    # Trained on nothing, a cell with a starting point shows that point alone.
    begins = params["finetune"]["start"] != NOTHING
    alone = str(supervision) == "none" and begins
    shown, slug = (START, START) if alone else (str(supervision), supervision.slug)
    name = _name(matrix.name, model, dataset.name, (shown, slug), rows, seed, variant)
    parse_params(params, f"cell {name}")
    return Cell(
        name,
        model,
        dataset.name,
        shown,
        rows,
        seed,
        variant.name if variant else "",
        params,
        start,
    )


def _axes(
    matrix: Matrix, model: str, dataset: MatrixDataset, mix: Mix, rows: int, seed: int
) -> dict[str, Any]:
    """Return the settings of the axes and the budget.

    Every source gets the same passages: cut by one tokenizer, drawn with one seed.
    """
    training = {"p3": matrix.p3_rows, "labelled": dataset.training}
    from_file = next((training[name] for name in mix.names if name in training), NOTHING)
    axes: dict[str, Any] = {
        "ingest": {"tokenizer": matrix.models[0]},
        "supervise": {"source": str(mix), "rows": from_file, "max_rows": rows, "seed": seed},
        "finetune": {
            "model": model,
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


def _name(
    matrix: str,
    model: str,
    dataset: str,
    supervision: tuple[str, str],
    rows: int,
    seed: int,
    variant: Variant | None,
) -> str:
    """Return a name for worktree and DVC experiment: readable, at most 80 characters, stable.

    ``supervision`` is as it is shown, and as a slug.
    """
    shown, slug = supervision
    parts = [
        matrix,
        re.split(r"[/:]", model)[-1],
        dataset,
        slug,
        *([f"r{rows}"] if rows else []),
        f"s{seed}",
    ]
    text = re.sub(r"[^A-Za-z0-9.-]+", "-", ".".join([*parts, *([variant.name] if variant else [])]))
    key = fingerprint(matrix, model, dataset, shown, rows, seed, variant.name if variant else "")[
        :4
    ]
    return f"{text[:70].rstrip('.-')}.{key}"


def _lists(value: Any) -> Any:
    """Return a value with the tuples of parsed sections as lists, which YAML can write."""
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value
