"""Forecasts a whole run from a trial: up to 32 passages through generate, validate, verify and a
training step, or claims that rules make of more of them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tasks.core.errors import PipelineError
from tasks.core.params import Params
from tasks.core.privacy import cache_folder
from tasks.core.setting_paths import is_address
from tasks.core.stage import WORK
from tasks.lm.precision import dtype
from tasks.lm.preflight import check_models, fetch_models, read_models
from tasks.lm.room import disk_needs
from tasks.scoring.datasets import has_items, load_dataset, load_items
from tasks.scoring.intervals import SPREAD, smallest_gain
from tasks.scoring.lengths import check_lengths
from tasks.start.apart import Tell, hold_folder
from tasks.start.forecast import JUDGED, Range, forecast_kept, judge_text, memory
from tasks.start.launch import load_early
from tasks.start.minutes import forecast_minutes, limit_kept, unsure_by
from tasks.start.proposal import ENGLISH, english_writer
from tasks.start.survey import Survey, survey
from tasks.start.trial import EARLY, SECONDS, Trial, try_constructed, try_generated

_MEGABYTE = 2**20
#: MB of the tokenizer beside the weights of a merged model.
_TOKENIZER = 3.0
#: A smaller share of passages in other languages is not told: the detector mistakes some short
#: ones.
_OTHER = 0.1


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
    #: What the trial did not get to, as its time was over, and what else is not sure.
    rests_on: tuple[str, ...] = ()
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
    began: float | None = None,
) -> Plan:
    """Try the run of ``params`` (``values``: the same as they are in the files) and forecast it.

    Works in ``folder``, which is emptied. ``tell`` gets the name of each stage before it is tried,
    and its progress; ``spread`` is that of :func:`smallest_gain`, ``ends`` are its own; ``began``
    is when the command did (monotonic seconds). Raises :class:`PipelineError` for a corpus, items
    or a model that cannot be read, for a supervision source that makes no rows of the corpus, and
    where another plan works in ``folder``.
    """
    mix = params.supervise.mix
    if not mix.generator and mix.names != ("constructed",):
        raise PipelineError(
            f"supervise.source {params.supervise.source}: make plan forecasts the rows that a "
            "generator writes, and the claims of constructed"
        )
    if is_address(params.ingest.corpus) and not Path(params.ingest.corpus).is_dir():
        raise PipelineError(
            f"ingest.corpus {params.ingest.corpus} is on another machine: make plan tries "
            "documents of this one"
        )
    began = time.monotonic() if began is None else began
    questions, labelled = _count_questions(params)
    check_models(params)
    check_lengths(params)
    fetch_models(params, lambda line: tell("models", line))
    with hold_folder(folder, "make plan"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with load_early(EARLY if mix.generator else (), folder) as early:
            found = survey(Path(params.ingest.corpus), values, folder, progress=tell)
            if mix.generator:
                trial = try_generated(params, values, found.passages, folder, tell, early, began)
            else:
                trial = try_constructed(params, values, found.passages, folder, tell)
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
    sampled = 0 if limited else found.sampled_files
    times = passages / trial.passages
    kept = forecast_kept(trial.kept, passages, sampled, doubts=trial.doubts)
    kept = limit_kept(params, trial, kept, times)
    trained = kept["all"].at_most(params.supervise.max_rows)
    minutes = forecast_minutes(params, found, trial, times, trained, questions)
    total = Range(0.0, 0.0)
    for part in minutes.values():
        total = total.plus(part)
    tokens = sum(found.passages["tokens"].to_pylist()) / len(found.passages) * passages
    written, unsure = trial.output_tokens * times, unsure_by(trial)
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
        (*_tell_languages(params, found.share(ENGLISH)), *_rests_on(trial)),
        gpu_hours=_gpu_hours(params, trial, minutes, questions),
    )


def _tell_languages(params: Params, english: float) -> tuple[str, ...]:
    """Return in words how many passages are in a language that the source of the rows does not
    know; ``english`` is the share (0-1) of the others.
    """
    writer = english_writer(params.supervise.mix)
    if not writer or 1 - english <= _OTHER:
        return ()
    return (
        f"{1 - english:.0%} of the passages are not in English, the only language that the "
        f"{writer}: ingest.languages=[{ENGLISH}] leaves them out. A chat model may write for them "
        "(docs/matrix.md, supervise.source prompted)",
    )


def _rests_on(trial: Trial) -> tuple[str, ...]:
    """Return in words what the trial did not get to."""
    told = []
    generated, verified = (trial.measured.get(name) for name in ("generate", "verify"))
    if generated and generated.stopped:
        told.append(
            f"generating was stopped after {SECONDS:.0f} s: fewer passages give wider ranges"
        )
    if verified and verified.stopped:
        told.append(
            f"the reader answered {verified.marks[-1][1]} of {verified.total + verified.tests} "
            "rows and tests before its time was over, so nobody knows whether it judges the rows: "
            f"kept rows range from {JUDGED[0]:.0%} of the rows that it is asked to all of them"
        )
        return tuple(told)
    for kind, doubt in sorted(trial.doubts.items()):
        if doubt > 0.1:  # else the ends do not show it
            told.append(
                f"{kind}: the reader failed the small test of the trial. It may pass the larger "
                f"one of the run ({doubt:.0%}): fewer rows are kept then"
            )
    return tuple(told)


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
    words = _TOKENIZER * len(models.copies)
    likely = sum(need.bytes for need in needs) / _MEGABYTE + rows + words
    return Range(likely, likely).times(0.7, 1.3)


def _resolved(precision: str) -> str:
    return str(dtype(precision)).removeprefix("torch.") if precision == "auto" else precision


def to_json(found: Plan, profile: str, run: str, seconds: float) -> dict[str, Any]:
    """Return the content of ``plan.json``: forecasts with the ends of their 80 % intervals.

    ``run`` is the run's name, ``seconds`` what the plan took.
    """
    return {
        "profile": profile,
        "run": run,
        "interval": 0.8,
        "trial_passages": found.tried,
        "rests_on": list(found.rests_on),
        "seconds": round(seconds, 1),
        "passages": found.passages,
        "labelled_items": found.labelled,
        "kept_rows": {
            **_ends(found.kept_rows["all"], 0),
            "by_task_type": {
                name: _ends(rows, 0) for name, rows in found.kept_rows.items() if name != "all"
            },
        },
        "minutes": {
            **_ends(found.minutes["all"], 2),
            "by_stage": {
                name: _ends(part, 2) for name, part in found.minutes.items() if name != "all"
            },
        },
        "peak_memory_mb": _ends(found.peak_memory_mb, 0),
        "disk_mb": _ends(found.disk_mb, 0),
        "tokens": {
            "passages": found.passage_tokens,
            "generated": _ends(found.generated_tokens, 0),
        },
        "smallest_gain": None if found.smallest_gain is None else round(found.smallest_gain, 4),
        "detectable_gain": found.detectable_gain and _ends(found.detectable_gain, 4),
        "gpu_hours": found.gpu_hours and _ends(found.gpu_hours, 3),
        "verdict": found.verdict,
    }


def _ends(value: Range, digits: int) -> dict[str, float]:
    return {"low": round(value.low, digits), "high": round(value.high, digits)}
