"""Forecasts a whole run from a trial: up to 32 passages through generate, validate, verify and two
training steps, or claims that rules make of more of them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tasks.core.errors import PipelineError
from tasks.core.params import Params
from tasks.core.privacy import cache_folder
from tasks.core.setting_paths import is_nothing
from tasks.core.stage import WORK
from tasks.lm.precision import dtype
from tasks.lm.preflight import check_models, fetch_models, read_models
from tasks.lm.room import disk_needs
from tasks.scoring.datasets import has_items, load_dataset, load_items
from tasks.scoring.intervals import SPREAD, smallest_gain
from tasks.scoring.lengths import check_prompts
from tasks.start.apart import Tell, hold_folder
from tasks.start.forecast import Pace, Range, forecast_kept, judge_text, memory
from tasks.start.survey import Survey, survey
from tasks.start.trial import PASSAGES, Trial, try_constructed, try_generated

#: One row that the reader answers costs as much as 1.5 to 4 questions of baseline and evaluate: it
#: samples several answers, but reads its prompt once.
_QUESTIONS_A_ROW = (1.5, 4.0)
#: Training on one row costs as much as 1 to 4 questions: a forward and a backward pass.
_QUESTIONS_A_STEP = (1.0, 4.0)
#: Minutes of register, which compares three models and writes to MLflow.
_REGISTER = Range(0.5, 2.5)
#: Minutes of a stage that has little to do: most of it is the start of its process.
_LITTLE = Range(0.05, 0.4)
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Plan:
    """The forecast."""

    passages: int
    #: Passages of the trial.
    tried: int
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
    #: Whether the trial was stopped, as its time was over.
    stopped: bool = False
    #: Between which values the smallest gain lies, as far as the items' spread is known.
    detectable_gain: Range | None = None
    #: Hours of the stages that use the GPU; None without one.
    gpu_hours: Range | None = None


def plan(
    params: Params,
    values: Mapping[str, Any],
    folder: Path,
    tell: Tell,
    spread: float = SPREAD,
    ends: tuple[float, float] | None = None,
) -> Plan:
    """Try the run of ``params`` (``values``: the same as they are in the files) and forecast it.

    Works in ``folder``, which is emptied. ``tell`` gets the name of each stage before it is tried,
    and its progress; ``spread`` is that of :func:`smallest_gain`, ``ends`` are its own. Raises
    :class:`PipelineError` for a corpus, items or a model that cannot be read, for a supervision
    source that makes no rows of the corpus, and where another plan works in ``folder``.
    """
    mix = params.supervise.mix
    if not mix.generator and mix.names != ("constructed",):
        raise PipelineError(
            f"supervise.source {params.supervise.source}: make plan forecasts the rows that a "
            "generator writes, and the claims of constructed"
        )
    if "://" in params.ingest.corpus or params.ingest.corpus.endswith(".address"):
        raise PipelineError(
            f"ingest.corpus {params.ingest.corpus} is on another machine: make plan tries "
            "documents of this one"
        )
    questions, labelled = _count_questions(params)
    check_models(params)
    check_prompts(params)
    fetch_models(params, lambda line: tell("models", line))
    with hold_folder(folder, "make plan"):
        shutil.rmtree(folder, ignore_errors=True)
        found = survey(Path(params.ingest.corpus), values, folder, progress=tell)
        try_out = try_generated if mix.generator else try_constructed
        trial = try_out(params, values, found.passages, folder, tell)
    gain = smallest_gain(labelled, spread)
    forecast = _forecast(params, found, trial, questions, labelled, gain)
    if not ends or not labelled:
        return forecast
    low, high = (smallest_gain(labelled, end) or 0.0 for end in ends)
    return replace(forecast, detectable_gain=Range(low, high))


def _count_questions(params: Params) -> tuple[int, int]:
    """Return the questions that each model is asked, and the labelled items."""
    path, dataset = Path(params.evaluate.items), load_dataset(Path(params.evaluate.dataset))
    if not has_items(path):
        return 0, 0
    items = len(load_items(dataset, path, params.evaluate.max_items, params.evaluate.seed))
    return items * len(dataset.templates[: params.evaluate.templates or None]), items


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
    trained = kept["all"].at_most(params.supervise.max_rows)
    if params.supervise.mix.generator:
        trained = trained.at_most(params.validate.max_rows)
    minutes = _minutes(params, found, trial, times, trained, questions)
    total = Range(0.0, 0.0)
    for part in minutes.values():
        total = total.plus(part)
    tokens = sum(found.passages["tokens"].to_pylist()) / len(found.passages) * passages
    written, unsure = trial.output_tokens * times, _unsure(trial)
    return Plan(
        passages,
        trial.passages,
        labelled,
        kept,
        {**minutes, "all": total},
        memory([stage.peak_mb for stage in trial.measured.values()]),
        _disk(params, passages),
        round(tokens),
        Range(written, written).times(1 - unsure, 1 + unsure),
        gain,
        judge_text(trained),
        any(stage.stopped for stage in trial.measured.values()),
        gpu_hours=_gpu_hours(params, trial, minutes, questions),
    )


def _gpu_hours(
    params: Params, trial: Trial, minutes: Mapping[str, Range], questions: int
) -> Range | None:
    """Return the hours of the stages that load a model onto this machine's GPU."""
    if not torch.cuda.is_available():
        return None
    verify = trial.measured.get("verify")
    uses = {
        "generate": "generate" in trial.measured and not params.generate.address,
        "verify": bool(verify and verify.total),
        "finetune": True,
        "baseline": bool(questions),
        "evaluate": True,
    }
    hours = Range(0.0, 0.0)
    for name in (name for name, used in uses.items() if used):
        hours = hours.plus(minutes[name].times(1 / 60, 1 / 60))
    return hours


def _unsure(trial: Trial) -> float:
    """Return how far a count of the trial may be from the whole's: 0.1 where all were tried."""
    return min(0.1 * math.sqrt(PASSAGES / trial.passages), 0.9)


def _minutes(
    params: Params, found: Survey, trial: Trial, times: float, trained: Range, questions: int
) -> dict[str, Range]:
    """Return stage -> minutes. Stages that were not tried are reckoned from those that were."""
    paces = {name: Pace.of(stage.seconds, stage.marks) for name, stage in trial.measured.items()}
    if checked := trial.measured.get("validate"):  # nearly all of it is its start
        paces["validate"] = Pace(checked.seconds, 0.0)
    if made := trial.measured.get("supervise"):  # one row of this pace is the whole trial
        paces["supervise"] = Pace(0.0, made.seconds)
    predictions = trial.predictions * times
    tried = trial.validated * params.verify.confident_share
    unsure = _unsure(trial)
    asked = Range(tried, tried).times((1 - unsure) * times, (1 + unsure) * times)
    verify = trial.measured.get("verify")
    if verify and verify.total:  # rows that test the reader, and those it may repair
        more = max(verify.total - tried, 0)
        asked = asked.plus(Range(more, more))
    passes = params.finetune.epochs / params.finetune.batch_rows
    steps = trained.times(passes, passes).at_most(params.finetune.max_steps)
    read = found.seconds * found.times / 60
    question = _question(paces, bool(verify and verify.total), params.finetune.batch_rows)
    models = 1 if is_nothing(Path(params.finetune.start)) else 2
    held_out = Range(min(100.0, 0.1 * trained.low), min(100.0, 0.1 * trained.high))
    scored = Range(questions, questions) if questions else held_out
    alone = 1 if questions else models + 1  # without items evaluate asks all of them
    rows = {
        "generate": Range(predictions, predictions),
        "validate": Range(predictions, predictions),
        "verify": asked,
        "supervise": Range(times, times),
        "finetune": steps,
    }
    return {
        "ingest": Range(read, read).times(0.8, 1.4),
        **{name: paces[name].minutes(rows[name]) if name in paces else _LITTLE for name in rows},
        "baseline": _ask(question, scored, models) if questions else _LITTLE,
        "evaluate": _ask(question, scored, alone),
        "register": _REGISTER,
    }


#: A stage's pace, and how many questions one of its rows costs: at least, at most.
_Question = tuple[Pace, tuple[float, float]]


def _question(paces: Mapping[str, Pace], has_read: bool, batch_rows: int) -> _Question:
    """Return what a question to a model costs, from the trial that is most like it."""
    if "baseline" in paces:
        return paces["baseline"], (1.0, 1.0)
    if has_read:
        return paces["verify"], _QUESTIONS_A_ROW
    if "generate" in paces:  # nobody read: an answer costs what a task does, at most
        return paces["generate"], _QUESTIONS_A_ROW
    step = paces["finetune"]
    return Pace(step.start, step.row / batch_rows), _QUESTIONS_A_STEP


def _ask(question: _Question, questions: Range, models: int) -> Range:
    """Return the minutes that ``models`` models take to answer the questions, one by one."""
    pace, (few, many) = question
    one = pace.minutes(Range(questions.low / many, questions.high / few))
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
