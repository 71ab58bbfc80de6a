"""evaluate: is the generator any good? It writes tasks for passages it was not trained on; their
form, validity and answers are measured, a type at a time.

``python -m bonito.evaluate --params FILE --rows heldout.parquet --generator NAME --out FOLDER``:
NAME is an adapter's folder, a model's folder or a hub name such as BatsResearch/bonito-v1; without
it, ``evaluate.generator`` of the parameters. The same rows and parameters give every generator the
same passages, so that ``python -m bonito.evaluate.compare A/scores.json B/scores.json`` may pair
them.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from bonito.evaluate.judging import (
    Opinion,
    judge_tasks,
    measure_held_out_losses,
    prepare_checkpoint,
    write_tasks,
)
from bonito.evaluate.measures import (
    TaskCheck,
    Written,
    check_forms,
    check_tasks,
    make_suites,
    measure_tasks,
)
from bonito.evaluate.scores_table import render_scores
from bonito.params import GeneratorEvaluate, GeneratorParams
from tasks.core.errors import PipelineError
from tasks.core.files import (
    fingerprint,
    row_seed,
    sha256_file,
    sha256_folder,
    write_json,
    write_text,
)
from tasks.core.parquet import read_table, write_table
from tasks.core.stage import Stage, run_stage
from tasks.core.store import Store, work_key
from tasks.core.task_types import EXTRACTION, TASK_TYPES
from tasks.lm.prompts import parse_prediction
from tasks.tracking.ledger import Ledger

log = logging.getLogger(__name__)
#: The module that asks the models: its code is part of the key of all that is kept.
_JUDGING = "bonito.evaluate.judging"
#: Keys whose answers stay for the next run.
_KEEP = 16
_COLUMNS = ["row_id", "dataset", "task_type", "context", "instruction", "response"]
#: Overall measures that MLflow gets; everything else is in the files it keeps.
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

#: predictions.parquet: one row a passage, parsable or not. ``reference_*``: the human-made task for
#: the passage; ``loss``: its output's summed cross-entropy under the generator, in nats, over
#: ``loss_tokens``; ``judge_*`` are null where there was nothing to judge.
SCORED = pa.schema(
    [
        *(
            (name, pa.string())
            for name in (
                "row_id",
                "dataset",
                "task_type",
                "context",
                "prediction",
                "instruction",
                "response",
                "reason",
            )
        ),
        ("output_tokens", pa.int32()),
        ("adheres", pa.bool_()),
        ("failed", pa.list_(pa.string())),
        ("answer_in_passage", pa.bool_()),
        ("label", pa.string()),
        ("judge_answer", pa.string()),
        ("judge_agreement", pa.float64()),
        ("judge_chance", pa.float64()),
        ("reference_instruction", pa.string()),
        ("reference_response", pa.string()),
        ("reference_adheres", pa.bool_()),
        ("loss", pa.float64()),
        ("loss_tokens", pa.int32()),
    ]
)


def evaluate(stage: Stage, given: str | None) -> None:
    """Write ``scores.json``, ``scores.md``, ``predictions.parquet`` (:data:`SCORED`) and
    ``summary.json``, and log them to MLflow.
    """
    params = cast(GeneratorParams, stage.params).evaluate
    params = params.model_copy(update={"generator": given or params.generator})
    if not params.generator:
        raise PipelineError(
            "there is no generator to evaluate: give --generator, or evaluate.generator"
        )
    table = read_table(stage.path("rows"), _COLUMNS)
    rows = draw_rows(table.to_pylist(), params)
    if not rows:
        raise PipelineError(
            f"{stage.path('rows')} holds no passage of at most evaluate.max_context_chars "
            f"= {params.max_context_chars} characters"
        )
    progress = stage.progress(5, "steps")
    path, revision = prepare_checkpoint(params.generator, params.revision, params.precision)
    identity = (
        f"sha256:{sha256_folder(Path(params.generator))}"
        if Path(params.generator).is_dir()
        else f"{params.generator}@{params.revision}"
    )
    key = work_key(
        _JUDGING,
        identity,
        sha256_file(stage.path("rows")),
        [row["row_id"] for row in rows],
        params.model_dump(mode="json", exclude={"experiment"}),
    )
    store = Store(stage.work / "journal", key, _KEEP)
    progress.advance(1, now="writing tasks")
    completions = store.remember("tasks", lambda: write_tasks(rows, path, revision, params))
    written = [
        _parsed(row, *completion[:2]) for row, completion in zip(rows, completions, strict=True)
    ]
    human = [
        Written(
            row["row_id"], row["task_type"], row["context"], row["instruction"], row["response"]
        )
        for row in rows
    ]
    progress.advance(
        1,
        now="held-out loss",
        parse_yield=round(float(np.mean([not task.reason for task in written])), 3),
    )
    losses, tokens = store.remember(
        "losses", lambda: measure_held_out_losses(rows, path, revision, params)
    )
    progress.advance(1, now="second model")
    thought, thought_of_human = _opinions(stage.work / "journal", written, human, params)
    progress.advance(1, now="expectations")
    expected = make_suites(
        params.max_instruction_chars, params.max_response_chars, stage.work / "docs"
    )
    found, found_of_human = check_tasks(written, expected), check_tasks(human, expected)
    facts: dict[str, Any] = {
        "generator": params.generator,
        "identity": identity,
        "rows_sha256": sha256_file(stage.path("rows")),
        "rows_key": fingerprint([row["row_id"] for row in rows]),
        "settings": params.model_dump(mode="json"),
        "generated": _by_type(written, found, thought, losses, tokens),
        "human": _by_type(human, found_of_human, thought_of_human),
        "form_check": check_forms(human),
    }
    write_json(stage.out / "scores.json", _rounded(facts))
    write_text(stage.out / "scores.md", render_scores(_rounded(facts)))
    write_table(
        stage.out / "predictions.parquet",
        _predictions(rows, completions, written, found, thought, found_of_human, losses, tokens),
    )
    reasons = facts["generated"]["overall"]["unparsed"]
    stage.summary(
        len(rows),
        len(rows) - sum(reasons.values()),
        reasons,
        held_out_rows=len(table),
        generator=params.generator,
    )
    _log(stage, params, fingerprint(identity, facts["rows_key"], facts["settings"]), facts)
    progress.advance(1, now="done")


def draw_rows(rows: list[dict[str, Any]], params: GeneratorEvaluate) -> list[dict[str, Any]]:
    """Return ``rows_per_type`` rows of each task type, by hash, no passage twice within a type;
    ordered by type and hash.
    """
    chosen: list[dict[str, Any]] = []
    for kind in TASK_TYPES:
        own: dict[str, dict[str, Any]] = {}
        for row in sorted(
            (row for row in rows if row["task_type"] == kind),
            key=lambda row: (row_seed(params.seed, kind, row["row_id"]), row["row_id"]),
        ):
            if len(own) < params.rows_per_type and not 0 < params.max_context_chars < len(
                row["context"]
            ):
                own.setdefault(row["context"], row)
        if len(own) < params.rows_per_type:
            log.warning(
                "%s: %d held-out passages for %d that are wanted",
                kind,
                len(own),
                params.rows_per_type,
            )
        chosen += own.values()
    return chosen


def _opinions(
    journal: Path, written: list[Written], human: list[Written], params: GeneratorEvaluate
) -> list[list[Opinion | None]]:
    """Return the judge's answers to the generated and to the human-made tasks.

    The latter are the same for the next generator, and kept for it.
    """
    if not params.judge:
        return [[None] * len(written), [None] * len(human)]
    settings = params.model_dump(
        mode="json",
        include={"judge", "judge_revision", "judge_tokens", "engine", "precision", "seed"},
    )
    stores = [
        Store(journal, work_key(_JUDGING, settings, [asdict(task) for task in tasks]), _KEEP)
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
    return Written(
        row["row_id"],
        row["task_type"],
        row["context"],
        task.instruction,
        task.response,
        task.reason,
    )


def _by_type(
    tasks: list[Written],
    found: list[TaskCheck],
    thought: list[Opinion | None],
    losses: Sequence[float] = (),
    tokens: Sequence[int] = (),
) -> dict[str, Any]:
    """Return the scores of all tasks (``overall``) and of each task type that has any."""
    groups = {"overall": list(range(len(tasks)))} | {
        kind: places
        for kind in TASK_TYPES
        if (places := [place for place, task in enumerate(tasks) if task.task_type == kind])
    }
    return {
        name: measure_tasks([tasks[place] for place in places], [found[place] for place in places])
        | _agreement([(tasks[place].task_type, thought[place]) for place in places])
        | (
            {
                "held_out_loss": sum(losses[place] for place in places)
                / sum(tokens[place] for place in places)
            }
            if losses
            else {}
        )
        for name, places in groups.items()
    }


def _agreement(thought: list[tuple[str, Opinion | None]]) -> dict[str, Any]:
    """Return the judge's agreement on choices beside what guessing would give, and the mean F1 of
    its extracted answers; None without any.
    """
    answered = [(kind, opinion) for kind, opinion in thought if opinion is not None]
    chosen = [opinion for kind, opinion in answered if kind not in EXTRACTION]
    extracted = [opinion.agreement for kind, opinion in answered if kind in EXTRACTION]
    return {
        "judged": len(chosen),
        "judge_agreement": float(np.mean([opinion.agreement for opinion in chosen]))
        if chosen
        else None,
        "judge_chance": float(np.mean([opinion.chance for opinion in chosen])) if chosen else None,
        "answered": len(extracted),
        "answer_f1": float(np.mean(extracted)) if extracted else None,
    }


def _predictions(
    rows: list[dict[str, Any]],
    completions: list[Any],
    written: list[Written],
    found: list[TaskCheck],
    thought: list[Opinion | None],
    human: list[TaskCheck],
    losses: list[float],
    tokens: list[int],
) -> pa.Table:
    lines = []
    for row, completion, task, verdict, opinion, reference, loss, count in zip(
        rows, completions, written, found, thought, human, losses, tokens, strict=True
    ):
        judged = (
            {"answer": opinion.answer, "agreement": opinion.agreement, "chance": opinion.chance}
            if opinion
            else {}
        )
        lines.append(
            {name: row[name] for name in ("row_id", "dataset", "task_type", "context")}
            | {
                "prediction": completion[0],
                "output_tokens": completion[2],
                "instruction": task.instruction,
                "response": task.response,
                "reason": task.reason,
            }
            | {
                "adheres": verdict.adheres,
                "failed": list(verdict.failed),
                "answer_in_passage": verdict.answer_in_passage,
                "label": verdict.label,
            }
            | {f"judge_{name}": value for name, value in judged.items()}
            | {
                "reference_instruction": row["instruction"],
                "reference_response": row["response"],
                "reference_adheres": reference.adheres,
            }
            | {"loss": loss, "loss_tokens": count}
        )
    return pa.Table.from_pylist(lines, schema=SCORED)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def _log(stage: Stage, params: GeneratorEvaluate, key: str, facts: dict[str, Any]) -> None:
    """Make, or go on with, one MLflow run for this generator and these rows."""
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
    """Command line of the stage; ``--generator`` is a name, not an input that must exist as a
    file.
    """
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
