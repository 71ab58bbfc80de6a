"""Sends 32 passages through generate, validate, verify and two training steps, and forecasts the
whole run from them.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from tasks.core.errors import PipelineError
from tasks.core.files import choose, read_json
from tasks.core.model_params import CHAMPION
from tasks.core.overlay import overlay
from tasks.core.params import Params
from tasks.core.parquet import read_table, write_table
from tasks.core.privacy import cache_folder
from tasks.core.rows import INSTRUCTIONS
from tasks.core.setting_paths import is_nothing
from tasks.core.stage import WORK
from tasks.lm.models import dtype
from tasks.lm.preflight import check_models, read_models
from tasks.lm.room import disk_needs
from tasks.scoring.datasets import has_items, load_dataset, load_items
from tasks.scoring.intervals import SPREAD, smallest_gain
from tasks.scoring.lengths import check_prompts
from tasks.start.forecast import (
    Pace,
    Range,
    forecast_kept,
    judge_text,
    memory,
)
from tasks.start.survey import Survey, survey
from tasks.start.trial import Measured, run_apart, write_params

#: Passages of the trial, rows that it generates and asks at a time, and steps that it trains.
PASSAGES, SHARD, STEPS = 32, 32, 2
#: Rows at a time on a GPU: it writes this many together in about the time that one row takes.
_GPU_ROWS = 256
#: A yield that one good row has; without any validate ends with an error.
_ANY = 1e-9
#: A row that the reader answers costs so many questions of baseline and evaluate: it samples
#: several answers, but reads its prompt once.
_QUESTIONS_A_ROW = (1.5, 4.0)
#: Minutes of register, which compares three models and writes to MLflow.
_REGISTER = Range(0.5, 2.5)
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Trial:
    """What the trial gave: rows kept of each passage, and what each stage took."""

    passages: int
    predictions: int
    validated: int
    output_tokens: int
    #: Task type -> rows kept of each passage of the trial.
    kept: dict[str, list[int]]
    measured: dict[str, Measured]


@dataclass(frozen=True)
class Plan:
    """The forecast."""

    passages: int
    labelled: int
    #: Task type -> rows, and ``all``.
    kept_rows: dict[str, Range]
    #: Stage -> minutes, and ``all``.
    minutes: dict[str, Range]
    peak_memory_mb: Range
    disk_mb: Range
    #: Tokens of the passages, and tokens that the generator writes.
    passage_tokens: int
    generated_tokens: Range
    #: The smallest gain in F1, in 0-1, that the items can show; None without labelled items.
    smallest_gain: float | None
    verdict: str


def plan(
    params: Params,
    values: Mapping[str, Any],
    folder: Path,
    tell: Callable[[str], None],
    spread: float = SPREAD,
) -> Plan:
    """Try the run of ``params`` (``values``: the same as they are in the files) and forecast it.

    Works in ``folder``, which is emptied. ``tell`` gets the name of each stage before it is tried;
    ``spread`` is that of :func:`smallest_gain`. Raises :class:`PipelineError` for a corpus, items
    or a model that cannot be read, and for a supervision source without a generator.
    """
    if not params.supervise.mix.generator:
        raise PipelineError(
            f"supervise.source {params.supervise.source} generates nothing: make plan forecasts "
            "what a generator writes"
        )
    if "://" in params.ingest.corpus or params.ingest.corpus.endswith(".address"):
        raise PipelineError(
            f"ingest.corpus {params.ingest.corpus} is on another machine: make plan tries "
            "documents of this one"
        )
    questions, labelled = _count_questions(params)
    check_models(params)
    check_prompts(params)
    shutil.rmtree(folder, ignore_errors=True)
    tell("ingest")
    found = survey(Path(params.ingest.corpus), values, folder)
    trial = _try(params, values, found, folder, tell)
    gain = smallest_gain(labelled, spread)
    return _forecast(params, found, trial, questions, labelled, gain)


def _count_questions(params: Params) -> tuple[int, int]:
    """Return the questions that each model is asked, and the labelled items."""
    path, dataset = Path(params.evaluate.items), load_dataset(Path(params.evaluate.dataset))
    if not has_items(path):
        return 0, 0
    items = len(load_items(dataset, path, params.evaluate.max_items, params.evaluate.seed))
    return items * len(dataset.templates[: params.evaluate.templates or None]), items


def _try(
    params: Params,
    values: Mapping[str, Any],
    found: Survey,
    folder: Path,
    tell: Callable[[str], None],
) -> Trial:
    ids = found.passages["passage_id"].to_pylist()
    count, together = PASSAGES, SHARD
    if torch.cuda.is_available():
        together = _GPU_ROWS
        a_passage = params.generate.samples * len(params.generate.task_types)
        count = max(PASSAGES, together // a_passage)
    passages = found.passages.take(choose(ids, count, params.generate.seed, "passage"))
    write_table(folder / "passages.parquet", passages)
    smaller: dict[str, dict[str, Any]] = {
        "generate": {"max_passages": 0, "shard_rows": together, "workers": 0},
        "validate": {"min_yield": _ANY, "max_rows": 0},
        "verify": {"shard_rows": together, "workers": 0},
        "finetune": {"max_steps": STEPS, "processes": 1},
    }
    if params.finetune.start == CHAMPION:  # a step from another start costs as much
        smaller["finetune"]["start"] = params.finetune.restart
    write_params(overlay(dict(values), smaller), folder)
    passage = {"passages": folder / "passages.parquet"}
    tell("generate")
    measured = {"generate": run_apart("generate", folder, passage)}
    written = read_json(folder / "generate/summary.json")
    tell("validate")
    predictions = {"predictions": folder / "generate/predictions.parquet"}
    validated = _run_or_none("validate", folder, predictions, measured)
    rows = validated
    if len(validated):
        inputs = {
            name: folder / f"validate/{name}.parquet" for name in ("instructions", "quarantine")
        }
        tell("verify")
        rows = _run_or_none("verify", folder, passage | predictions | inputs, measured)
        shown = rows if len(rows) >= params.finetune.batch_rows else validated
        write_table(folder / "training.parquet", shown.select(INSTRUCTIONS.names))
        tell("finetune")
        measured["finetune"] = run_apart(
            "finetune", folder, {"instructions": folder / "training.parquet"}
        )
    return Trial(
        len(passages),
        written["rows_in"],
        len(validated),
        written["output_tokens"],
        _kept(params, passages, rows),
        measured,
    )


def _run_or_none(
    stage: str, folder: Path, inputs: dict[str, Path], measured: dict[str, Measured]
) -> pa.Table:
    """Return the rows that the stage keeps: none where it ends with an error because of that."""
    try:
        measured[stage] = run_apart(stage, folder, inputs)
    except PipelineError as error:
        if not str(error).startswith(("validate: yield ", "verify: none of ")):
            raise
        return INSTRUCTIONS.empty_table()
    return read_table(folder / stage / "instructions.parquet")


def _kept(params: Params, passages: pa.Table, rows: pa.Table) -> dict[str, list[int]]:
    pairs = zip(rows["task_type"].to_pylist(), rows["passage_id"].to_pylist(), strict=True)
    counts = Counter(pairs)
    ids = passages["passage_id"].to_pylist()
    return {kind: [counts[kind, name] for name in ids] for kind in params.generate.task_types}


def _forecast(
    params: Params,
    found: Survey,
    trial: Trial,
    questions: int,
    labelled: int,
    gain: float | None,
) -> Plan:
    passages = found.expected_passages
    if params.generate.max_passages:
        passages = min(passages, params.generate.max_passages)
    limited = found.whole or passages < found.expected_passages
    kept = forecast_kept(trial.kept, passages, 0 if limited else found.sampled_files)
    times = passages / trial.passages
    trained = kept["all"].at_most(params.validate.max_rows).at_most(params.supervise.max_rows)
    minutes = _minutes(params, found, trial, times, trained, questions)
    total = Range(0.0, 0.0)
    for part in minutes.values():
        total = total.plus(part)
    tokens = sum(found.passages["tokens"].to_pylist()) / len(found.passages) * passages
    written = trial.output_tokens * times
    return Plan(
        passages,
        labelled,
        kept,
        {**minutes, "all": total},
        memory([stage.peak_mb for stage in trial.measured.values()]),
        _disk(params, passages),
        round(tokens),
        Range(written, written).times(0.9, 1.1),
        gain,
        judge_text(trained),
    )


def _minutes(
    params: Params, found: Survey, trial: Trial, times: float, trained: Range, questions: int
) -> dict[str, Range]:
    """Return stage -> minutes. Stages that were not tried are reckoned from those that were."""
    paces = {name: Pace.of(stage.seconds, stage.marks) for name, stage in trial.measured.items()}
    predictions = trial.predictions * times
    tried = trial.validated * params.verify.confident_share
    asked = tried * times
    verify = trial.measured.get("verify")
    if verify and verify.total:  # rows that test the reader, and those it may repair
        asked += max(verify.total - tried, 0)
    passes = params.finetune.epochs / params.finetune.batch_rows
    steps = trained.times(passes, passes).at_most(params.finetune.max_steps)
    nothing = Pace(0.0, 0.0)
    checked = trial.measured.get("validate")
    validate = Pace(checked.seconds, 0.0) if checked else nothing  # nearly all of it is its start
    read = found.seconds * found.times / 60
    answers = paces.get("verify", nothing)
    if not (verify and verify.total):  # nobody read: an answer costs what a task does, at most
        answers = paces["generate"]
    models = 1 if is_nothing(Path(params.finetune.start)) else 2
    held_out = Range(min(100.0, 0.1 * trained.low), min(100.0, 0.1 * trained.high))
    scored = Range(questions, questions) if questions else held_out
    alone = 1 if questions else models + 1  # without items evaluate asks all of them
    return {
        "ingest": Range(read, read).times(0.8, 1.4),
        "generate": paces["generate"].minutes(Range(predictions, predictions)),
        "validate": validate.minutes(Range(0, 0)),
        "verify": paces.get("verify", nothing).minutes(Range(asked, asked)),
        "finetune": paces.get("finetune", nothing).minutes(steps),
        "baseline": _ask(answers, scored, models) if questions else Range(0.1, 0.4),
        "evaluate": _ask(answers, scored, alone),
        "register": _REGISTER,
    }


def _ask(pace: Pace, questions: Range, models: int) -> Range:
    """Return the minutes in which so many models answer the questions."""
    few, many = _QUESTIONS_A_ROW
    one = Pace(pace.start, pace.row).minutes(Range(questions.low / many, questions.high / few))
    return one.times(models, models)


def _disk(params: Params, passages: int) -> Range:
    """Return the disk space (MB) that a run asks for before it starts, and that of its rows.

    Models count as if none were there yet.
    """
    known = {
        name: section.model_copy(update={"precision": _resolved(section.precision)})
        for name, section in (("generate", params.generate), ("finetune", params.finetune))
    }
    models = read_models(params.model_copy(update=known))
    needs = disk_needs(models, exact=False, folders=(WORK, cache_folder()))
    rows = 0.02 * passages  # predictions, rows and their reports: 20 KB a passage
    likely = sum(need.bytes for need in needs) / _MEGABYTE + rows
    return Range(likely, likely).times(0.7, 1.3)


def _resolved(precision: str) -> str:
    return str(dtype(precision)).removeprefix("torch.") if precision == "auto" else precision
