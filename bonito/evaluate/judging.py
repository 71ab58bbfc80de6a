"""The parts that need a model: the generator's tasks, its loss on held-out human-made tasks, and a
judge's answers to tasks.

A judge that answers like the generator suggests, but does not prove, that the task can be answered
and the answer is right. Its answers to human-made tasks tell how good a judge it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from bonito.evaluate.measures import Written
from bonito.params import GeneratorEvaluate
from tasks.core.files import row_seed
from tasks.core.labels import normal_labels, offered
from tasks.core.task_types import EXTRACTION
from tasks.lm.engine import Engine, Sampling, need_engine, open_engine
from tasks.lm.loading import load_model, need_card, vocabulary_logits
from tasks.lm.memory import freed_after
from tasks.lm.merged import plain_weights
from tasks.lm.models import resolve
from tasks.lm.prompts import Prompter, bonito_output, fill, generator_prompt, prompt_form
from tasks.lm.tokenizers import load_tokenizer
from tasks.scoring.f1 import squad_f1
from tasks.scoring.ranking import rank
from tasks.validate.labels import OFFERING

#: Choices of an instruction that names none.
_PAIRS = (("yes", "no"), ("true", "false"), ("positive", "negative"))
_MARK = re.compile(r"(?:[a-z]|\d{1,2})")
_MARKED = re.compile(r"(?:[a-z]|\d{1,2})\. .*")
#: Token ids of a prompt and of its output.
TokenPair = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Opinion:
    """The judge's answer to a task.

    ``agreement`` is 0 or 1 for a choice, with the ``chance`` of a guess, and F1 in 0-1 for an
    extracted answer.
    """

    answer: str
    agreement: float
    chance: float | None = None


def prepare_checkpoint(name: str, revision: str, precision: str) -> str:
    """Return the folder of a plain model; an adapter is merged first."""
    model = resolve(name, revision)
    if not model.adapter:
        need_card(model.base, model.revision, "none", precision)
    return plain_weights(name, revision, "none", precision)


def write_tasks(
    rows: Sequence[dict[str, Any]], folder: str, params: GeneratorEvaluate
) -> list[tuple[str, bool, int]]:
    """Let the generator write one task for each row; return (prediction, finished, tokens), in
    order.
    """
    tokenizer = load_tokenizer(folder)
    prompts = [generator_prompt(tokenizer, row["context"], row["task_type"]) for row in rows]
    sampling = Sampling(params.temperature, params.top_p, params.max_tokens)
    seeds = [row_seed(params.seed, row["row_id"], row["task_type"]) for row in rows]
    longest = max(map(len, prompts)) + params.max_tokens
    with freed_after(_open_engine(params, folder, longest)) as engine:
        done = engine.generate(prompts, sampling, seeds)
    return [(completion.text, completion.finished, completion.tokens) for completion in done]


def measure_held_out_losses(
    rows: Sequence[dict[str, Any]], folder: str, params: GeneratorEvaluate
) -> tuple[list[float], list[int]]:
    """Return each human-made row's output loss under the generator (summed cross-entropy in nats),
    and the outputs' token counts.
    """
    tokenizer = load_tokenizer(folder)
    examples: list[TokenPair] = [
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
    order = sorted(range(len(examples)), key=lambda index: sum(map(len, examples[index])))
    losses = [0.0] * len(examples)
    with freed_after(load_model(folder, precision=params.precision).eval()) as model:
        for start in range(0, len(order), params.batch_rows):
            chosen = order[start : start + params.batch_rows]
            measured = measure_response_losses(
                model, [examples[index] for index in chosen], tokenizer.pad_token_id
            )
            for index, loss in zip(chosen, measured, strict=True):
                losses[index] = loss
    return losses, [len(output) for _, output in examples]


@torch.inference_mode()
def measure_response_losses(
    model: Any, examples: Sequence[TokenPair], pad_token: int
) -> list[float]:
    """Return each example's cross-entropy summed over its output's tokens, in nats, as in training.

    Padded on the right without an attention mask: under causal attention no token sees the padding.
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
    """Return the judge's answer to each task; None for an unparsed task, a type with free answers,
    or unreadable choices.

    Labels and options are ranked by the summed log-probability of their tokens
    (:mod:`tasks.scoring.ranking`), extractive questions answered greedily.
    """
    judged: list[Opinion | None] = [None] * len(tasks)
    ranked = {index: options for index, task in enumerate(tasks) if (options := read_choices(task))}
    extracted = [
        index
        for index, task in enumerate(tasks)
        if task.task_type in EXTRACTION and not task.reason
    ]
    if not ranked and not extracted:
        return judged
    if extracted:
        need_judging_engine(params.judge, params.judge_revision, params)
    folder = prepare_checkpoint(params.judge, params.judge_revision, params.precision)
    tokenizer = load_tokenizer(folder)
    prompter = Prompter(tokenizer, prompt_form(tokenizer, "auto", adapted=False))
    prompts = {
        index: prompter.prompt(fill(tasks[index].instruction, tasks[index].context))
        for index in (*ranked, *extracted)
    }
    if extracted:
        longest = max(len(prompts[index]) for index in extracted) + params.judge_tokens
        with freed_after(_open_engine(params, folder, longest)) as engine:
            answers = engine.generate(
                [prompts[index] for index in extracted],
                Sampling(0.0, 1.0, params.judge_tokens),
                [params.seed] * len(extracted),
            )
        for index, answer in zip(extracted, answers, strict=True):
            judged[index] = Opinion(
                answer.text.strip(),
                squad_f1(answer.text, [fill(tasks[index].response, tasks[index].context)]),
            )
    if ranked:
        encoded = [[prompter.response(option) for option in ranked[index]] for index in ranked]
        with freed_after(load_model(folder, precision=params.precision).eval()) as model:
            scores = rank(
                model,
                [prompts[index] for index in ranked],
                encoded,
                params.batch_rows,
                tokenizer.pad_token_id,
            )
        for index, values in zip(ranked, scores, strict=True):
            best = ranked[index][int(np.argmax(values))]
            judged[index] = Opinion(
                best, float(_label(best) == _label(tasks[index].response)), 1 / len(ranked[index])
            )
    return judged


def read_choices(task: Written) -> list[str]:
    """Return the choices of a task's response, in the instruction's spelling; empty if unknown."""
    if task.reason or task.task_type not in OFFERING:
        return []
    question, label = task.instruction.replace("{{context}}", "\x1f"), _label(task.response)
    options = offered(question.lower())
    if not options:
        options = frozenset(next((pair for pair in _PAIRS if label in pair), ()))
    # A lettered option may be named by letter, text or both: the judge chooses among options in the
    # form of the generator's answer.
    for form in (_MARK, _MARKED):
        if form.fullmatch(label):
            options = frozenset(option for option in options if form.fullmatch(option))
            break
    else:
        options = frozenset(
            option
            for option in options
            if not _MARK.fullmatch(option) and not _MARKED.fullmatch(option)
        )
    return (
        [_spelt(option, question, task.response) for option in sorted(options)]
        if label in options and len(options) > 1
        else []
    )


def need_judging_engine(name: str, revision: str, params: GeneratorEvaluate) -> None:
    """Refuse an engine that the GPU has no room for, before its model comes or is merged."""
    need_engine(params.engine, name, revision, params.precision, params.gpu_memory_utilization)


def _open_engine(params: GeneratorEvaluate, folder: str, longest: int) -> Engine:
    return open_engine(
        params.engine, folder, params.precision, longest, params.gpu_memory_utilization
    )


def _spelt(option: str, question: str, response: str) -> str:
    """Return an option in the instruction's spelling, else with the response's capital."""
    match = re.search(
        rf"(?<!\w){re.escape(option)}(?!\w)", " ".join(question.split()), re.IGNORECASE
    )
    if match and not _MARK.fullmatch(option):
        return match[0]
    return option[:1].upper() + option[1:] if response.strip()[:1].isupper() else option


def _label(text: str) -> str:
    return str(normal_labels(pa.array([text], pa.string()))[0])
