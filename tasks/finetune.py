"""finetune: adapt the target model to the validated rows by Q-LoRA (arXiv 2305.14314, settings of arXiv 2402.18334).

Instruction rows in, an adapter out; beside the adapter stands everything needed to say what it is and to make it again.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tasks.errors import PipelineError
from tasks.files import fingerprint, read_table, sha256_file, write_json, write_text
from tasks.formats import Prompter, prompt_form
from tasks.models import load_tokenizer
from tasks.params import Finetune
from tasks.process import rank
from tasks.rows import INSTRUCTIONS, require
from tasks.stage import Stage, run_stage
from tasks.tracking import open_training_run
from tasks.training import Example, Trained, train

log = logging.getLogger(__name__)


def finetune(stage: Stage) -> None:
    """Write the adapter (``adapter_model.safetensors``, ``adapter_config.json``), ``provenance.json``, ``loss.csv`` and ``summary.json``."""
    params, path = stage.params.finetune, stage.path("instructions")
    rows = require(read_table(path), INSTRUCTIONS, path).to_pylist()
    tokenizer = load_tokenizer(params.model, params.revision)
    prompter = Prompter(tokenizer, prompt_form(tokenizer, params.prompt, adapted=True))
    examples, dropped = build_examples(rows, prompter, params)
    if not examples:
        raise PipelineError(f"no row of {path} can be trained on ({dict(dropped)}): look at its quarantine, or raise finetune.max_response_tokens")
    key = fingerprint(params.model_dump(mode="json", exclude={"processes"}), [(example.prompt, example.response) for example in examples])
    trained = _train(stage, params, examples, tokenizer.pad_token_id, key)
    write_text(stage.out / "loss.csv", "step,loss\n" + "".join(f"{step},{loss}\n" for step, loss in trained.losses))
    write_json(stage.out / "provenance.json", provenance(params, prompter, path, key, len(examples), trained))
    stage.summary(len(rows), len(examples), dict(dropped), steps=trained.steps, response_tokens=trained.tokens)


def build_examples(rows: list[dict[str, Any]], prompter: Prompter, params: Finetune) -> tuple[list[Example], Counter[str]]:
    """Return one example a row, in row order, and the rows left out by reason.

    A long instruction loses its middle, so that the question stays; a response that is too long is left out, since half an answer is a wrong one.
    """
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        response = prompter.response(row["response"])
        if len(response) > params.max_response_tokens:
            dropped["response_too_long"] += 1
        else:
            examples.append(Example(prompter.prompt(row["instruction"], params.max_prompt_tokens), response))
    return examples, dropped


def _train(stage: Stage, params: Finetune, examples: list[Example], pad_token: int, key: str) -> Trained:
    """Train in a checkpoint folder that belongs to this key, with the loss live in MLflow and in the progress file."""
    checkpoints = stage.work / "checkpoints" / key[:24]
    if rank() > 0:
        return train(examples, params, pad_token, stage.out, checkpoints)
    _forget_others(checkpoints)
    with open_training_run(stage.params.register_.experiment, key, params.model_dump(mode="json")) as run:
        progress = stage.progress(0, "steps")

        def on_step(step: int, last: int, loss: float) -> None:
            if not progress.total:
                progress.total = last
                progress.skip(step - 1)
            progress.advance(1, loss=round(loss, 4))
            run.metric("train_loss", loss, step)

        return train(examples, params, pad_token, stage.out, checkpoints, on_step)


def provenance(params: Finetune, prompter: Prompter, rows: Path, key: str, examples: int, trained: Trained) -> dict[str, Any]:
    """Return what tells this adapter from any other: base, prompt form with a rendered example, data hash, settings."""
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


def _forget_others(folder: Path) -> None:
    """Make the checkpoint folder; those of other data or settings go (they can be gigabytes)."""
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other)


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage("finetune", finetune, ("instructions",), argv)


if __name__ == "__main__":
    sys.exit(main())
