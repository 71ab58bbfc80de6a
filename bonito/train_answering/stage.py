"""train_answering: a LoRA on the rows of stage answering, for ``finetune.start``.

The examples, the prompt form and the training are those of stage finetune
(tasks/finetune/stage.py).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import cast

from bonito.answering.stage import Params, check_answering_model
from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, sha256_folder, write_json, write_text
from tasks.core.parquet import read_table
from tasks.core.rows import INSTRUCTIONS, require
from tasks.core.stage import Stage, run_stage
from tasks.finetune.stage import provenance
from tasks.lm.adapters import start_adapter
from tasks.lm.checkpoints import checkpoints_of
from tasks.lm.examples import build_examples, tokens_trained
from tasks.lm.models import load_tokenizer
from tasks.lm.pins import pin
from tasks.lm.prompts import Prompter, choose_form
from tasks.lm.training import train, training_key


def train_answering(stage: Stage) -> None:
    """Write the adapter, ``provenance.json``, ``loss.csv`` and ``summary.json``."""
    params, path = pin(cast(Params, stage.params).finetune), stage.path("rows")
    rows = require(read_table(path), INSTRUCTIONS, path).to_pylist()
    tokenizer = load_tokenizer(params.model, params.revision)
    start = start_adapter(params, Path(params.start))
    began = sha256_folder(start) if start else ""
    prompter = Prompter(tokenizer, choose_form(tokenizer, params, rows, start))
    examples, dropped = build_examples(rows, prompter, params)
    if not examples:
        raise PipelineError(f"no row of {path} can be trained on ({dict(dropped)})")
    key = training_key(params, examples, began)
    progress = stage.progress(0, "steps")

    def on_step(step: int, last: int, loss: float) -> None:
        progress.step(step, last, loss=round(loss, 4))

    take_cards()
    pad_token = tokenizer.pad_token_id
    kept = params.checkpoints_gb
    with checkpoints_of(stage.work, key, kept, stage.afterwards) as checkpoints:
        trained = train(examples, params, pad_token, stage.out, checkpoints, on_step, start)
    write_text(stage.out / "loss.csv", trained.csv())
    counts = Counter(row["task_type"] for row in rows)
    facts = {
        "supervision": "answering",
        "start": began,
        "start_provenance": read_json(start / "provenance.json") if start else {},
        "tokens": tokens_trained(examples, params, trained.steps),
        "adapter": True,
        "rows_by_type": dict(sorted(counts.items())),
    }
    write_json(
        stage.out / "provenance.json",
        provenance(params, prompter, path, key, len(examples), trained) | facts,
    )
    stage.summary(
        len(rows), len(examples), dict(dropped), steps=trained.steps, response_tokens=trained.tokens
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
