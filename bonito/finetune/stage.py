"""Train the generator on remixed rows, in Bonito's input and output format.

The training code is that of the target models.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from bonito.params import GeneratorParams, Mixture
from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import row_seed, sha256_file, sha256_folder, write_json, write_text
from tasks.core.parquet import Batches, rows_at
from tasks.core.stage import Stage, format_reasons, run_stage
from tasks.lm.adapters import read_provenance, start_adapter
from tasks.lm.checkpoints import checkpoints_of
from tasks.lm.examples import Built, Example, Made, examples_trained, name_cut
from tasks.lm.pins import pin
from tasks.lm.preflight import check_training
from tasks.lm.prompts import bonito_output, generator_prompt
from tasks.lm.tokenizers import load_tokenizer
from tasks.lm.training import train, training_key
from tasks.lm.training_set import report_steps

_COLUMNS = ("row_id", "dataset", "template", "task_type", "context", "instruction", "response")
_ROWS = pa.schema([(name, pa.string()) for name in _COLUMNS])


def finetune(stage: Stage) -> None:
    """Write the generator's adapter, ``provenance.json``, ``loss.csv`` and ``summary.json``."""
    params, path = cast(GeneratorParams, stage.params).finetune, stage.path("rows")
    if params is None:
        raise PipelineError("the parameters have no finetune section: see bonito/params.yaml")
    params = pin(params)
    remixed = Batches(path, _ROWS)
    rows, dropped = draw_mixture(remixed, params)
    tokenizer = load_tokenizer(params.model, params.revision)
    start = start_adapter(params, Path(params.start)) if params.start else None
    began = sha256_folder(start) if start else ""
    built = build_examples(rows, tokenizer, params.max_prompt_tokens, params.max_response_tokens)
    examples = built.examples
    if not examples:
        why = format_reasons(dropped + built.dropped)
        raise PipelineError(
            f"no row of {path} can be trained on ({why}): raise finetune.max_prompt_tokens or "
            "max_response_tokens, or change the remix"
        )
    key = training_key(params, examples, began)
    on_step = report_steps(stage.progress(0, "steps"))
    take_cards()
    pad_token = tokenizer.pad_token_id
    kept = params.checkpoints_gb
    with checkpoints_of(stage.work, key, kept, stage.afterwards) as checkpoints:
        trained = train(examples, params, pad_token, stage.out, checkpoints, on_step, start)
    write_text(stage.out / "loss.csv", trained.csv())
    used = {built.places[index] for index in examples_trained(examples, params, trained.steps)}
    left_over = Counter({name_cut(params): len(examples) - len(used)})
    counts = Counter((rows[place]["task_type"], rows[place]["dataset"]) for place in used)
    facts = {
        "base": params.model,
        "start": began,
        "start_provenance": read_provenance(start) if start else {},
        "rows_sha256": sha256_file(path),
        "rows": len(used),
        "steps": trained.steps,
        "rows_by_type_and_dataset": {
            f"{kind}/{dataset}": count for (kind, dataset), count in sorted(counts.items())
        },
        "settings": params.model_dump(mode="json"),
    }
    write_json(stage.out / "provenance.json", facts)
    left_out = dropped + built.dropped + left_over
    stage.summary(len(remixed), len(used), dict(left_out), steps=trained.steps)


def draw_mixture(
    batches: Iterable[pa.Table], params: Mixture
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Draw the mixture from the remixed rows and shuffle it, both by hash; the other rows count as
    ``context_too_long`` or ``not_in_mixture``.

    An empty mixture takes all rows. A key is a task type or ``task type/dataset``; rows of the
    latter are not drawn for the type. The batches are read twice, the second time for the rows that
    are drawn: three numbers are held of each of the others.
    """
    keys = _read_keys(batches, params)
    groups = keys.group()
    if params.mixture:
        missing = [name for name in params.mixture if name not in groups]
        if missing:
            short = " whose passage is not too long" if params.max_context_chars else ""
            raise PipelineError(
                f"the mixture asks for {missing[0]!r}, of which there are no rows{short}: "
                "see the card of the remix"
            )
        groups = {
            name: keys.draw(groups[name], most, name.split("/")[0] in params.balance)
            for name, most in params.mixture.items()
        }
    chosen = np.concatenate([np.array([], np.int64), *groups.values()])
    places = np.sort(chosen)
    rows = list(rows_at(batches, places))
    drawn = sorted(
        (rows[index] for index in np.searchsorted(places, chosen)),
        key=lambda row: row_seed(params.seed, "order", row["row_id"]),
    )
    too_long = int(np.count_nonzero(keys.groups < 0))
    not_drawn = len(keys.seeds) - too_long - len(drawn)
    return drawn, Counter({"context_too_long": too_long, "not_in_mixture": not_drawn})


@dataclass(frozen=True)
class _Keys:
    """What the draw needs of each row: its seed, its group (an index of ``names``, -1 for a row
    that is too long), and a number that rows of one template and response share.
    """

    names: list[str]
    seeds: np.ndarray
    groups: np.ndarray
    answers: np.ndarray

    def group(self) -> dict[str, np.ndarray]:
        """Return the places of each group's rows in the order of their seeds."""
        order = np.argsort(self.seeds, kind="stable")
        order = order[self.groups[order] >= 0]
        found = self.groups[order]
        return {self.names[group]: order[found == group] for group in dict.fromkeys(found.tolist())}

    def draw(self, places: np.ndarray, most: int, balanced: bool) -> np.ndarray:
        """Return the first ``most`` places; balanced: in turns over templates and their responses.

        Then no wording, and under a wording no answer, is more common than another: at a low
        temperature a generator would nearly always write the most common one.
        """
        if not balanced:
            return places[:most]
        seen: Counter[int] = Counter()
        turns = array("q")
        for answer in self.answers[places].tolist():
            turns.append(seen[answer])
            seen[answer] += 1
        return places[np.argsort(np.array(turns), kind="stable")[:most]]


def _read_keys(batches: Iterable[pa.Table], params: Mixture) -> _Keys:
    seeds, groups, answers = array("q"), array("q"), array("q")
    names: dict[str, int] = {}
    known: dict[tuple[str, str], int] = {}
    for batch in batches:
        for row in batch.to_pylist():
            seeds.append(row_seed(params.seed, row["row_id"]))
            answer = (row["template"], row["response"].strip(" .").lower())
            balanced = row["task_type"] in params.balance
            answers.append(known.setdefault(answer, len(known)) if balanced else -1)
            if params.max_context_chars and len(row["context"]) > params.max_context_chars:
                groups.append(-1)
                continue
            specific = f"{row['task_type']}/{row['dataset']}"
            name = specific if specific in params.mixture else row["task_type"]
            groups.append(names.setdefault(name, len(names)))
    return _Keys(list(names), *(np.array(values) for values in (seeds, groups, answers)))


def build_examples(
    rows: list[dict[str, Any]], tokenizer: Any, max_input_tokens: int, max_output_tokens: int
) -> Built:
    """Return training examples in row order, and the number of dropped rows by reason.

    A row over either length is dropped, not cut: half a passage under a whole question would teach
    the generator to invent.
    """
    built = Built()
    for place, row in enumerate(rows):
        prompt = generator_prompt(tokenizer, row["context"], row["task_type"])
        output = [
            *tokenizer.encode(
                bonito_output(row["instruction"], row["response"]), add_special_tokens=False
            ),
            tokenizer.eos_token_id,
        ]
        if len(prompt) > max_input_tokens:
            made = Made([], "input_too_long")
        elif len(output) > max_output_tokens:
            made = Made([], "output_too_long")
        else:
            made = Made([Example(prompt, output)])
        built.add(place, row, made)
    return built


def check_generator(stage: str, params: GeneratorParams) -> None:
    """Refuse the training where its model cannot be loaded or does not fit here."""
    if params.finetune:
        check_training(params.finetune, stage, "bonito")


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage(
        "finetune",
        finetune,
        ("rows",),
        argv,
        model=GeneratorParams,
        package="bonito",
        check=check_generator,
    )
