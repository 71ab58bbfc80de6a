"""finetune: adapt the target model to the supervision rows by Q-LoRA (arXiv 2305.14314).

The settings follow arXiv 2402.18334. Instruction rows in, an adapter out; ``provenance.json``
beside the adapter holds all that is needed to identify it and to make it again.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import (
    choose,
    fingerprint,
    sha256_file,
    sha256_folder,
    write_json,
    write_text,
)
from tasks.core.model_params import Finetune
from tasks.core.parquet import read_table
from tasks.core.process import rank
from tasks.core.rows import INSTRUCTIONS, require
from tasks.core.stage import Stage, run_stage
from tasks.lm.adapters import start_adapter
from tasks.lm.checkpoints import checkpoints_of
from tasks.lm.examples import Example, training_order
from tasks.lm.models import load_tokenizer
from tasks.lm.pins import pin
from tasks.lm.preflight import check_run
from tasks.lm.prompts import Prompter, prompt_form, trained_form
from tasks.lm.training import Trained, train, training_key
from tasks.tracking.training_run import open_training_run

log = logging.getLogger(__name__)


def finetune(stage: Stage) -> None:
    """Write the adapter (``adapter_model.safetensors``, ``adapter_config.json``),
    ``provenance.json``, ``loss.csv`` and ``summary.json``.

    With ``supervise.source`` none there is no adapter: provenance.json says so, and what a training
    would have started from is scored: ``finetune.start``, else the unadapted model.
    """
    params, source = pin(stage.params.finetune), stage.params.supervise.source
    path = stage.path("instructions")
    table = require(read_table(path), INSTRUCTIONS, path)
    rows = choose_rows(table, params).to_pylist()
    tokenizer = load_tokenizer(params.model, params.revision)
    start = start_adapter(params, stage.path("start"))
    prompter = Prompter(tokenizer, choose_form(tokenizer, params, rows, start))
    if source == "none":
        return _write_no_adapter(stage, params, prompter, path, start)
    examples, dropped = build_examples(rows, prompter, params)
    if len(rows) < len(table):
        dropped["beyond_max_steps"] = len(table) - len(rows)
    if not examples:
        raise PipelineError(
            f"no row of {path} can be trained on ({dict(dropped)}): look at its "
            "quarantine, or raise finetune.max_response_tokens"
        )
    start_digest = sha256_folder(start) if start else ""
    key = training_key(params, examples, start_digest)
    trained = _train(stage, params, examples, tokenizer.pad_token_id, key, start)
    write_text(stage.out / "loss.csv", trained.csv())
    facts = {
        "supervision": source,
        "start": start_digest,
        "tokens": tokens_trained(examples, params, trained.steps),
        "adapter": True,
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
    keys = table.column("row_id").to_pylist()
    return table.take(choose(keys, most, params.seed, "finetune"))


def choose_form(
    tokenizer: Any, params: Finetune, rows: list[dict[str, Any]], start: Path | None
) -> str:
    """Return the prompt form of training and scoring.

    A model that is trained on raw text alone, or on nothing, keeps the form it had before.
    """
    instructed = any(row["instruction"] for row in rows)
    if start and not instructed:
        return trained_form(start, tokenizer, params.prompt)
    return prompt_form(tokenizer, params.prompt, adapted=instructed)


def build_examples(
    rows: list[dict[str, Any]], prompter: Prompter, params: Finetune
) -> tuple[list[Example], Counter[str]]:
    """Return the examples in row order (one a row, several for long raw text), and how many rows
    are left out by reason.

    A long instruction loses its middle, so that the question is kept. A row whose response is too
    long is left out: half an answer is a wrong answer.
    """
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        if not row["instruction"]:
            longest = params.max_prompt_tokens + params.max_response_tokens
            pieces = text_examples(prompter.tokenizer, row["response"], longest)
            examples += pieces
            dropped["too_short"] += not pieces
            continue
        response = prompter.response(row["response"])
        if len(response) > params.max_response_tokens:
            dropped["response_too_long"] += 1
        else:
            prompt = prompter.prompt(row["instruction"], params.max_prompt_tokens)
            examples.append(Example(prompt, response))
    return examples, dropped


def text_examples(tokenizer: Any, text: str, most: int) -> list[Example]:
    """Return raw text as next-token examples of at most ``most`` tokens; the loss covers all but
    the first token.
    """
    ids = tokenizer.encode(text.strip(), add_special_tokens=False)
    has_start = tokenizer.bos_token_id is not None and not tokenizer.chat_template
    start = [tokenizer.bos_token_id] if has_start else []
    step = most - len(start)
    pieces = [start + ids[place : place + step] for place in range(0, len(ids), step)]
    return [Example(piece[:1], piece[1:]) for piece in pieces if len(piece) > 1]


def tokens_trained(examples: list[Example], params: Finetune, steps: int) -> int:
    """Return the tokens of prompts and responses in ``steps`` steps, without padding."""
    lengths = [len(example.prompt) + len(example.response) for example in examples]
    order = training_order(lengths, params)
    return sum(lengths[index] for index in order[: steps * params.batch_rows])


def _write_no_adapter(
    stage: Stage, params: Finetune, prompter: Prompter, path: Path, start: Path | None
) -> None:
    start_digest = sha256_folder(start) if start else ""
    key = fingerprint("none", params.model_dump(mode="json"), start_digest)
    trained = Trained([], 0, 0)
    write_text(stage.out / "loss.csv", trained.csv())
    facts = {"supervision": "none", "start": start_digest, "tokens": 0, "adapter": False}
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
