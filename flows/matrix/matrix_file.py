"""A matrix file, typed, and the cells it asks for: target model x dataset x supervision x rows x
seed. Everything is checked before anything runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from flows.runs import worktree as checkout
from tasks.core.errors import PipelineError, did_you_mean
from tasks.core.files import fingerprint
from tasks.core.params import Params, Section, Seed, load_params, overlay, parse_params, read_yaml
from tasks.scoring.datasets import load_dataset, load_items

SOURCES = ("none", "tapt", "bonito", "prompted", "p3", "labelled")
#: A source that goes on from the adapter of another one.
AFTER_P3 = ("p3+tapt", "p3+bonito", "p3+prompted", "p3+labelled")
NOTHING = "supervision/none"


class MatrixDataset(Section):
    """One target: its corpus and its labelled items, as settings of the pipeline."""

    name: str
    profile: str = Field("", description="a file of profiles/ that names them")
    set: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="settings laid over the profile's"
    )
    training: str = Field("", description="labelled rows to train on, for supervision: labelled")


class Prompted(Section):
    """The chat model of supervision: prompted."""

    generator: str
    address: str = ""
    set: dict[str, Any] = Field(default_factory=dict, description="further settings of generate")


class Variant(Section):
    """One point of an ablation: settings, and the sources they matter to."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    set: dict[str, dict[str, Any]] = Field(default_factory=dict)
    supervision: tuple[str, ...] = ("bonito", "prompted")


class Matrix(Section):
    """The whole file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")
    description: str = ""
    profile: str = Field(checkout.DEFAULT, description="a file of profiles/ for all cells")
    set: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="settings of all cells"
    )
    models: tuple[str, ...] = Field(min_length=1)
    datasets: tuple[MatrixDataset, ...] = Field(min_length=1)
    supervision: tuple[str, ...] = Field(min_length=1)
    rows: tuple[int, ...] = Field(
        (0,), description="training rows, 0: all; several make a learning curve"
    )
    seeds: tuple[Seed, ...] = Field(
        (1,), description="of training and of the choice of rows; what was generated is shared"
    )
    variants: tuple[Variant, ...] = Field(
        (), description="an ablation: every source they name is also run with each of them"
    )
    passages: int = Field(0, ge=0, description="passages that every source gets, 0: all")
    tokens: int = Field(
        0,
        ge=0,
        description=(
            "tokens every source is trained on, 0: as many as the epochs give (not budget-matched)"
        ),
    )
    tokens_per_row: int = Field(
        0,
        ge=0,
        description="instead of tokens, where rows vary: the budget is so many times the rows",
    )
    p3_rows: str = Field("", description="train.parquet of a remix, for p3")
    general: str = Field(
        "", description="heldout.parquet of a remix: general tasks scored before and after"
    )
    prompted: Prompted | None = None

    @field_validator("supervision")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in (*SOURCES, *AFTER_P3):
                raise ValueError(
                    f"unknown supervision {name!r}{did_you_mean(name, (*SOURCES, *AFTER_P3))}"
                )
        return names

    @field_validator("models", "datasets", "supervision", "rows", "seeds", "variants")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [
            value.name if isinstance(value, Section) and hasattr(value, "name") else value
            for value in values
        ]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is given twice")
        return values


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
    #: Name of the cell whose adapter this one goes on from; empty: a fresh adapter.
    start: str = ""

    def identity(self) -> dict[str, Any]:
        """Return what a row of cells.json is known by."""
        return {
            name: getattr(self, name)
            for name in ("model", "dataset", "supervision", "rows", "seed", "variant")
        }


def read_matrix(path: Path) -> Matrix:
    """Read a matrix file; an unknown key or a contradiction is one error."""
    matrix: Matrix = load_params(path, Matrix)
    needs = {
        "prompted": (matrix.prompted, "prompted: {generator: a chat model}"),
        "p3": (matrix.p3_rows, "p3_rows: a remix's train.parquet"),
    }
    for source, (given, what) in needs.items():
        if not given and any(source in name.split("+") for name in matrix.supervision):
            raise PipelineError(f"{path}: supervision {source} needs {what}")
    if matrix.tokens and matrix.tokens_per_row:
        raise PipelineError(f"{path}: give either tokens or tokens_per_row")
    if matrix.tokens_per_row and 0 in matrix.rows:
        raise PipelineError(
            f"{path}: tokens_per_row needs rows that are numbers of rows, not 0 (all)"
        )
    for dataset in matrix.datasets:
        if not dataset.training and any(
            "labelled" in name.split("+") for name in matrix.supervision
        ):
            raise PipelineError(
                f"{path}: supervision labelled needs the training rows of {dataset.name} "
                "(datasets: training)"
            )
    return matrix


def expand(matrix: Matrix, main: Path) -> list[Cell]:
    """Return the cells, each once, the zero-shot cells first and every starting point before what
    goes on from it. All settings are parsed.
    """
    cells: dict[str, Cell] = {}
    for model in matrix.models:
        for dataset in matrix.datasets:
            for source in sorted(
                matrix.supervision,
                key=lambda name: (name != "none", "+" in name, matrix.supervision.index(name)),
            ):
                for cell in _of_source(matrix, main, model, dataset, source):
                    cells.setdefault(cell.name, cell)
    return list(cells.values())


def check_inputs(cells: list[Cell], main: Path) -> None:
    """Read every dataset file and its items once; what is wrong with them is one error before the
    first cell.
    """
    for dataset, items in sorted(
        {(cell.params["evaluate"]["dataset"], cell.params["evaluate"]["items"]) for cell in cells}
    ):
        if not (main / items).is_file():
            raise PipelineError(
                f"{items}, the items of {dataset}, is missing: docs/real-input.md says how to get "
                "it; or give a matrix of other targets, make matrix MATRIX=file.yaml"
            )
        load_items(load_dataset(main / dataset), main / items)
    for section, key in checkout.PATHS[:7]:
        for value in sorted({str(cell.params[section][key]) for cell in cells}):
            if (
                "://" not in value
                and f"{checkout.RUNS}/" not in value
                and not (main / value).exists()
            ):
                raise PipelineError(f"{section}.{key}: {value} does not exist (looked in {main})")


def _of_source(
    matrix: Matrix, main: Path, model: str, dataset: MatrixDataset, source: str
) -> list[Cell]:
    if source == "none":  # untrained: neither rows nor seeds make a difference
        return [_cell(matrix, main, model, dataset, source, 0, matrix.seeds[0], None)]
    found = []
    for rows in matrix.rows:
        for seed in matrix.seeds:
            start = (
                [_cell(matrix, main, model, dataset, "p3", rows, seed, None)]
                if source in AFTER_P3
                else []
            )
            variants = [
                None,
                *(variant for variant in matrix.variants if source in variant.supervision),
            ]
            own = [
                _cell(
                    matrix,
                    main,
                    model,
                    dataset,
                    source,
                    rows,
                    seed,
                    variant,
                    start[0].name if start else "",
                )
                for variant in variants
            ]
            found += [*start, *own]
    return found


def _cell(
    matrix: Matrix,
    main: Path,
    model: str,
    dataset: MatrixDataset,
    source: str,
    rows: int,
    seed: int,
    variant: Variant | None,
    start: str = "",
) -> Cell:
    name = _name(matrix.name, model, dataset.name, source, rows, seed, variant)
    params = read_yaml(main / "params.yaml")
    for profile in (matrix.profile, dataset.profile or checkout.DEFAULT):
        params = overlay(params, _profile(main, profile))
    last = source.rpartition("+")[2]
    for over in (
        matrix.set,
        dataset.set,
        _axes(matrix, model, dataset, last, rows, seed),
        variant.set if variant else {},
    ):
        params = overlay(params, over)
    if start:
        params = overlay(
            params,
            {"finetune": {"start": str(main / checkout.RUNS / start / "artifacts" / "finetune")}},
        )
    params = _lists(params)
    parse_params(params, f"cell {name}", Params)
    return Cell(
        name,
        model,
        dataset.name,
        source,
        rows,
        seed,
        variant.name if variant else "",
        params,
        start,
    )


def _axes(
    matrix: Matrix, model: str, dataset: MatrixDataset, source: str, rows: int, seed: int
) -> dict[str, Any]:
    """Return what the axes and the budget set.

    Every source gets the same passages: cut by one tokenizer, chosen by one seed.
    """
    given = {"p3": matrix.p3_rows, "labelled": dataset.training}.get(source) or NOTHING
    axes: dict[str, Any] = {
        "ingest": {"tokenizer": matrix.models[0]},
        "supervise": {"source": source, "rows": given, "max_rows": rows, "seed": seed},
        "finetune": {
            "model": model,
            "seed": seed,
            "max_tokens": matrix.tokens or matrix.tokens_per_row * rows,
        },
        "baseline": {"general": matrix.general or NOTHING},
    }
    if matrix.passages:
        axes["generate"] = {"max_passages": matrix.passages}
    if source == "prompted" and matrix.prompted:
        own = {
            "generator": matrix.prompted.generator,
            "address": matrix.prompted.address,
            **matrix.prompted.set,
        }
        axes["generate"] = {**axes.get("generate", {}), **own}
    return axes


def _profile(main: Path, name: str) -> dict[str, Any]:
    if name == checkout.DEFAULT:
        return {}
    if name not in checkout.profiles(main):
        raise PipelineError(
            "unknown profile "
            f"{name!r}{did_you_mean(name, [checkout.DEFAULT, *checkout.profiles(main)])}"
        )
    return read_yaml(main / "profiles" / f"{name}.yaml")


def _name(
    matrix: str,
    model: str,
    dataset: str,
    source: str,
    rows: int,
    seed: int,
    variant: Variant | None,
) -> str:
    """Return a name that a worktree and a DVC experiment can have: readable, at most 80 characters,
    the same for the same cell.
    """
    parts = [
        matrix,
        re.split(r"[/:]", model)[-1],
        dataset,
        source.replace("+", "-then-"),
        *([f"r{rows}"] if rows else []),
        f"s{seed}",
    ]
    text = re.sub(r"[^A-Za-z0-9.-]+", "-", ".".join([*parts, *([variant.name] if variant else [])]))
    key = fingerprint(matrix, model, dataset, source, rows, seed, variant.name if variant else "")[
        :4
    ]
    return f"{text[:70].rstrip('.-')}.{key}"


def _lists(value: Any) -> Any:
    """Tuples, which parsed sections have, back to the lists that YAML writes."""
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value
