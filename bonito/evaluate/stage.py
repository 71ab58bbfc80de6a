"""evaluate: how good is a generator? It writes tasks for passages it was not trained on; form,
validity and answers of the tasks are measured by task type.

``python -m bonito.evaluate --params FILE --rows heldout.parquet --generator NAME --out FOLDER``

NAME is an adapter folder, a model folder or a hub name such as BatsResearch/bonito-v1; default:
``evaluate.generator`` of the parameters. The same rows and parameters give every generator the same
passages, so that ``python -m bonito.evaluate.compare A/scores.json B/scores.json`` can pair them.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from bonito.evaluate.draw import draw_rows
from bonito.evaluate.judging import (
    Opinion,
    judge_tasks,
    measure_held_out_losses,
    need_judging_engine,
    prepare_checkpoint,
    write_tasks,
)
from bonito.evaluate.measures import Written, check_forms, check_tasks, make_suites
from bonito.evaluate.results import round_numbers, score_by_type, tabulate_predictions
from bonito.evaluate.scores_table import render_scores
from bonito.params import GeneratorEvaluate, GeneratorParams
from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, sha256_file, write_json, write_text
from tasks.core.parquet import Batches, write_table
from tasks.core.stage import Stage, run_stage
from tasks.core.store import Store, work_key
from tasks.lm.models import identify
from tasks.lm.preflight import check_plain
from tasks.lm.prompts import parse_prediction
from tasks.tracking.mlflow_store import store_errors
from tasks.tracking.registry import Ledger

#: The module that runs the models: its code is part of every key.
_JUDGING = "bonito.evaluate.judging"
#: Keys whose results are kept for later runs.
_KEEP = 16
_COLUMNS = ("row_id", "dataset", "task_type", "context", "instruction", "response")
_ROWS = pa.schema([(name, pa.string()) for name in _COLUMNS])
#: Overall measures that are logged to MLflow; the rest is in the logged files.
METRICS = (
    "parse_yield",
    "adherence",
    "valid",
    "answer_in_passage",
    "held_out_loss",
    "judge_agreement",
    "answer_f1",
    "largest_label_share",
    "distinct_2",
    "near_duplicates",
)


def evaluate(stage: Stage, generator: str | None) -> None:
    """Write ``scores.json``, ``scores.md``, ``predictions.parquet`` (:data:`SCORED`) and
    ``summary.json``, and log them to MLflow.
    """
    params = cast(GeneratorParams, stage.params).evaluate
    params = params.model_copy(update={"generator": generator or params.generator})
    if not params.generator:
        raise PipelineError(
            "there is no generator to evaluate: set --generator or evaluate.generator"
        )
    _check_models(params)
    held_out = Batches(stage.path("rows"), _ROWS)
    rows = draw_rows(held_out, params)
    if not rows:
        raise PipelineError(
            f"{stage.path('rows')} holds no passage of at most evaluate.max_context_chars "
            f"= {params.max_context_chars} characters"
        )
    take_cards()
    progress = stage.progress(5, "steps")
    identity = identify(params.generator, params.revision)
    key = work_key(
        _JUDGING,
        identity,
        sha256_file(stage.path("rows")),
        [row["row_id"] for row in rows],
        params.model_dump(mode="json", exclude={"experiment"}),
    )
    store = Store(stage.work / "journal", key, _KEEP)
    if not store.has("tasks"):
        need_judging_engine(params.generator, params.revision, params)
    folder = prepare_checkpoint(params.generator, params.revision, params.precision)
    progress.advance(1, now="writing tasks")
    completions = store.remember("tasks", lambda: write_tasks(rows, folder, params))
    written = [
        _parsed(row, *completion[:2]) for row, completion in zip(rows, completions, strict=True)
    ]
    names = ("row_id", "task_type", "context", "instruction", "response")
    human = [Written(*(row[name] for name in names)) for row in rows]
    progress.advance(
        1,
        now="held-out loss",
        parse_yield=round(float(np.mean([not task.reason for task in written])), 3),
    )
    losses, tokens = store.remember("losses", lambda: measure_held_out_losses(rows, folder, params))
    progress.advance(1, now="second model")
    opinions, human_opinions = _opinions(stage.work / "journal", written, human, params)
    progress.advance(1, now="expectations")
    expected = make_suites(
        params.max_instruction_chars, params.max_response_chars, stage.work / "docs"
    )
    checks, human_checks = check_tasks(written, expected), check_tasks(human, expected)
    facts: dict[str, Any] = {
        "generator": params.generator,
        "identity": identity,
        "rows_sha256": sha256_file(stage.path("rows")),
        "rows_key": fingerprint([row["row_id"] for row in rows]),
        "settings": params.model_dump(mode="json"),
        "generated": score_by_type(written, checks, opinions, losses, tokens),
        "human": score_by_type(human, human_checks, human_opinions),
        "form_check": check_forms(human),
    }
    rounded = round_numbers(facts)
    write_json(stage.out / "scores.json", rounded)
    write_text(stage.out / "scores.md", render_scores(rounded))
    write_table(
        stage.out / "predictions.parquet",
        tabulate_predictions(
            rows, completions, written, checks, opinions, human_checks, losses, tokens
        ),
    )
    reasons = facts["generated"]["overall"]["unparsed"]
    stage.summary(
        len(rows),
        len(rows) - sum(reasons.values()),
        reasons,
        held_out_rows=len(held_out),
        generator=params.generator,
    )
    _log(stage, params, fingerprint(identity, facts["rows_key"], facts["settings"]), facts)
    progress.advance(1, now="done")


def _check_models(params: GeneratorEvaluate) -> None:
    """Refuse generator and judge where they cannot be loaded or do not fit here."""
    models = [
        ("evaluate.generator", params.generator, params.revision),
        ("evaluate.judge", params.judge, params.judge_revision),
    ]
    check_plain([model for model in models if model[1]], params.precision)


def _opinions(
    journal: Path, written: list[Written], human: list[Written], params: GeneratorEvaluate
) -> list[list[Opinion | None]]:
    """Return the judge's answers to the generated and to the human-made tasks.

    The latter are kept: they are the same for the next generator.
    """
    if not params.judge:
        return [[None] * len(written), [None] * len(human)]
    settings = params.model_dump(
        mode="json",
        include={"judge", "judge_revision", "judge_tokens", "engine", "precision", "seed"},
    )
    judge = identify(params.judge, params.judge_revision)
    stores = [
        Store(journal, work_key(_JUDGING, settings, judge, [asdict(task) for task in tasks]), _KEEP)
        for tasks in (written, human)
    ]
    todo = [
        (store, tasks)
        for store, tasks in zip(stores, (written, human), strict=True)
        if not store.has("opinions")
    ]
    answers = iter(judge_tasks([task for _, tasks in todo for task in tasks], params))
    for store, tasks in todo:
        kept = [opinion and asdict(opinion) for opinion in islice(answers, len(tasks))]
        store.put("opinions", kept)
    return [
        [Opinion(**opinion) if opinion else None for opinion in store.get("opinions")]
        for store in stores
    ]


def _parsed(row: dict[str, Any], prediction: str, finished: bool) -> Written:
    task = parse_prediction(prediction, finished)
    given = row["row_id"], row["task_type"], row["context"]
    return Written(*given, task.instruction, task.response, task.reason)


def _log(stage: Stage, params: GeneratorEvaluate, key: str, facts: dict[str, Any]) -> None:
    """Log to the MLflow run of this generator and these rows; create it if it is missing."""
    with store_errors():
        ledger = Ledger.open(params.experiment, key, key, f"evaluate-{Path(params.generator).name}")
        ledger.tags(
            {
                "generator": params.generator,
                "generator.identity": facts["identity"],
                "rows.sha256": facts["rows_sha256"],
            }
        )
        ledger.params({f"evaluate.{name}": value for name, value in facts["settings"].items()})
        overall = facts["generated"]["overall"]
        ledger.metrics({name: overall[name] for name in METRICS if overall.get(name) is not None})
        ledger.files([stage.out / name for name in ("scores.json", "scores.md", "summary.json")])
        ledger.finish()


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage; ``--generator`` is a name, not an input that must exist."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--generator")
    known, rest = parser.parse_known_args(argv)
    return run_stage(
        "evaluate",
        lambda stage: evaluate(stage, known.generator),
        ("rows",),
        rest,
        model=GeneratorParams,
        package="bonito",
    )
