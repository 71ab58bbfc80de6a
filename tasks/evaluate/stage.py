"""evaluate: the adapted model over the labelled items and several prompt templates, beside the
baseline's answers to the same questions.

Classification: macro F1 over ranked choices. Extraction: SQuAD F1 of greedy answers. General tasks,
where there are any, show what adaptation made worse. Every prediction is kept.
"""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa

from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json, write_text
from tasks.core.parquet import concat, read_table, write_table
from tasks.core.rows import EVALUATIONS, require
from tasks.core.stage import Stage, run_stage
from tasks.evaluate.measures import MODELS, measure, measure_general
from tasks.scoring.predict import Questions, Scoreable, answer, answer_general

log = logging.getLogger(__name__)


def evaluate(stage: Stage) -> None:
    """Write ``scores.json`` (all measures), ``metrics.json`` (the few numbers that DVC compares),
    ``predictions.parquet`` and ``general.parquet`` (rows.EVALUATIONS), ``f1.csv`` and
    ``summary.json``.
    """
    params = stage.params.evaluate
    questions = Questions.read(params, stage.path("items"))
    predictions, general = _answer_all(stage, questions)
    write_table(stage.out / "predictions.parquet", concat(predictions.values(), EVALUATIONS))
    write_table(stage.out / "general.parquet", concat(general.values(), EVALUATIONS))
    scores = measure(questions.dataset, questions.templates, questions.items, predictions, params)
    if len(general["adapted"]):
        scores["general"] = measure_general(general, params)
    write_json(stage.out / "scores.json", scores)
    write_json(stage.out / "metrics.json", dvc_metrics(scores))
    write_text(stage.out / "f1.csv", _f1_csv(scores))
    stage.summary(len(questions.items), len(questions.items), templates=len(questions.templates))
    _log_scores(scores)


def _answer_all(
    stage: Stage, questions: Questions
) -> tuple[dict[str, pa.Table], dict[str, pa.Table]]:
    """Return model -> answers to the labelled items, and model -> answers to the general tasks."""
    params, adapter, journal = stage.params.evaluate, stage.path("adapter"), stage.work / "journal"
    provenance = read_json(adapter / "provenance.json")
    _need_same_base(provenance, read_json(stage.path("baseline") / "summary.json"))
    baseline = _read_baseline(stage, "predictions.parquet")
    general_baseline = _read_baseline(stage, "general.parquet")
    if provenance["adapter"]:
        take_cards()
        model = Scoreable(
            "adapted",
            provenance["base"],
            provenance["revision"],
            provenance["quantization"],
            provenance["precision"],
            adapter,
            provenance["prompt"],
        )
        adapted = answer(model, questions, params, journal, stage.progress)
        general = answer_general(
            model, stage.path("general"), stage.params.baseline, params, journal, stage.progress
        )
    else:  # nothing was trained: the adapted model is the unadapted one
        adapted, general = _as_adapted(baseline), _as_adapted(general_baseline)
    return (
        {"zero_shot": baseline, "adapted": adapted},
        {"zero_shot": general_baseline, "adapted": general},
    )


def _need_same_base(provenance: dict[str, Any], scored: dict[str, Any]) -> None:
    """Refuse to compare two different models: a hub model's branch may have moved since, and
    another machine may compute in another precision.
    """
    for name in ("revision", "precision"):
        if scored.get(name, provenance[name]) != provenance[name]:
            raise PipelineError(
                f"the adapter was trained on {name} {provenance[name]} of {provenance['base']}, "
                f"but the baseline was scored on {scored[name]}: set finetune.{name} to one of "
                "them and run again"
            )


def _read_baseline(stage: Stage, name: str) -> pa.Table:
    path = stage.path("baseline") / name
    return require(read_table(path), EVALUATIONS, path)


def _as_adapted(answers: pa.Table) -> pa.Table:
    models = pa.array(["adapted"] * len(answers), pa.string())
    return answers.set_column(0, EVALUATIONS.field("model"), models)


def dvc_metrics(scores: dict[str, Any]) -> dict[str, float]:
    """Return what ``dvc exp show`` compares, in points: the same names for every dataset and task,
    so that runs line up.
    """
    adapted, gain = scores["adapted"], scores["gain"]
    bounds = ("f1", "f1_low", "f1_high")
    return {
        **{name: adapted[name] for name in bounds},
        "zero_shot": scores["zero_shot"]["f1"],
        **{name.replace("f1", "gain"): gain[name] for name in bounds},
    }


def _f1_csv(scores: dict[str, Any]) -> str:
    lines = ["model,template,f1"]
    for model in MODELS:
        by_template = scores[model]["by_dataset"][scores["dataset"]]["by_template"]
        lines += [f"{model},{name},{template['f1']}" for name, template in by_template.items()]
    return "\n".join(lines) + "\n"


def _log_scores(scores: dict[str, Any]) -> None:
    for model in MODELS:
        values = scores[model]
        majority = f", majority class {values['majority']}" if "majority" in values else ""
        log.info(
            "%s: %s %.1f [%.1f, %.1f]%s",
            model,
            scores["metric"],
            values["f1"],
            values["f1_low"],
            values["f1_high"],
            majority,
        )
        if values.get("one_class_templates"):
            log.warning(
                "%s answers with one class only under %d of %d templates",
                model,
                values["one_class_templates"],
                scores["templates"],
            )


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage(
        "evaluate",
        evaluate,
        ("adapter", "baseline"),
        argv,
        settings={"items": "evaluate.items", "general": "baseline.general"},
    )
