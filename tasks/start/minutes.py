"""How long each stage of a run takes, reckoned from what a trial took."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from tasks.core.params import Params
from tasks.core.sections.finetune import Finetune
from tasks.core.setting_paths import is_nothing
from tasks.start.forecast import Pace, Range
from tasks.start.survey import Survey
from tasks.start.trial import PASSAGES, TESTS, Trial

#: One row that the reader answers costs as much as 1.2 to 5 questions of baseline and evaluate: it
#: may sample several answers, and baseline ranks many together (docs/cost.md: five times).
_QUESTIONS_A_ROW = (1.2, 5.0)
#: Training on one row costs as much as 1 to 4 questions: a forward and a backward pass.
_QUESTIONS_A_STEP = (1.0, 4.0)
#: A row takes so much less where the engine works on a run's shards, which are larger than the
#: trial's (16 rows): on two cores, of 924 rows a run had 4.7 a second, its trial 3.
_FULL_SHARD = 0.5
#: Minutes of register, which compares three models and writes to MLflow.
_REGISTER = Range(0.2, 2.5)
#: Minutes that DVC takes beside each stage: its own start, and the digests of what goes in and out.
_DVC = Range(0.02, 0.1)
#: Minutes of a stage that has little to do: most of it is the start of its process.
_LITTLE = Range(0.02, 0.4)


def forecast_minutes(
    params: Params, found: Survey, trial: Trial, times: float, trained: Range, questions: int
) -> dict[str, Range]:
    """Return stage -> minutes. Stages that were not tried are reckoned from those that were."""
    paces = {name: Pace.of(stage.seconds, stage.marks) for name, stage in trial.measured.items()}
    if checked := trial.measured.get("validate"):  # nearly all of it is its start
        paces["validate"] = Pace(checked.seconds, 0.0)
    if made := trial.measured.get("supervise"):  # one row of this pace is the whole trial
        paces["supervise"] = Pace(0.0, made.seconds)
    predictions = trial.predictions * times
    verify = trial.measured.get("verify")
    unsure = unsure_by(trial)
    tried = verify.total if verify else trial.validated * params.verify.confident_share
    tried *= _share_validated(params, trial, times)
    asked = Range(tried, tried).times((1 - unsure) * times, (1 + unsure) * times)
    if verify and verify.tests:
        asked = asked.plus(_tests(verify.tests, params.verify.test_rows, times))
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
        "finetune": count_steps(params.finetune, trial, trained),
    }
    minutes = {
        "ingest": Range(read, read).times(0.8, 1.4),
        **{name: _minutes(paces, name, rows[name]) for name in rows},
        "baseline": _ask(question, scored, models) if questions else _LITTLE,
        "evaluate": _ask(question, scored, alone),
        "register": _REGISTER,
    }
    return {name: part.plus(_DVC) for name, part in minutes.items()}


def limit_kept(
    params: Params, trial: Trial, kept: Mapping[str, Range], times: float
) -> dict[str, Range]:
    """Return the forecast of kept rows (task type -> rows) within ``validate.max_rows``, and of
    claims made by rules ``supervise.max_rows``: the trial has neither limit.
    """
    if not params.supervise.mix.generator:
        return {name: rows.at_most(params.supervise.max_rows) for name, rows in kept.items()}
    share = _share_validated(params, trial, times)
    return {name: rows.times(share, share) for name, rows in kept.items()}


def _share_validated(params: Params, trial: Trial, times: float) -> float:
    """Return the share (0-1) of validate's rows that ``validate.max_rows`` leaves: a seeded
    choice.
    """
    rows, most = trial.validated * times, params.validate.max_rows
    return min(1.0, most / rows) if most and rows else 1.0


def count_steps(finetune: Finetune, trial: Trial, trained: Range) -> Range:
    """Return the steps of a training on ``trained`` rows: those of its epochs, or of its budget of
    tokens, whatever the number of rows.
    """
    if finetune.max_tokens and trial.step_tokens:
        likely, unsure = finetune.max_tokens / trial.step_tokens, unsure_by(trial)
        steps = Range(likely * (1 - unsure), likely * (1 + unsure))
    else:
        passes = finetune.epochs / finetune.batch_rows
        steps = trained.times(passes, passes)
    return steps.at_most(finetune.max_steps)


def _minutes(paces: Mapping[str, Pace], name: str, rows: Range) -> Range:
    if name not in paces:
        return _LITTLE
    minutes = paces[name].minutes(rows)
    return minutes.times(_FULL_SHARD, 1.0) if name in ("generate", "verify") else minutes


def _tests(tried: int, most: int, times: float) -> Range:
    """Return the rows that will test the reader: up to ``most`` in each task type where a corpus of
    ``times`` the passages has them.
    """
    types = math.ceil(tried / min(TESTS, most))
    likely = types * most if tried >= types * min(TESTS, most) else min(tried * times, types * most)
    return Range(min(tried, likely), likely)


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


def unsure_by(trial: Trial) -> float:
    """Return how far a count of the trial may be from the whole's: 0.1 where all were tried."""
    return min(0.1 * math.sqrt(PASSAGES / trial.passages), 0.9)
