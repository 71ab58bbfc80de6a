"""A model's answers to labelled items under every template.

baseline and evaluate use it; they differ only in the model. Classification: ranked choices.
Extraction: greedy answers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.rows import EVALUATIONS
from tasks.core.sections.evaluate import Evaluate
from tasks.core.store import work_key
from tasks.lm.engine import Completion, OnDone, Sampling, need_engine, open_engine
from tasks.lm.loading import load_model
from tasks.lm.memory import freed_after
from tasks.lm.prompts import Prompter
from tasks.lm.tokenizers import load_tokenizer
from tasks.scoring.datasets import render
from tasks.scoring.f1 import squad_f1
from tasks.scoring.pieces import Answers, Meter, keep_answers
from tasks.scoring.questions import Pair, Questions
from tasks.scoring.ranking import rank
from tasks.scoring.scoreable import Scoreable

log = logging.getLogger(__name__)
#: Settings that do not change the answers: they are no part of their key.
_NOT_ASKED = {
    "bootstrap",
    "batch_rows",
    "prior_correction",
    "calibration_rows",
    "calibrated_models",
    "gpu_memory_utilization",
}


def answer(
    model: Scoreable,
    questions: Questions,
    params: Evaluate,
    journal: Path,
    meter: Meter,
    others: Path | None = None,
) -> pa.Table:
    """Return one row (rows.EVALUATIONS) per template and item.

    The journal keeps every finished piece over a kill (:mod:`tasks.scoring.pieces`); ``others`` is
    that of a stage that may have asked the same. ``meter`` makes the progress meter.
    """
    key = work_key(
        __name__,
        model.key(),
        questions.dataset.model_dump(mode="json"),
        [item.model_dump(mode="json") for item in questions.items],
        [template.name for template in questions.templates],
        params.model_dump(mode="json", exclude=_NOT_ASKED),
    )

    def opened(on_done: OnDone) -> AbstractContextManager[Answers]:
        asked = (model.name, len(questions.items), len(questions.templates), model.form)
        log.info("%s: %d items x %d templates, prompt form %s", *asked)
        ask = _rank_choices if questions.dataset.classifies else _extract
        return ask(model, questions, params, on_done)

    count, texts = len(questions.pairs), [item.context for _, item in questions.pairs]
    answers = keep_answers(journal, key, count, opened, meter, "rows", others, texts)
    return name_model(answers, model.name)


def name_model(answers: pa.Table, name: str) -> pa.Table:
    """Return the answers (rows.EVALUATIONS) with ``name`` as their model."""
    column = EVALUATIONS.get_field_index("model")
    models = pa.array([name] * len(answers), pa.string())
    return answers.set_column(column, EVALUATIONS.field(column), models)


def need_writer(base: str, revision: str, precision: str, params: Evaluate) -> None:
    """Refuse what the GPU has no room for, before it is merged for :func:`open_writer`."""
    need_engine(params.engine, base, revision, precision, params.gpu_memory_utilization)


@contextlib.contextmanager
def open_writer(
    folder: Path, precision: str, prompts: list[list[int]], params: Evaluate, on_done: OnDone
) -> Iterator[Callable[[list[list[int]]], list[Completion]]]:
    """Open the engine for any of these prompts; lend a function that gives greedy answers of at
    most ``max_new_tokens`` tokens.
    """
    sampling = Sampling(0.0, 1.0, params.max_new_tokens)
    with freed_after(
        open_engine(
            params.engine,
            folder,
            precision=precision,
            max_length=max(map(len, prompts)) + params.max_new_tokens,
            gpu_memory_utilization=params.gpu_memory_utilization,
        )
    ) as engine:
        yield lambda asked: engine.generate(asked, sampling, [params.seed] * len(asked), on_done)


@contextlib.contextmanager
def write_answers(
    model: Scoreable, instructions: list[str], params: Evaluate, on_done: OnDone
) -> Iterator[Callable[[slice], list[tuple[str, str]]]]:
    """Open the engine on a model; lend a function that returns prompt and greedy answer, both as
    text, of a slice of the instructions.
    """
    need_writer(model.base, model.revision, model.precision, params)
    folder = model.folder()
    prompter = Prompter(load_tokenizer(str(folder)), model.form)
    prompts = [prompter.prompt(instruction) for instruction in instructions]
    with open_writer(folder, model.precision, prompts, params, on_done) as write:
        yield lambda part: [
            (prompter.text(instruction), completion.text.strip())
            for instruction, completion in zip(
                instructions[part], write(prompts[part]), strict=True
            )
        ]


@contextlib.contextmanager
def _extract(
    model: Scoreable, questions: Questions, params: Evaluate, on_done: OnDone
) -> Iterator[Answers]:
    """Answer greedily; F1 is SQuAD's against the best gold."""
    pairs = questions.pairs

    def answers(part: slice) -> Iterator[dict[str, Any]]:
        for pair, (prompt, text) in zip(pairs[part], write(part), strict=True):
            yield {
                **_question(model, questions, pair, prompt),
                "prediction": text,
                "scores": [],
                "f1": squad_f1(text, pair[1].golds),
            }

    instructions = [render(template, item) for template, item in pairs]
    with write_answers(model, instructions, params, on_done) as write:
        yield answers


@contextlib.contextmanager
def _rank_choices(
    model: Scoreable, questions: Questions, params: Evaluate, on_done: OnDone
) -> Iterator[Answers]:
    """Answer with the likeliest choice; F1 of an item is 1 if it is the gold label's."""
    pairs, folder = questions.pairs, model.folder()
    prompter = Prompter(load_tokenizer(str(folder)), model.form)
    instructions = [render(template, item) for template, item in pairs]
    prompts = [prompter.prompt(instruction) for instruction in instructions]
    choices = [[prompter.response(word) for word in template.choices] for template, _ in pairs]
    pad_token = prompter.tokenizer.pad_token_id

    def answers(part: slice) -> Iterator[dict[str, Any]]:
        scores = rank(scorer, prompts[part], choices[part], params.batch_rows, pad_token, on_done)
        for pair, instruction, logs in zip(pairs[part], instructions[part], scores, strict=True):
            template, item = pair
            best = int(np.argmax(logs))
            yield {
                **_question(model, questions, pair, prompter.text(instruction)),
                "prediction": template.choices[best],
                "scores": logs,
                "f1": float(best == item.gold),
            }

    with freed_after(load_model(str(folder), precision=model.precision).eval()) as scorer:
        yield answers


def _question(model: Scoreable, questions: Questions, pair: Pair, prompt: str) -> dict[str, Any]:
    """Return the columns of an answer's row that do not depend on the answer."""
    (template, item), dataset = pair, questions.dataset
    return {
        "model": model.name,
        "dataset": dataset.name,
        "template": template.name,
        "item_id": item.id,
        "prompt": prompt,
        "golds": [template.choices[item.gold]] if dataset.classifies else list(item.golds),
        "choices": list(template.choices),
    }
