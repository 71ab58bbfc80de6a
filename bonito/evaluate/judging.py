"""What needs a model: the tasks that the generator writes, its loss on held-out human-made tasks,
and a second model's answers to tasks.

A second model that answers a task as the generator did is a sign, not a proof, that the task can be
answered and the answer is right; its answers to human-made tasks say how good a judge it is.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from bonito.evaluate.measures import Written
from bonito.params import GeneratorEvaluate
from tasks.core.files import row_seed
from tasks.core.task_types import EXTRACTION
from tasks.lm.engine import Sampling, open_engine
from tasks.lm.models import (
    base_path,
    load_model,
    load_tokenizer,
    merged_folder,
    resolve,
    vocabulary_logits,
)
from tasks.lm.prompts import Prompter, bonito_output, fill, generator_prompt, prompt_form
from tasks.scoring.f1 import squad_f1
from tasks.scoring.ranking import rank
from tasks.validate.labels import OFFERING, normal_labels, offered

#: Choices where the instruction names none that can be read from it.
_PAIRS = (("yes", "no"), ("true", "false"), ("positive", "negative"))
_MARK = re.compile(r"(?:[a-z]|\d{1,2})")
_MARKED = re.compile(r"(?:[a-z]|\d{1,2})\. .*")


#: Token ids of a prompt and of the output behind it.
Example = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Opinion:
    """A second model's answer to a task: ``agreement`` 0 or 1 for a choice, with the ``chance`` of
    a guess; F1 in 0-1 for an extracted answer.
    """

    answer: str
    agreement: float
    chance: float | None = None


def prepare_checkpoint(name: str, revision: str, precision: str) -> tuple[str, str]:
    """Return (folder or hub name, revision) of a plain model; an adapter is merged into its base
    first.
    """
    model = resolve(name, revision)
    if model.adapter:
        return str(
            merged_folder(model.base, model.revision, model.adapter, "none", precision)
        ), "main"
    return base_path(model.base), model.revision


def write_tasks(
    rows: Sequence[dict[str, Any]], path: str, revision: str, params: GeneratorEvaluate
) -> list[tuple[str, bool, int]]:
    """Let the generator write one task a row; return (prediction, whether it came to its end,
    tokens), in order.
    """
    tokenizer = load_tokenizer(path, revision)
    prompts = [generator_prompt(tokenizer, row["context"], row["task_type"]) for row in rows]
    engine = open_engine(
        params.engine, path, revision, params.precision, max(map(len, prompts)) + params.max_tokens
    )
    sampling = Sampling(params.temperature, params.top_p, params.max_tokens)
    done = engine.generate(
        prompts, sampling, [row_seed(params.seed, row["row_id"], row["task_type"]) for row in rows]
    )
    del engine
    free_memory()
    return [(completion.text, completion.finished, completion.tokens) for completion in done]


def measure_held_out_losses(
    rows: Sequence[dict[str, Any]], path: str, revision: str, params: GeneratorEvaluate
) -> tuple[list[float], list[int]]:
    """Return for each human-made row the summed cross-entropy (nats) of its output under the
    generator, and the output's tokens.
    """
    tokenizer = load_tokenizer(path, revision)
    examples: list[Example] = [
        (
            generator_prompt(tokenizer, row["context"], row["task_type"]),
            [
                *tokenizer.encode(
                    bonito_output(row["instruction"], row["response"]), add_special_tokens=False
                ),
                tokenizer.eos_token_id,
            ],
        )
        for row in rows
    ]
    model = load_model(path, revision, precision=params.precision).eval()
    order = sorted(range(len(examples)), key=lambda index: sum(map(len, examples[index])))
    losses = [0.0] * len(examples)
    for start in range(0, len(order), params.batch_rows):
        chosen = order[start : start + params.batch_rows]
        for index, loss in zip(
            chosen,
            measure_response_losses(
                model, [examples[index] for index in chosen], tokenizer.pad_token_id
            ),
            strict=True,
        ):
            losses[index] = loss
    del model
    free_memory()
    return losses, [len(output) for _, output in examples]


@torch.inference_mode()
def measure_response_losses(model: Any, examples: Sequence[Example], pad_token: int) -> list[float]:
    """Return each example's summed cross-entropy over its output's tokens, in nats: what training's
    loss sums over a batch.

    Padded on the right, without an attention mask: under causal attention no token sees what stands
    to its right.
    """
    sequences = [[*prompt, *output] for prompt, output in examples]
    ids = torch.full((len(sequences), max(map(len, sequences))), pad_token)
    wanted = torch.zeros_like(ids, dtype=torch.bool)
    for row, (sequence, (prompt, _)) in enumerate(zip(sequences, examples, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        wanted[row, len(prompt) : len(sequence)] = True
    ids, wanted = ids.to(model.device), wanted.to(model.device)[:, 1:]
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    losses = functional.cross_entropy(
        vocabulary_logits(model, hidden[wanted]), ids[:, 1:][wanted], reduction="none"
    )
    sums = torch.zeros(len(sequences), device=losses.device).index_add_(
        0, wanted.nonzero()[:, 0], losses
    )
    return [float(value) for value in sums]


def judge_tasks(tasks: Sequence[Written], params: GeneratorEvaluate) -> list[Opinion | None]:
    """Return the judge's answer to each task; None where there is none to give: not parsed, a type
    of free answers, or no choices to be read.

    Labels and options are ranked by the summed log-probability of their tokens
    (:mod:`tasks.scoring.ranking`), extractive questions answered greedily.
    """
    found: list[Opinion | None] = [None] * len(tasks)
    ranked = {index: options for index, task in enumerate(tasks) if (options := read_choices(task))}
    asked = [
        index
        for index, task in enumerate(tasks)
        if task.task_type in EXTRACTION and not task.reason
    ]
    if not ranked and not asked:
        return found
    path, revision = prepare_checkpoint(params.judge, params.judge_revision, params.precision)
    tokenizer = load_tokenizer(path, revision)
    prompter = Prompter(tokenizer, prompt_form(tokenizer, "auto", adapted=False))
    prompts = {
        index: prompter.prompt(fill(tasks[index].instruction, tasks[index].context))
        for index in (*ranked, *asked)
    }
    if asked:
        engine = open_engine(
            params.engine,
            path,
            revision,
            params.precision,
            max(len(prompts[index]) for index in asked) + params.judge_tokens,
        )
        answers = engine.generate(
            [prompts[index] for index in asked],
            Sampling(0.0, 1.0, params.judge_tokens),
            [params.seed] * len(asked),
        )
        del engine
        free_memory()
        for index, answer in zip(asked, answers, strict=True):
            found[index] = Opinion(
                answer.text.strip(),
                squad_f1(answer.text, [fill(tasks[index].response, tasks[index].context)]),
            )
    if ranked:
        model = load_model(path, revision, precision=params.precision).eval()
        encoded = [[prompter.response(option) for option in ranked[index]] for index in ranked]
        scores = rank(
            model,
            [prompts[index] for index in ranked],
            encoded,
            params.batch_rows,
            tokenizer.pad_token_id,
        )
        del model
        free_memory()
        for index, own in zip(ranked, scores, strict=True):
            best = ranked[index][int(np.argmax(own))]
            found[index] = Opinion(
                best, float(_label(best) == _label(tasks[index].response)), 1 / len(ranked[index])
            )
    return found


def read_choices(task: Written) -> list[str]:
    """Return what a task's response was chosen from, spelt as the instruction spells it; empty
    where that cannot be told.
    """
    if task.reason or task.task_type not in OFFERING:
        return []
    question, label = task.instruction.replace("{{context}}", "\x1f"), _label(task.response)
    found = offered(question.lower())
    if not found:
        found = frozenset(next((pair for pair in _PAIRS if label in pair), ()))
    # A lettered option answers to its letter, its text, or both: the judge chooses among options
    # written as the generator's answer is.
    for form in (_MARK, _MARKED):
        if form.fullmatch(label):
            found = frozenset(option for option in found if form.fullmatch(option))
            break
    else:
        found = frozenset(
            option
            for option in found
            if not _MARK.fullmatch(option) and not _MARKED.fullmatch(option)
        )
    return (
        [_spelt(option, question, task.response) for option in sorted(found)]
        if label in found and len(found) > 1
        else []
    )


def free_memory() -> None:
    """Give a dropped model's memory back before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _spelt(option: str, question: str, response: str) -> str:
    """Return an option as the instruction spells it; one that it does not spell takes the
    response's capital.
    """
    stands = re.search(
        rf"(?<!\w){re.escape(option)}(?!\w)", " ".join(question.split()), re.IGNORECASE
    )
    if stands and not _MARK.fullmatch(option):
        return stands[0]
    return option[:1].upper() + option[1:] if response.strip()[:1].isupper() else option


def _label(text: str) -> str:
    import pyarrow as pa

    return str(normal_labels(pa.array([text], pa.string()))[0])
