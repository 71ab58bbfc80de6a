"""F1 of the models in points, with paired bootstrap intervals, and the gain of the adapted one.

All models are resampled with the same weights, drawing whole documents, or passages where items
name no document. The models are the unadapted one, the start alone where the adaptation started
from an adapter, and the adapted one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.core.sections.evaluate import Evaluate
from tasks.evaluate.calibration import Priors, as_arrays
from tasks.scoring.datasets import Dataset, Item, load_dataset
from tasks.scoring.f1 import Scored, interval, majority_f1, resample, round_points, scored_of
from tasks.scoring.questions import Questions

#: In the order in which they are shown; ``start`` is there only where there is one.
MODELS = ("zero_shot", "start", "adapted")
#: F1, or a difference of two, with its 95 % interval.
BOUNDS = ("f1", "f1_low", "f1_high")


def measure(
    questions: Questions,
    tables: dict[str, pa.Table],
    params: Evaluate,
    found: Mapping[str, Priors] | None = None,
) -> dict[str, Any]:
    """Return the gains, and for each model F1 in points with its 95 % interval, its spread over
    templates and the F1 of the majority class.

    ``tables`` (model -> answers) may lack ``start``; then there is no ``gain_over_start`` either.
    ``calibrated`` is the F1 of the models whose priors were ``found`` (model -> priors), with its
    own taken out of each.
    """
    dataset, templates, items = questions.dataset, questions.templates, questions.items
    weights = resample([item.cluster for item in items], params.bootstrap, params.seed)
    scored = {model: scored_of(dataset, templates, items, table) for model, table in tables.items()}
    samples = _samples(scored, weights)
    result: dict[str, Any] = {
        "dataset": dataset.name,
        "task_type": dataset.task_type,
        "metric": "macro_f1" if dataset.classifies else "squad_f1",
        "items": len(items),
        "templates": len(templates),
    }
    for model, answers in scored.items():
        overall = _measure_overall(dataset, items, answers, samples[model])
        by_template = {
            template.name: _measure_template(dataset, items, answers, index, weights)
            for index, template in enumerate(templates)
        }
        by_dataset = {dataset.name: {**overall, "by_template": by_template}}
        result[model] = {**overall, "by_dataset": by_dataset}
    result |= _gains(result, samples)
    if dataset.classifies and params.prior_correction:
        corrected = {
            model: scored_of(dataset, templates, items, table, corrected=True)
            for model, table in tables.items()
        }
        result["prior_corrected"] = _measure_apart(dataset, items, corrected, weights)
    if found:
        calibrated = {
            model: scored_of(
                dataset, templates, items, tables[model], prior=as_arrays(templates, priors)
            )
            for model, priors in found.items()
        }
        result["calibrated"] = _measure_apart(dataset, items, calibrated, weights)
    return result


def measure_agreement(
    questions: Questions, tables: dict[str, pa.Table], params: Evaluate
) -> dict[str, Any]:
    """Return how far the models' answers agree with held-out generated rows: token F1 in points,
    under a name of its own, since nobody has said that those rows are right.
    """
    found = measure(questions, tables, params)
    own = load_dataset(Path(params.dataset))
    return {
        "dataset": own.name,
        "task_type": own.task_type,
        "metric": "agreement",
        "items": 0,
        "templates": 0,
        "heldout_rows": len(questions.items),
        "agreement": {
            name: {bound.replace("f1", "agreement"): found[name][bound] for bound in BOUNDS}
            for name in (*MODELS, "gain", "gain_over_start")
            if name in found
        },
    }


def measure_general(
    tables: dict[str, pa.Table], passages: Mapping[str, str], params: Evaluate
) -> dict[str, Any]:
    """Return each model's token F1 in points on the general tasks, the mean over task types.

    ``passages`` (task -> a name of its passage) says which tasks are drawn together.
    ``change`` is adapted minus unadapted, with its 95 % interval; ``gain_over_start`` as in
    :func:`measure`.
    """
    task_types = sorted(set(tables["zero_shot"]["template"].to_pylist()))
    rows = {
        name: {
            row["item_id"]: row for row in table.select(["item_id", "template", "f1"]).to_pylist()
        }
        for name, table in tables.items()
    }
    ids = sorted(rows["zero_shot"])
    weights = resample([passages[id_] for id_ in ids], params.bootstrap, params.seed)
    member = np.array(
        [[rows["zero_shot"][id_]["template"] == kind for id_ in ids] for kind in task_types],
        dtype=np.float64,
    )
    samples: dict[str, Any] = {}
    result: dict[str, Any] = {}
    for name in tables:
        f1 = np.array([rows[name][id_]["f1"] for id_ in ids])
        samples[name] = _resampled_means(f1, member, weights)
        by_type = [100 * f1[row > 0].mean() for row in member]
        result[name] = {
            **_with_interval(np.mean(by_type), samples[name]),
            "by_task_type": dict(zip(task_types, map(round_points, by_type), strict=True)),
        }
    gains = _gains(result, samples)
    gains["change"] = gains.pop("gain")
    return {**result, **gains, "tasks": len(ids)}


def _resampled_means(f1: np.ndarray, member: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over task types of every resample, in points.

    A type that a resample does not draw does not count in its mean. ``member`` is [types, items],
    1 where the item is of the type; ``weights`` is [resamples, items].
    """
    drawn = weights @ member.T
    by_type = np.divide(
        weights @ (member * f1).T, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0
    )
    return np.asarray(100 * np.nanmean(by_type, axis=1))


def _measure_apart(
    dataset: Dataset, items: list[Item], scored: dict[str, Scored], weights: np.ndarray
) -> dict[str, Any]:
    """Return the models' F1, and the gains where the unadapted model is among them, without each
    template's preference for a choice: a separate figure, never the main one.
    """
    samples = _samples(scored, weights)
    result = {
        model: _measure_overall(dataset, items, answers, samples[model])
        for model, answers in scored.items()
    }
    return result | (_gains(result, samples) if "zero_shot" in result else {})


def _samples(scored: dict[str, Scored], weights: np.ndarray) -> dict[str, Any]:
    """Return each model's F1, the mean over templates, in every resample."""
    return {model: answers.f1(weights).mean(axis=1) for model, answers in scored.items()}


def _gains(result: dict[str, Any], samples: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return ``gain`` (over the unadapted model) and, where there is a start, ``gain_over_start``:
    what the run itself has added.
    """
    over = {"gain": "zero_shot"} | ({"gain_over_start": "start"} if "start" in result else {})
    return {
        name: _with_interval(
            result["adapted"]["f1"] - result[model]["f1"], samples["adapted"] - samples[model]
        )
        for name, model in over.items()
    }


def _with_interval(f1: SupportsFloat, samples: NDArray[np.float64]) -> dict[str, float]:
    """Return F1, or a difference of two, with the 95 % interval of its resamples."""
    low, high = interval(samples)
    return {"f1": round_points(f1), "f1_low": round_points(low), "f1_high": round_points(high)}


def _measure_overall(
    dataset: Dataset, items: list[Item], scored: Scored, samples: Any
) -> dict[str, Any]:
    by_template = scored.f1()[0]
    overall: dict[str, Any] = {
        **_with_interval(by_template.mean(), samples),
        "template_spread": round_points(by_template.std(ddof=1) if len(by_template) > 1 else 0.0),
    }
    if dataset.classifies:
        overall["majority"] = _majority(dataset, items)
        overall["one_class_templates"] = sum(len(set(row)) == 1 for row in scored.values.tolist())
    return overall


def _measure_template(
    dataset: Dataset, items: list[Item], scored: Scored, index: int, weights: np.ndarray
) -> dict[str, Any]:
    template = Scored(scored.values[index : index + 1], scored.golds, scored.classes)
    metrics: dict[str, Any] = _with_interval(template.f1()[0, 0], template.f1(weights)[:, 0])
    if dataset.classifies:
        predicted = scored.values[index].astype(int).tolist()
        metrics["majority"] = _majority(dataset, items)
        metrics["predicted"] = {
            label: predicted.count(number) for number, label in enumerate(dataset.labels)
        }
    return metrics


def _majority(dataset: Dataset, items: list[Item]) -> float:
    return round_points(majority_f1([item.gold for item in items], len(dataset.labels)))
