"""evaluate: the adapted model over the labelled items and several prompt templates, beside the
baseline's answers to the same questions.

Classification: macro F1 over ranked choices. Extraction: SQuAD F1 of greedy answers. General tasks,
where there are any: what adaptation undid. Every prediction is kept.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.files import read_json, write_json, write_text
from tasks.core.model_params import Evaluate
from tasks.core.parquet import concat, read_table, write_table
from tasks.core.rows import EVALUATIONS, require
from tasks.core.stage import Stage, run_stage
from tasks.scoring.datasets import Dataset, Item, Template
from tasks.scoring.f1 import Scored, interval, majority_f1, resample, scored_of
from tasks.scoring.predict import Questions, Scoreable, answer, answer_general

log = logging.getLogger(__name__)
MODELS = ("zero_shot", "adapted")


def evaluate(stage: Stage) -> None:
    """Write ``scores.json`` (all that was measured), ``metrics.json`` (the few numbers that DVC
    compares), ``predictions.parquet`` and ``general.parquet`` (rows.EVALUATIONS), ``f1.csv`` and
    ``summary.json``.
    """
    params, adapter, journal = stage.params.evaluate, stage.path("adapter"), stage.work / "journal"
    told = read_json(adapter / "provenance.json")
    questions = Questions.read(params, stage.path("items"))
    model = Scoreable(
        "adapted",
        told["base"],
        told["revision"],
        told["quantization"],
        told["precision"],
        adapter,
        told["prompt"],
    )
    tables, general = _baseline(stage, "predictions.parquet"), _baseline(stage, "general.parquet")
    if told["adapter"]:
        tables["adapted"] = answer(model, questions, params, journal, stage.progress)
        general["adapted"] = answer_general(
            model, stage.path("general"), stage.params.baseline, params, journal, stage.progress
        )
    else:  # no training: the model is the one that came
        tables["adapted"], general["adapted"] = (
            _renamed(own["zero_shot"]) for own in (tables, general)
        )
    write_table(stage.out / "predictions.parquet", concat(tables.values(), EVALUATIONS))
    write_table(stage.out / "general.parquet", concat(general.values(), EVALUATIONS))
    scores = measure(questions.dataset, questions.templates, questions.items, tables, params)
    if len(general["adapted"]):
        scores["general"] = measure_general(general, params)
    write_json(stage.out / "scores.json", scores)
    write_json(stage.out / "metrics.json", dvc_metrics(scores))
    write_text(stage.out / "f1.csv", _f1_csv(scores))
    stage.summary(len(questions.items), len(questions.items), templates=len(questions.templates))
    _log_result(scores)


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


def _baseline(stage: Stage, name: str) -> dict[str, pa.Table]:
    path = stage.path("baseline") / name
    return {"zero_shot": require(read_table(path), EVALUATIONS, path)}


def _renamed(table: pa.Table) -> pa.Table:
    return table.set_column(
        0, EVALUATIONS.field("model"), pa.array(["adapted"] * len(table), pa.string())
    )


def measure_general(tables: dict[str, pa.Table], params: Evaluate) -> dict[str, Any]:
    """Return token F1 in points on the general tasks, the mean over task types, before and after,
    and the change with its 95 % interval.
    """
    kinds = sorted(set(tables["zero_shot"]["template"].to_pylist()))
    rows = {
        name: {
            row["item_id"]: row for row in table.select(["item_id", "template", "f1"]).to_pylist()
        }
        for name, table in tables.items()
    }
    ids = sorted(rows["zero_shot"])
    weights = resample(ids, params.bootstrap, params.seed)
    member = np.array(
        [[rows["zero_shot"][own]["template"] == kind for own in ids] for kind in kinds],
        dtype=np.float64,
    )
    samples: dict[str, Any] = {}
    result: dict[str, Any] = {}
    for name in MODELS:
        f1 = np.array([rows[name][own]["f1"] for own in ids])
        drawn = (
            weights @ member.T
        )  # [resamples, types]; a type that a resample leaves out does not count in it
        by_type = np.divide(
            weights @ (member * f1).T, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0
        )
        samples[name] = 100 * np.nanmean(by_type, axis=1)
        own = {
            kind: _points(100 * f1[member[place] > 0].mean()) for place, kind in enumerate(kinds)
        }
        low, high = interval(samples[name])
        result[name] = {
            "f1": _points(np.mean([100 * f1[row > 0].mean() for row in member])),
            "f1_low": _points(low),
            "f1_high": _points(high),
            "by_task_type": own,
        }
    return {**result, "change": _gain(result, samples), "tasks": len(ids)}


def measure(
    dataset: Dataset,
    templates: tuple[Template, ...],
    items: list[Item],
    tables: dict[str, pa.Table],
    params: Evaluate,
) -> dict[str, Any]:
    """Return the scores: for each model F1 in points with its 95 % interval, spread over templates
    and the majority baseline, and the gain.

    Intervals are paired: both models are resampled with the same weights, drawing whole passages.
    """
    weights = resample([item.context for item in items], params.bootstrap, params.seed)
    scored = {model: scored_of(dataset, templates, items, table) for model, table in tables.items()}
    samples = _samples(scored, weights)
    result: dict[str, Any] = {
        "dataset": dataset.name,
        "task_type": dataset.task_type,
        "metric": "macro_f1" if dataset.classifies else "squad_f1",
        "items": len(items),
        "templates": len(templates),
    }
    for model, own in scored.items():
        overall = _overall(dataset, items, own, samples[model])
        by_template = {
            t.name: _template_metrics(dataset, items, own, index, weights)
            for index, t in enumerate(templates)
        }
        result[model] = {
            **overall,
            "by_dataset": {dataset.name: {**overall, "by_template": by_template}},
        }
    result["gain"] = _gain(result, samples)
    if dataset.classifies and params.prior_correction:
        result["prior_corrected"] = _prior_corrected(dataset, templates, items, tables, weights)
    return result


def _prior_corrected(
    dataset: Dataset,
    templates: tuple[Template, ...],
    items: list[Item],
    tables: dict[str, pa.Table],
    weights: Any,
) -> dict[str, Any]:
    """Return both models' F1 and the gain once each template's liking for a choice is taken out: a
    figure apart, never the main one.
    """
    scored = {
        model: scored_of(dataset, templates, items, table, corrected=True)
        for model, table in tables.items()
    }
    samples = _samples(scored, weights)
    result = {model: _overall(dataset, items, own, samples[model]) for model, own in scored.items()}
    return {**result, "gain": _gain(result, samples)}


def _samples(scored: dict[str, Scored], weights: Any) -> dict[str, Any]:
    """Return each model's F1, the mean over templates, in every resample."""
    return {model: own.f1(weights).mean(axis=1) for model, own in scored.items()}


def _gain(result: dict[str, Any], samples: dict[str, Any]) -> dict[str, float]:
    """Return adapted less zero-shot with its paired interval."""
    low, high = interval(samples["adapted"] - samples["zero_shot"])
    return {
        "f1": _points(result["adapted"]["f1"] - result["zero_shot"]["f1"]),
        "f1_low": _points(low),
        "f1_high": _points(high),
    }


def _overall(dataset: Dataset, items: list[Item], scored: Scored, samples: Any) -> dict[str, Any]:
    by_template = scored.f1()[0]
    low, high = interval(samples)
    overall = {
        "f1": _points(by_template.mean()),
        "f1_low": _points(low),
        "f1_high": _points(high),
        "template_spread": _points(by_template.std(ddof=1) if len(by_template) > 1 else 0.0),
    }
    if dataset.classifies:
        overall["majority"] = _points(
            majority_f1([item.gold for item in items], len(dataset.labels))
        )
        overall["one_class_templates"] = sum(len(set(row)) == 1 for row in scored.values.tolist())
    return overall


def _template_metrics(
    dataset: Dataset, items: list[Item], scored: Scored, index: int, weights: Any
) -> dict[str, Any]:
    own = Scored(scored.values[index : index + 1], scored.golds, scored.classes)
    low, high = interval(own.f1(weights)[:, 0])
    metrics: dict[str, Any] = {
        "f1": _points(own.f1()[0, 0]),
        "f1_low": _points(low),
        "f1_high": _points(high),
    }
    if dataset.classifies:
        said = scored.values[index].astype(int).tolist()
        metrics["majority"] = _points(
            majority_f1([item.gold for item in items], len(dataset.labels))
        )
        metrics["predicted"] = {
            label: said.count(number) for number, label in enumerate(dataset.labels)
        }
    return metrics


def _points(value: Any) -> float:
    return round(float(value), 2)


def _f1_csv(scores: dict[str, Any]) -> str:
    lines = ["model,template,f1"]
    for model in MODELS:
        by_template = scores[model]["by_dataset"][scores["dataset"]]["by_template"]
        lines += [f"{model},{name},{own['f1']}" for name, own in by_template.items()]
    return "\n".join(lines) + "\n"


def _log_result(scores: dict[str, Any]) -> None:
    for model in MODELS:
        own = scores[model]
        beside = f", majority class {own['majority']}" if "majority" in own else ""
        log.info(
            "%s: %s %.1f [%.1f, %.1f]%s",
            model,
            scores["metric"],
            own["f1"],
            own["f1_low"],
            own["f1_high"],
            beside,
        )
        if own.get("one_class_templates"):
            log.warning(
                "%s answers with one class only under %d of %d templates",
                model,
                own["one_class_templates"],
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
