"""A matrix file, typed: the models, datasets and supervision sources that are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from flows.matrix.supervision import parse_supervision
from tasks.core.errors import PipelineError
from tasks.core.overlay import DEFAULT
from tasks.core.params import load_params
from tasks.core.sections.base import FORM, Count, Section, Seed

#: Settings that a cell takes from the matrix's own keys, whatever profiles and ``set`` say.
_DECIDED = {
    "ingest.tokenizer": "models",
    "supervise.source": "supervision",
    "supervise.rows": "p3_rows or training",
    "supervise.max_rows": "rows",
    "supervise.seed": "seeds",
    "finetune.model": "models",
    "finetune.seed": "seeds",
    "finetune.max_tokens": "tokens",
    "baseline.general": "general",
}


def _parsed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return sources and mixes, each as :class:`Supervision` writes it."""
    try:
        return tuple(str(parse_supervision(name)) for name in names)
    except PipelineError as error:
        raise ValueError(str(error)) from error


class MatrixDataset(Section):
    """One target: its corpus and its labelled items, as settings of the pipeline."""

    name: str
    profile: str = Field("", description="a file of profiles/ that names them")
    set: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="settings laid over the profile's"
    )
    training: str = Field("", description="labelled rows to train on, for supervision: labelled")
    made_by: str = Field(
        "", description="command that makes its files, named in the error if missing"
    )


class Prompted(Section):
    """The chat model of supervision: prompted."""

    generator: str
    address: str = ""
    set: dict[str, Any] = Field(default_factory=dict, description="further settings of generate")


class Variant(Section):
    """One point of an ablation: settings, and the sources they matter to."""

    name: str = Field(
        pattern=r"^[a-z0-9_-]+$",
        json_schema_extra={FORM: "must be small letters, digits, _ and -"},
    )
    set: dict[str, dict[str, Any]] = Field(default_factory=dict)
    supervision: tuple[str, ...] = ("bonito", "prompted")

    @field_validator("supervision")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _parsed(names)


class Matrix(Section):
    """The whole file."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,30}$",
        json_schema_extra={
            FORM: "must be small letters and digits, and after the first also -: at most 31"
        },
    )
    description: str = ""
    profile: str = Field(DEFAULT, description="a file of profiles/ for all cells")
    set: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="settings of all cells"
    )
    models: tuple[str, ...] = Field(min_length=1)
    datasets: tuple[MatrixDataset, ...] = Field(min_length=1)
    supervision: tuple[str, ...] = Field(
        min_length=1,
        description="sources, mixes (bonito+constructed:0.5), or either after p3: p3 then tapt",
    )
    rows: tuple[Count, ...] = Field(
        (0,), description="training rows, 0: all; several make a learning curve"
    )
    seeds: tuple[Seed, ...] = Field(
        (1,), description="of training and of the choice of rows; what was generated is shared"
    )
    variants: tuple[Variant, ...] = Field(
        (), description="an ablation: every source they name is also run with each of them"
    )
    passages: Count = Field(0, description="passages that every source gets, 0: all")
    tokens: int = Field(
        0,
        ge=0,
        le=10**11,
        description="training tokens of every source, 0: by the epochs (not budget-matched)",
    )
    tokens_per_row: Count = Field(
        0,
        description="instead of tokens, where rows vary: the budget is this number times the rows",
    )
    p3_rows: str = Field("", description="train.parquet of a remix, for p3")
    general: str = Field(
        "", description="heldout.parquet of a remix: general tasks scored before and after"
    )
    prompted: Prompted | None = None

    @field_validator("supervision")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _parsed(names)

    @field_validator("models", "datasets", "supervision", "rows", "seeds", "variants")
    @classmethod
    def _refuse_repeats(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [getattr(value, "name", value) for value in values]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is given twice")
        return values


def read_matrix(path: Path) -> Matrix:
    """Read a matrix file; an unknown key or a contradiction is a :class:`PipelineError`."""
    matrix: Matrix = load_params(path, Matrix)
    sources = {source for text in matrix.supervision for source in parse_supervision(text).sources}
    needs = {
        "prompted": (matrix.prompted, "prompted: {generator: a chat model}"),
        "p3": (matrix.p3_rows, "p3_rows: a remix's train.parquet"),
    }
    for source, (value, what) in needs.items():
        if not value and source in sources:
            raise PipelineError(f"{path}: supervision {source} needs {what}")
    named = [("set", matrix.set), *((f"set of {one.name}", one.set) for one in matrix.datasets)]
    for where, given in named:
        keys = (f"{section}.{key}" for section, values in given.items() for key in values)
        if key := next((key for key in keys if key in _DECIDED), ""):
            raise PipelineError(
                f"{path}: {where}: {key} would be ignored: write {_DECIDED[key]} of the matrix, or "
                "a variant"
            )
    for variant in matrix.variants:
        # Zero-shot is one cell, which no variant changes.
        if not {*variant.supervision} & {*matrix.supervision} - {"none"}:
            raise PipelineError(
                f"{path}: variant {variant.name} would never run: the matrix has none of its "
                f"supervision: {', '.join(variant.supervision)}"
            )
    if matrix.tokens and matrix.tokens_per_row:
        raise PipelineError(f"{path}: give either tokens or tokens_per_row")
    if matrix.tokens_per_row and 0 in matrix.rows:
        raise PipelineError(f"{path}: tokens_per_row needs numbers of rows, not 0 (all)")
    for dataset in matrix.datasets:
        if not dataset.training and "labelled" in sources:
            raise PipelineError(
                f"{path}: supervision labelled needs the training rows of {dataset.name} "
                "(datasets: training)"
            )
    return matrix
