"""Train the generator on remixed rows, in Bonito's input and output format.

The training code is that of the target models.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from bonito.params import GeneratorFinetune, GeneratorParams
from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, row_seed, sha256_file, sha256_folder, write_json, write_text
from tasks.core.parquet import read_table
from tasks.core.stage import Stage, run_stage
from tasks.lm.adapters import start_adapter
from tasks.lm.checkpoints import checkpoints_of
from tasks.lm.examples import Example
from tasks.lm.models import load_tokenizer
from tasks.lm.pins import pin
from tasks.lm.prompts import bonito_output, generator_prompt
from tasks.lm.training import train, training_key

_COLUMNS = ["row_id", "dataset", "template", "task_type", "context", "instruction", "response"]


def finetune(stage: Stage) -> None:
    """Write the generator's adapter, ``provenance.json``, ``loss.csv`` and ``summary.json``."""
    params, path = cast(GeneratorParams, stage.params).finetune, stage.path("rows")
    if params is None:
        raise PipelineError("the parameters have no finetune section: see bonito/params.yaml")
    params = pin(params)
    table = read_table(path, _COLUMNS)
    rows, dropped = draw_mixture(table, params)
    tokenizer = load_tokenizer(params.model, params.revision)
    start = start_adapter(params, Path(params.start)) if params.start else None
    began = sha256_folder(start) if start else ""
    examples, too_long = build_examples(
        rows, tokenizer, params.max_prompt_tokens, params.max_response_tokens
    )
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
    counts = Counter((row["task_type"], row["dataset"]) for row in rows)
    facts = {
        "base": params.model,
        "start": began,
        "start_provenance": read_json(start / "provenance.json")
        if start and (start / "provenance.json").is_file()
        else {},
        "rows_sha256": sha256_file(path),
        "rows": len(examples),
        "steps": trained.steps,
        "rows_by_type_and_dataset": {
            f"{kind}/{dataset}": count for (kind, dataset), count in sorted(counts.items())
        },
        "settings": params.model_dump(mode="json"),
    }
    write_json(stage.out / "provenance.json", facts)
    stage.summary(len(table), len(examples), dict(dropped + too_long), steps=trained.steps)


def draw_mixture(
    table: pa.Table, params: GeneratorFinetune
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Draw the mixture from the remixed rows and shuffle it, both by hash; the other rows count as
    ``not_in_mixture``.

    An empty mixture takes all rows. A key is a task type or ``task type/dataset``; rows of the
    latter are not drawn for the type.
    """
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(table.to_pylist(), key=lambda row: row_seed(params.seed, row["row_id"])):
        if not params.max_context_chars or len(row["context"]) <= params.max_context_chars:
            specific = f"{row['task_type']}/{row['dataset']}"
            groups[specific if specific in params.mixture else row["task_type"]].append(row)
    if params.mixture:
        missing = [name for name in params.mixture if name not in groups]
        if missing:
            raise PipelineError(
                f"finetune.mixture asks for {missing[0]!r}, of which there are no rows: "
                "see the card of the remix"
            )
        groups = {
            name: _draw(groups[name], most, name.split("/")[0] in params.balance)
            for name, most in params.mixture.items()
        }  # type: ignore[assignment]
    chosen = sorted(
        (row for rows in groups.values() for row in rows),
        key=lambda row: row_seed(params.seed, "order", row["row_id"]),
    )
    return chosen, Counter({"not_in_mixture": len(table) - len(chosen)})


def _draw(rows: list[dict[str, Any]], most: int, balanced: bool) -> list[dict[str, Any]]:
    """Return the first ``most`` rows; balanced: in turns over templates and their responses.

    Then no wording, and under a wording no answer, is more common than another: at a low
    temperature a generator would nearly always write the most common one.
    """
    if not balanced:
        return rows[:most]
    turns: Counter[tuple[str, str]] = Counter()
    order = []
    for place, row in enumerate(rows):
        answer = (row["template"], row["response"].strip(" .").lower())
        order.append((turns[answer], place))
        turns[answer] += 1
    return [rows[place] for _, place in sorted(order)[:most]]


def build_examples(
    rows: list[dict[str, Any]], tokenizer: Any, max_input_tokens: int, max_output_tokens: int
) -> tuple[list[Example], Counter[str]]:
    """Return training examples in row order, and the number of dropped rows by reason.

    A row over either length is dropped, not cut: half a passage under a whole question would teach
    the generator to invent.
    """
    kept: list[Example] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        prompt = generator_prompt(tokenizer, row["context"], row["task_type"])
        output = [
            *tokenizer.encode(
                bonito_output(row["instruction"], row["response"]), add_special_tokens=False
            ),
            tokenizer.eos_token_id,
        ]
        if len(prompt) > max_input_tokens or len(output) > max_output_tokens:
            dropped["input_too_long" if len(prompt) > max_input_tokens else "output_too_long"] += 1
        else:
            kept.append(Example(prompt, output))
    return kept, dropped


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage("finetune", finetune, ("rows",), argv, model=GeneratorParams, package="bonito")
