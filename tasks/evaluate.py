"""evaluate: the base model zero-shot and the adapted model, over the labelled items and several prompt templates.

Both are scored in the same precision (the NF4-rounded base weights the adapter was trained on; see tasks.models.merged_folder), so the
adapter is the only difference. Classification: ranked choices and macro F1. Extraction: greedy answers and SQuAD F1. Every prediction is kept.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.dataset import Dataset, Item, Template, load_dataset, load_items, render
from tasks.engine import Sampling, open_engine
from tasks.errors import PipelineError
from tasks.files import concat, fingerprint, read_json, read_sealed, sha256_folder, write_json, write_sealed, write_table, write_text
from tasks.formats import Prompter, prompt_form
from tasks.models import load_model, load_tokenizer, merged_folder
from tasks.params import Evaluate
from tasks.ranking import rank
from tasks.rows import EVALUATIONS
from tasks.scoring import Scored, interval, majority_f1, resample, scored_of, squad_f1
from tasks.stage import Stage, run_stage

log = logging.getLogger(__name__)
MODELS = ("zero_shot", "adapted")


def evaluate(stage: Stage) -> None:
    """Write ``metrics.json``, ``predictions.parquet`` (rows.EVALUATIONS), ``f1.csv`` and ``summary.json``."""
    params, adapter = stage.params.evaluate, stage.path("adapter")
    provenance = read_json(adapter / "provenance.json")
    dataset = load_dataset(Path(params.dataset))
    items = load_items(dataset, stage.path("items"), params.max_items, params.seed)
    templates = dataset.templates[: params.templates or None]
    tables = [_predictions(stage, model, adapter, provenance, dataset, templates, items) for model in MODELS]
    write_table(stage.out / "predictions.parquet", concat(tables, EVALUATIONS))
    metrics = measure(dataset, templates, items, dict(zip(MODELS, tables, strict=True)), params)
    write_json(stage.out / "metrics.json", metrics)
    write_text(stage.out / "f1.csv", _f1_csv(metrics))
    stage.summary(len(items), len(items), templates=len(templates))
    _log_result(metrics)


def _predictions(
    stage: Stage, model: str, adapter: Path, provenance: dict[str, Any], dataset: Dataset, templates: tuple[Template, ...], items: list[Item]
) -> pa.Table:
    """Return one model's rows; a killed run finds the models it had finished in the journal."""
    params = stage.params.evaluate
    key = fingerprint(
        model,
        provenance["base"],
        sha256_folder(adapter) if model == "adapted" else None,
        dataset.model_dump(mode="json"),
        [item.model_dump(mode="json") for item in items],
        [template.name for template in templates],
        params.model_dump(mode="json", exclude={"bootstrap", "batch_rows"}),
    )
    kept = stage.work / "journal" / f"{model}-{key[:24]}.parquet"
    try:
        if (table := read_sealed(kept)) is not None:
            return table
    except PipelineError:
        log.warning("%s is damaged: its predictions are made again", kept)
    folder = merged_folder(
        provenance["base"], provenance["revision"], adapter if model == "adapted" else None, provenance["quantization"], provenance["precision"]
    )
    tokenizer = load_tokenizer(str(folder))
    prompter = Prompter(tokenizer, prompt_form(tokenizer, provenance["prompt"], adapted=model == "adapted"))
    log.info("%s: %d items x %d templates, prompt form %s", model, len(items), len(templates), prompter.form)
    pairs = [(template, item) for template in templates for item in items]
    predict = _rank_choices if dataset.classifies else _extract
    table = pa.Table.from_pylist(list(predict(model, dataset, pairs, prompter, folder, params)), schema=EVALUATIONS)
    _forget_old(kept.parent)
    write_sealed(kept, table)
    return table


def _extract(model: str, dataset: Dataset, pairs: list[tuple[Template, Item]], prompter: Prompter, folder: Path, params: Evaluate) -> Iterator[dict[str, Any]]:
    """Greedy answers of at most ``max_new_tokens`` tokens, stripped; SQuAD F1 against the best gold."""
    prompts = [prompter.prompt(render(template, item)) for template, item in pairs]
    engine = open_engine(params.engine, folder, max_length=max(map(len, prompts)) + params.max_new_tokens)
    completions = engine.generate(prompts, Sampling(0.0, 1.0, params.max_new_tokens), [params.seed] * len(prompts))
    del engine
    for (template, item), completion in zip(pairs, completions, strict=True):
        answer = completion.text.strip()
        yield _row(model, dataset, template, item, prompter, answer, [], squad_f1(answer, item.golds))


def _rank_choices(
    model: str, dataset: Dataset, pairs: list[tuple[Template, Item]], prompter: Prompter, folder: Path, params: Evaluate
) -> Iterator[dict[str, Any]]:
    """The choice with the largest summed log-probability; F1 of an item is 1 if it is the gold label's."""
    prompts = [prompter.prompt(render(template, item)) for template, item in pairs]
    choices = [[prompter.response(choice) for choice in template.choices] for template, _ in pairs]
    scores = rank(load_model(str(folder)).eval(), prompts, choices, params.batch_rows, prompter.tokenizer.pad_token_id)
    for (template, item), own in zip(pairs, scores, strict=True):
        best = int(np.argmax(own))
        yield _row(model, dataset, template, item, prompter, template.choices[best], own, float(best == item.gold))


def _row(model: str, dataset: Dataset, template: Template, item: Item, prompter: Prompter, prediction: str, scores: list[float], f1: float) -> dict[str, Any]:
    return {
        "model": model,
        "dataset": dataset.name,
        "template": template.name,
        "item_id": item.id,
        "prompt": prompter.text(render(template, item)),
        "prediction": prediction,
        "golds": [template.choices[item.gold]] if dataset.classifies else list(item.golds),
        "choices": list(template.choices),
        "scores": scores,
        "f1": f1,
    }


def measure(dataset: Dataset, templates: tuple[Template, ...], items: list[Item], tables: dict[str, pa.Table], params: Evaluate) -> dict[str, Any]:
    """Return the metrics: for each model F1 in points with its 95 % interval, spread over templates and the majority baseline, and the gain.

    Intervals are paired: both models are resampled with the same weights, drawing whole passages.
    """
    weights = resample([item.context for item in items], params.bootstrap, params.seed)
    scored = {model: scored_of(dataset, templates, items, table) for model, table in tables.items()}
    samples = {model: own.f1(weights).mean(axis=1) for model, own in scored.items()}
    result: dict[str, Any] = {
        "dataset": dataset.name,
        "task_type": dataset.task_type,
        "metric": "macro_f1" if dataset.classifies else "squad_f1",
        "items": len(items),
        "templates": len(templates),
    }
    for model, own in scored.items():
        overall = _overall(dataset, items, own, samples[model])
        by_template = {t.name: _template_metrics(dataset, items, own, index, weights) for index, t in enumerate(templates)}
        result[model] = {**overall, "by_dataset": {dataset.name: {**overall, "by_template": by_template}}}
    low, high = interval(samples["adapted"] - samples["zero_shot"])
    result["gain"] = {"f1": _points(result["adapted"]["f1"] - result["zero_shot"]["f1"]), "f1_low": _points(low), "f1_high": _points(high)}
    return result


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
        overall["majority"] = _points(majority_f1([item.gold for item in items], len(dataset.labels)))
        overall["one_class_templates"] = sum(len(set(row)) == 1 for row in scored.values.tolist())
    return overall


def _template_metrics(dataset: Dataset, items: list[Item], scored: Scored, index: int, weights: Any) -> dict[str, Any]:
    own = Scored(scored.values[index : index + 1], scored.golds, scored.classes)
    low, high = interval(own.f1(weights)[:, 0])
    metrics: dict[str, Any] = {"f1": _points(own.f1()[0, 0]), "f1_low": _points(low), "f1_high": _points(high)}
    if dataset.classifies:
        said = scored.values[index].astype(int).tolist()
        metrics["majority"] = _points(majority_f1([item.gold for item in items], len(dataset.labels)))
        metrics["predicted"] = {label: said.count(number) for number, label in enumerate(dataset.labels)}
    return metrics


def _points(value: Any) -> float:
    return round(float(value), 2)


def _f1_csv(metrics: dict[str, Any]) -> str:
    lines = ["model,template,f1"]
    for model in MODELS:
        by_template = metrics[model]["by_dataset"][metrics["dataset"]]["by_template"]
        lines += [f"{model},{name},{own['f1']}" for name, own in by_template.items()]
    return "\n".join(lines) + "\n"


def _log_result(metrics: dict[str, Any]) -> None:
    for model in MODELS:
        own = metrics[model]
        beside = f", majority class {own['majority']}" if "majority" in own else ""
        log.info("%s: %s %.1f [%.1f, %.1f]%s", model, metrics["metric"], own["f1"], own["f1_low"], own["f1_high"], beside)
        if own.get("one_class_templates"):
            log.warning("%s answers with one class only under %d of %d templates", model, own["one_class_templates"], metrics["templates"])


def _forget_old(folder: Path, most: int = 12) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-most]:
        shutil.rmtree(old) if old.is_dir() else old.unlink()


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage("evaluate", evaluate, ("adapter", "items"), argv)


if __name__ == "__main__":
    sys.exit(main())
