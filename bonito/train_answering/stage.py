"""train_answering: a LoRA on the rows of stage answering, for ``finetune.start``.

The examples, the prompt form and the training are those of stage finetune
(tasks/lm/training_set.py).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import cast

from bonito.answering.stage import Params, check_answering_model
from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import sha256_file, write_json, write_text
from tasks.core.parquet import Batches, column_values
from tasks.core.rows import INSTRUCTIONS
from tasks.core.stage import Stage, format_reasons, run_stage
from tasks.lm.adapters import read_provenance, start_adapter
from tasks.lm.checkpoints import checkpoints_of
from tasks.lm.pins import pin
from tasks.lm.training_set import TrainingSet, report_steps


def train_answering(stage: Stage) -> None:
    """Write the adapter, ``provenance.json``, ``loss.csv`` and ``summary.json``."""
    params, path = pin(cast(Params, stage.params).finetune), stage.path("rows")
    rows = Batches(path, INSTRUCTIONS)
    start = start_adapter(params, Path(params.start))
    training = TrainingSet.of(rows.rows, params, start)
    if not training.examples:
        why = format_reasons(training.dropped)
        raise PipelineError(f"no row of {path} can be trained on ({why})")
    on_step = report_steps(stage.progress(0, "steps"))
    take_cards()
    kept = params.checkpoints_gb
    with checkpoints_of(stage.work, training.key, kept, stage.afterwards) as checkpoints:
        trained = training.train(stage.out, checkpoints, on_step)
    write_text(stage.out / "loss.csv", trained.csv())
    places, types = training.rows_trained(trained.steps), [*column_values(rows, "task_type")]
    counts = Counter(types[place] for place in places)
    told = {
        "supervision": "answering",
        "instructions_sha256": sha256_file(path),
        "start_provenance": read_provenance(start) if start else {},
        "rows_by_type": dict(sorted(counts.items())),
    }
    write_json(stage.out / "provenance.json", training.provenance(trained) | told)
    kept_rows = len(places)
    dropped = dict(training.left_out(trained.steps))
    stage.summary(
        len(rows), kept_rows, dropped, steps=trained.steps, response_tokens=trained.tokens
    )


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage(
        "train_answering",
        train_answering,
        ("rows",),
        argv,
        model=Params,
        package="bonito",
        check=check_answering_model,
    )
