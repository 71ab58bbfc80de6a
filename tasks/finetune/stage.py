"""finetune: adapt the target model to the supervision rows by Q-LoRA (arXiv 2305.14314).

The settings follow arXiv 2402.18334. Instruction rows in, an adapter out; ``provenance.json``
beside the adapter holds all that is needed to identify it and to make it again.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import (
    choose,
    fingerprint,
    sha256_file,
    write_json,
    write_text,
)
from tasks.core.model_params import Finetune
from tasks.core.parquet import column_values, read_table, write_table
from tasks.core.process import rank
from tasks.core.rows import INSTRUCTIONS, TRAINED_FILE, require
from tasks.core.stage import Stage, run_stage
from tasks.finetune.going_on import KNOWN, begin, known_after, start_digest
from tasks.lm.checkpoints import checkpoints_of
from tasks.lm.examples import Example, build_examples, tokens_trained
from tasks.lm.models import load_tokenizer
from tasks.lm.pins import pin
from tasks.lm.preflight import check_run
from tasks.lm.prompts import Prompter, choose_form
from tasks.lm.training import Trained, train, training_key
from tasks.tracking.training_run import open_training_run

log = logging.getLogger(__name__)


def finetune(stage: Stage) -> None:
    """Write the adapter (``adapter_model.safetensors``, ``adapter_config.json``),
    ``provenance.json``, ``loss.csv``, ``trained.parquet`` (rows.TRAINED) and ``summary.json``.

    With ``supervise.source`` none there is no adapter: provenance.json says so, and what a training
    would have started from is scored: ``finetune.start``, else the unadapted model.
    """
    params, source = pin(stage.params.finetune), stage.params.supervise.source
    path = stage.path("instructions")
    table = require(read_table(path), INSTRUCTIONS, path)
    tokenizer = load_tokenizer(params.model, params.revision)
    beginning = begin(table, params, stage.path("start"))
    start = beginning.start
    chosen = choose_rows(beginning.rows, params)
    rows = chosen.to_pylist()
    prompter = Prompter(tokenizer, choose_form(tokenizer, params, rows, start))
    if source == "none":
        return _write_no_adapter(stage, params, prompter, path, start)
    examples, dropped = build_examples(rows, prompter, params)
    dropped["beyond_max_steps"] = len(beginning.rows) - len(rows)
    dropped[KNOWN] = beginning.known
    if not examples:
        raise PipelineError(
            f"no row of {path} can be trained on ({dict(dropped)}): look at its "
            "quarantine, or raise finetune.max_response_tokens"
        )
    digest = start_digest(start)
    key = training_key(params, examples, digest)
    trained = _train(stage, params, examples, tokenizer.pad_token_id, key, start)
    write_text(stage.out / "loss.csv", trained.csv())
    champion = {"champion": beginning.facts} if beginning.facts else {}
    known = known_after(table, chosen, stage.path("start"), beginning.goes_on)
    write_table(stage.out / TRAINED_FILE, known)
    facts = {
        "supervision": source,
        "start": digest,
        "tokens": tokens_trained(examples, params, trained.steps),
        "adapter": True,
        **champion,
    }
    write_json(
        stage.out / "provenance.json",
        provenance(params, prompter, path, key, len(examples), trained) | facts,
    )
    stage.summary(
        len(table),
        len(table) - dropped.total(),
        dict(dropped),
        steps=trained.steps,
        response_tokens=trained.tokens,
        tokens=facts["tokens"],
        **champion,
    )


def choose_rows(table: pa.Table, params: Finetune) -> pa.Table:
    """Return the rows to make examples of: all, or a seeded choice of twice as many as the batches
    of ``max_steps`` hold, since some may be too long.

    A million rows would be tokenised and held in memory for nothing.
    """
    if params.max_tokens or not params.max_steps:
        return table
    needed = params.max_steps * params.batch_rows / min(1.0, params.epochs)
    most = 2 * math.ceil(needed)
    if len(table) <= most:
        return table
    keys = column_values(table.select(["row_id"]).to_batches(), "row_id")
    return table.take(choose(keys, most, params.seed, "finetune"))


def _write_no_adapter(
    stage: Stage, params: Finetune, prompter: Prompter, path: Path, start: Path | None
) -> None:
    digest = start_digest(start)
    key = fingerprint("none", params.model_dump(mode="json"), digest)
    trained = Trained([], 0, 0)
    write_text(stage.out / "loss.csv", trained.csv())
    facts = {"supervision": "none", "start": digest, "tokens": 0, "adapter": False}
    write_json(
        stage.out / "provenance.json", provenance(params, prompter, path, key, 0, trained) | facts
    )
    stage.summary(0, 0, steps=0, response_tokens=0, tokens=0)


def _train(
    stage: Stage,
    params: Finetune,
    examples: list[Example],
    pad_token: int,
    key: str,
    start: Path | None,
) -> Trained:
    """Train in the checkpoint folder of this key; MLflow and the progress file show the loss."""
    take_cards()
    with checkpoints_of(stage.work, key, params.checkpoints_gb, stage.afterwards) as checkpoints:
        if rank() > 0:
            return train(examples, params, pad_token, stage.out, checkpoints, start=start)
        asked = stage.params.finetune.model_dump(mode="json")  # as register logs them
        with open_training_run(stage.params.register.experiment, key, asked) as run:
            progress = stage.progress(0, "steps")

            def on_step(step: int, last: int, loss: float) -> None:
                progress.step(step, last, loss=round(loss, 4))
                run.metric("train_loss", loss, step)

            return train(examples, params, pad_token, stage.out, checkpoints, on_step, start)


def provenance(
    params: Finetune, prompter: Prompter, rows: Path, key: str, examples: int, trained: Trained
) -> dict[str, Any]:
    """Return what identifies the adapter: base with its commit, prompt form, data hash, settings
    (``params``: those of :func:`tasks.lm.models.pin`).
    """
    return {
        "base": params.model,
        "revision": params.revision,
        "quantization": params.quantization,
        "precision": params.precision,
        "prompt": prompter.form,
        "prompt_example": prompter.text("INSTRUCTION"),
        "instructions_sha256": sha256_file(rows),
        "rows": examples,
        "steps": trained.steps,
        "key": key,
        "settings": params.model_dump(mode="json"),
    }


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage(
        "finetune",
        finetune,
        ("instructions",),
        argv,
        settings={"start": "finetune.start"},
        check=check_run,
    )
