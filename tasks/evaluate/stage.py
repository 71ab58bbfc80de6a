"""evaluate: the adapted model over the labelled items and several prompt templates, beside the
baseline's answers to the same questions: the unadapted model's, and those of the start alone where
the adaptation started from an adapter.

Classification: macro F1 over ranked choices. Extraction: SQuAD F1 of greedy answers. General tasks,
where there are any, show what adaptation made worse. Every prediction is kept.

Without labelled items there is no F1: the models are asked the generated rows that supervise held
out, and how far they agree with them is shown under that name.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json, write_text
from tasks.core.parquet import concat, passage_texts, read_table, write_table
from tasks.core.rows import EVALUATIONS, require
from tasks.core.stage import Stage, run_stage
from tasks.core.store import keep_only
from tasks.evaluate.calibration import Priors, calibrate
from tasks.evaluate.measures import BOUNDS, MODELS, measure, measure_agreement, measure_general
from tasks.evaluate.report import write_report
from tasks.lm.pins import pin
from tasks.lm.preflight import check_run
from tasks.scoring.datasets import Item, has_items
from tasks.scoring.general import answer_general, name_passages
from tasks.scoring.item_page import name_answers
from tasks.scoring.predict import answer, name_model
from tasks.scoring.questions import Questions
from tasks.scoring.scoreable import Scoreable, models_before

log = logging.getLogger(__name__)


def evaluate(stage: Stage) -> None:
    """Write ``scores.json`` (all measures), ``metrics.json`` (the few numbers that DVC compares),
    ``predictions.parquet`` and ``general.parquet`` (rows.EVALUATIONS), ``f1.csv``,
    ``calibration.json`` (template -> choice -> the adapted model's prior), ``report.html`` and
    ``summary.json``.
    """
    params, labelled = stage.params.evaluate, has_items(stage.path("items"))
    questions = (
        Questions.read(params, stage.path("items"))
        if labelled
        else Questions.held_out(_heldout(stage))
    )
    predictions, general, found = _answer_all(stage, questions, labelled)
    write_table(stage.out / "predictions.parquet", concat(predictions.values(), EVALUATIONS))
    write_table(stage.out / "general.parquet", concat(general.values(), EVALUATIONS))
    write_json(stage.out / "calibration.json", found.get("adapted", {}))
    scores = (
        measure(questions, predictions, params, found)
        if labelled
        else measure_agreement(questions, predictions, params)
    )
    scores["rows"] = read_json(stage.path("adapter") / "provenance.json")["rows"]
    if len(general["adapted"]):
        passages = name_passages(stage.path("general"), stage.params.baseline)
        scores["general"] = measure_general(general, passages, params)
    write_json(stage.out / "scores.json", scores)
    write_json(stage.out / "metrics.json", dvc_metrics(scores))
    write_text(stage.out / "f1.csv", _f1_csv(scores))
    answers = name_answers(stage.out / "predictions.parquet")
    write_report(stage.out / "report.html", questions, predictions, general, answers)
    stage.summary(len(questions.items), len(questions.items), templates=len(questions.templates))
    _log_scores(scores)


def _heldout(stage: Stage) -> Path:
    if "heldout" not in stage.inputs:
        raise PipelineError(
            "there are no labelled items: give --heldout artifacts/supervise/heldout.parquet"
        )
    return stage.path("heldout")


def _answer_all(
    stage: Stage, questions: Questions, labelled: bool
) -> tuple[dict[str, pa.Table], dict[str, pa.Table], dict[str, Priors]]:
    """Return model -> answers to the questions, model -> answers to the general tasks, and model ->
    its priors.

    The baseline's are read, except those to held-out rows: it does not know them.
    """
    params, adapter, journal = stage.params.evaluate, stage.path("adapter"), stage.work / "journal"
    about_corpus = _forget_removed(stage, [] if labelled else questions.items)
    provenance = read_json(adapter / "provenance.json")
    _need_same_base(provenance, read_json(stage.path("baseline") / "summary.json"))
    predictions, general = _read_baseline(stage)
    if not labelled:
        take_cards()
        predictions = {
            model.name: answer(model, questions, params, about_corpus, stage.progress)
            for model in models_before(pin(stage.params.finetune), stage.path("start"))
        }
    if not provenance["adapter"]:
        # Nothing was trained: the adapted model is what the training would have started from.
        before = "start" if provenance["start"] else "zero_shot"
        if before not in predictions:
            raise PipelineError(
                f"{stage.path('baseline')} has no answers of the start that {adapter} names: run "
                "the stages finetune and baseline with the same finetune.start"
            )
        for answers in (predictions, general):
            answers["adapted"] = name_model(answers[before], "adapted")
        return predictions, general, {}
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
    own = journal if labelled else about_corpus
    predictions["adapted"] = answer(model, questions, params, own, stage.progress)
    general["adapted"] = answer_general(
        model, stage.path("general"), stage.params.baseline, params, journal, stage.progress
    )
    asked = "passages" in stage.inputs
    found = _calibrate(stage, model, questions, about_corpus) if asked else {}
    return predictions, general, found


def _forget_removed(stage: Stage, asked: Iterable[Item]) -> Path:
    """Return the journal of the answers about the corpus' own passages, without those about
    passages that are gone. ``asked`` are items of today's corpus.
    """
    journal = stage.work / "about_corpus"

    def read() -> Iterator[str]:
        yield from (item.context for item in asked)
        if "passages" in stage.inputs:
            yield from passage_texts(stage.path("passages"))

    keep_only(journal, (), read)
    return journal


def _calibrate(
    stage: Stage, adapted: Scoreable, questions: Questions, journal: Path
) -> dict[str, Priors]:
    """Return model -> its priors: of the adapted one, and where it is asked for of those before."""
    params, models = stage.params.evaluate, [adapted]
    if params.calibrated_models == "all":
        models = [*models_before(pin(stage.params.finetune), stage.path("start")), adapted]
    trained = stage.path("instructions") if "instructions" in stage.inputs else None
    passages = stage.path("passages")
    return calibrate(models, questions, passages, trained, params, journal, stage.progress)


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


def _read_baseline(stage: Stage) -> tuple[dict[str, pa.Table], dict[str, pa.Table]]:
    """Return the same of the models that the baseline asked: ``zero_shot``, and ``start`` where
    there is one.
    """
    paths = [stage.path("baseline") / name for name in ("predictions.parquet", "general.parquet")]
    answers, general = (require(read_table(path), EVALUATIONS, path) for path in paths)
    asked = pc.unique(answers["model"]).to_pylist() or pc.unique(general["model"]).to_pylist()
    asked = asked or ["zero_shot", "start"]
    return _by_model(answers, asked), _by_model(general, asked)


def _by_model(answers: pa.Table, models: list[str]) -> dict[str, pa.Table]:
    return {model: answers.filter(pc.equal(answers["model"], model)) for model in models}


def dvc_metrics(scores: dict[str, Any]) -> dict[str, float]:
    """Return what ``dvc exp show`` compares, in points: the same names for every dataset and task,
    so that runs line up.

    Without a start the four names of the start are absent, not null. DVC puts a dash where one of
    several runs has no such name, and no column at all where none has; a null makes a column.
    """
    if "agreement" in scores:
        found = scores["agreement"]
        before = [name for name in MODELS[:-1] if name in found]
        return {
            **found["adapted"],
            **{f"agreement_{name}": found[name]["agreement"] for name in before},
            "rows": scores["rows"],
        }
    adapted, gain = scores["adapted"], scores["gain"]
    metrics = {
        **{name: adapted[name] for name in BOUNDS},
        "zero_shot": scores["zero_shot"]["f1"],
        **{name.replace("f1", "gain"): gain[name] for name in BOUNDS},
        "rows": scores["rows"],
    }
    if "start" in scores:
        metrics["start"] = scores["start"]["f1"]
        over_start = scores["gain_over_start"]
        metrics |= {name.replace("f1", "gain_over_start"): over_start[name] for name in BOUNDS}
    return metrics


def _f1_csv(scores: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("model", "template", "f1"))
    for model in _models(scores):
        by_template = scores[model]["by_dataset"][scores["dataset"]]["by_template"]
        writer.writerows((model, name, found["f1"]) for name, found in by_template.items())
    return text.getvalue()


def _models(scores: dict[str, Any]) -> list[str]:
    return [model for model in MODELS if model in scores]


def _log_scores(scores: dict[str, Any]) -> None:
    for model, found in scores.get("agreement", {}).items():
        log.info(
            "%s: agreement with %d held-out generated rows %.1f [%.1f, %.1f] (no F1 of the task)",
            model,
            scores["heldout_rows"],
            *(found[name] for name in ("agreement", "agreement_low", "agreement_high")),
        )
    for model in _models(scores):
        values = scores[model]
        majority = f", majority class {values['majority']}" if "majority" in values else ""
        f1 = (values[name] for name in BOUNDS)
        log.info("%s: %s %.1f [%.1f, %.1f]%s", model, scores["metric"], *f1, majority)
        if values.get("one_class_templates"):
            log.warning(
                "%s answers with one class only under %d of %d templates",
                model,
                values["one_class_templates"],
                scores["templates"],
            )
    if over_start := scores.get("gain_over_start"):
        log.info(
            "adapted over the start alone: %+.1f [%+.1f, %+.1f]",
            *(over_start[name] for name in BOUNDS),
        )


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage(
        "evaluate",
        evaluate,
        ("adapter", "baseline"),
        argv,
        optional=("passages", "instructions", "heldout"),
        settings={
            "items": "evaluate.items",
            "general": "baseline.general",
            "start": "finetune.start",
        },
        check=check_run,
    )
