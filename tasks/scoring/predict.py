"""A model's answers to labelled items under every template, and to general tasks.

baseline and evaluate use it; they differ only in the model. Both models are scored with the same
weights (the NF4-rounded base weights that the adapter was trained on, see tasks.lm.merged), so the
adapter is the only difference. Classification: ranked choices. Extraction and general tasks: greedy
answers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.files import fingerprint, row_seed
from tasks.core.model_params import Baseline, Evaluate, Finetune
from tasks.core.parquet import read_columns, read_table
from tasks.core.rows import EVALUATIONS, INSTRUCTIONS, require
from tasks.core.setting_paths import is_nothing
from tasks.core.store import work_key
from tasks.lm.adapters import digest_adapter, start_adapter
from tasks.lm.engine import Completion, OnDone, Sampling, need_engine, open_engine
from tasks.lm.memory import freed_after
from tasks.lm.merged import merged_folder
from tasks.lm.models import load_model, load_tokenizer
from tasks.lm.pins import arithmetic
from tasks.lm.prompts import Prompter, fill, prompt_form, trained_form
from tasks.scoring.datasets import Dataset, Item, Template, load_dataset, load_items, render
from tasks.scoring.f1 import squad_f1
from tasks.scoring.pieces import Answers, Meter, keep_answers
from tasks.scoring.ranking import rank

log = logging.getLogger(__name__)
GENERAL = "general"
#: Name of the questions, and of their one template, where there are no labelled items.
HELD_OUT = "held_out"
#: Settings that do not change the answers: they are no part of their key.
_NOT_ASKED = {
    "bootstrap",
    "batch_rows",
    "prior_correction",
    "calibration_rows",
    "calibrated_models",
    "gpu_memory_utilization",
}
Pair = tuple[Template, Item]


@dataclass(frozen=True)
class Scoreable:
    """A model to score; ``name`` is its name in the rows, ``adapter`` None is the base model."""

    name: str
    base: str
    revision: str
    quantization: str
    precision: str
    adapter: Path | None
    form: str

    def folder(self) -> Path:
        """Return the merged checkpoint."""
        return merged_folder(
            self.base, self.revision, self.adapter, self.quantization, self.precision
        )

    def key(self) -> str:
        """Return what tells this model's answers from another's.

        Its name does not: what one run calls adapted is the start of the next.
        """
        return fingerprint(
            self.base,
            self.revision,
            self.quantization,
            self.precision,
            arithmetic(self.precision),
            self.form,
            digest_adapter(self.adapter) if self.adapter else "",
        )


@dataclass(frozen=True)
class Questions:
    """The labelled items, and the templates they are asked under."""

    dataset: Dataset
    templates: tuple[Template, ...]
    items: list[Item]

    @classmethod
    def read(cls, params: Evaluate, items: Path) -> Questions:
        """Read the dataset file and its items, as many as ``params`` says."""
        dataset = load_dataset(Path(params.dataset))
        return cls(
            dataset,
            dataset.templates[: params.templates or None],
            load_items(dataset, items, params.max_items, params.seed),
        )

    @classmethod
    def held_out(cls, path: Path) -> Questions:
        """Take generated rows that supervise kept out of the training: their responses are the
        generator's, so agreement with them says nothing of what is right.
        """
        template = Template(name=HELD_OUT, instruction="{{ instruction }}")
        dataset = Dataset(
            name=HELD_OUT,
            task_type="qa",
            answers="response",
            label="",
            labels=(),
            templates=(template,),
        )
        items = [
            Item(
                id=row["row_id"],
                context=row["context"],
                golds=(row["response"],),
                gold=0,
                columns={"instruction": row["instruction"]},
            )
            for row in require(read_table(path), INSTRUCTIONS, path).to_pylist()
        ]
        return cls(dataset, (template,), items)


def models_before(target: Finetune, start: Path) -> list[Scoreable]:
    """Return the unadapted model, and the start alone where there is one, over the same weights."""
    tokenizer = load_tokenizer(target.model, target.revision)
    asked: list[tuple[str, Path | None, str]] = [
        ("zero_shot", None, prompt_form(tokenizer, target.prompt, adapted=False))
    ]
    if not is_nothing(start):
        asked.append(
            ("start", start_adapter(target, start), trained_form(start, tokenizer, target.prompt))
        )
    rounding = (target.quantization, target.precision)
    return [
        Scoreable(name, target.model, target.revision, *rounding, adapter, form)
        for name, adapter, form in asked
    ]


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
    dumped = [item.model_dump(mode="json") for item in questions.items]
    settings = params.model_dump(mode="json", exclude=_NOT_ASKED)
    key = work_key(
        __name__,
        model.key(),
        questions.dataset.model_dump(mode="json"),
        dumped,
        [template.name for template in questions.templates],
        settings,
    )

    pairs = [(template, item) for template in questions.templates for item in questions.items]

    @contextlib.contextmanager
    def opened(on_done: OnDone) -> Iterator[Answers]:
        if not questions.dataset.classifies:
            need_writer(model.base, model.revision, model.precision, params)
        folder = model.folder()
        prompter = Prompter(load_tokenizer(str(folder)), model.form)
        log.info(
            "%s: %d items x %d templates, prompt form %s",
            model.name,
            len(questions.items),
            len(questions.templates),
            prompter.form,
        )
        asked = (model, questions.dataset, pairs, prompter, folder, params, on_done)
        with (_rank_choices if questions.dataset.classifies else _extract)(*asked) as answers:
            yield answers

    kept = (journal, key, "answers", len(pairs), opened, meter, "rows", others)
    return name_model(keep_answers(*kept), model.name)


def answer_general(
    model: Scoreable,
    path: Path,
    baseline: Baseline,
    params: Evaluate,
    journal: Path,
    meter: Meter,
    others: Path | None = None,
) -> pa.Table:
    """Return one row (rows.EVALUATIONS, its template the task type) per general task of the file at
    ``path``; none for ``supervision/none``.
    """
    tasks = general_tasks(path, baseline)
    if not tasks:
        return EVALUATIONS.empty_table()

    @contextlib.contextmanager
    def opened(on_done: OnDone) -> Iterator[Answers]:
        need_writer(model.base, model.revision, model.precision, params)
        folder = model.folder()
        prompter = Prompter(load_tokenizer(str(folder)), model.form)
        log.info("%s: %d general tasks", model.name, len(tasks))
        instructions = [fill(task["instruction"], task["context"]) for task in tasks]
        prompts = [prompter.prompt(instruction) for instruction in instructions]
        with open_writer(folder, model.precision, prompts, params, on_done) as write:
            yield lambda part: (
                _general_row(model.name, task, prompter.text(instruction), completion)
                for task, instruction, completion in zip(
                    tasks[part], instructions[part], write(prompts[part]), strict=True
                )
            )

    key = work_key(__name__, model.key(), tasks, params.engine, params.max_new_tokens, params.seed)
    kept = (journal, key, "general", len(tasks), opened, meter, "general tasks", others)
    return name_model(keep_answers(*kept), model.name)


def name_model(answers: pa.Table, name: str) -> pa.Table:
    """Return the answers (rows.EVALUATIONS) with ``name`` as their model."""
    column = EVALUATIONS.get_field_index("model")
    models = pa.array([name] * len(answers), pa.string())
    return answers.set_column(column, EVALUATIONS.field(column), models)


def _general_row(
    model: str, task: dict[str, Any], prompt: str, completion: Completion
) -> dict[str, Any]:
    gold = fill(task["response"], task["context"]).strip()
    prediction = completion.text.strip()
    return {
        "model": model,
        "dataset": GENERAL,
        "template": task["task_type"],
        "item_id": task["row_id"],
        "prompt": prompt,
        "prediction": prediction,
        "golds": [gold],
        "choices": [],
        "scores": [],
        "f1": squad_f1(prediction, [gold]),
    }


def general_tasks(path: Path, baseline: Baseline) -> list[dict[str, Any]]:
    """Return ``general_rows`` held-out rows of a remix, drawn in turn from each task type."""
    if is_nothing(path):
        return []
    columns = ["row_id", "task_type", "context", "instruction", "response"]
    takes = "it takes a remix's heldout.parquet (docs/generator.md)"
    table = read_columns(path, columns, "baseline.general", takes)
    turns: dict[str, int] = {}
    order = []
    for row in sorted(
        table.to_pylist(),
        key=lambda row: row_seed(baseline.seed, GENERAL, row["row_id"]),
    ):
        turns[row["task_type"]] = turns.get(row["task_type"], 0) + 1
        order.append((turns[row["task_type"]], row["task_type"], row["row_id"], row))
    return [row for *_, row in sorted(order, key=lambda entry: entry[:3])[: baseline.general_rows]]


def name_passages(path: Path, baseline: Baseline) -> dict[str, str]:
    """Return general task -> a name of its passage, the same for all tasks on one; a task without a
    passage has its own.
    """
    return {
        task["row_id"]: fingerprint("passage", text) if text else task["row_id"]
        for task in general_tasks(path, baseline)
        for text in [" ".join(task["context"].split())]
    }


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
def _extract(
    model: Scoreable,
    dataset: Dataset,
    pairs: list[Pair],
    prompter: Prompter,
    folder: Path,
    params: Evaluate,
    on_done: OnDone,
) -> Iterator[Answers]:
    """Answer greedily; F1 is SQuAD's against the best gold."""
    prompts = [prompter.prompt(render(template, item)) for template, item in pairs]

    def answers(part: slice) -> Iterator[dict[str, Any]]:
        for (template, item), completion in zip(pairs[part], write(prompts[part]), strict=True):
            text = completion.text.strip()
            f1 = squad_f1(text, item.golds)
            yield _row(model.name, dataset, template, item, prompter, text, [], f1)

    with open_writer(folder, model.precision, prompts, params, on_done) as write:
        yield answers


@contextlib.contextmanager
def _rank_choices(
    model: Scoreable,
    dataset: Dataset,
    pairs: list[Pair],
    prompter: Prompter,
    folder: Path,
    params: Evaluate,
    on_done: OnDone,
) -> Iterator[Answers]:
    """Answer with the likeliest choice; F1 of an item is 1 if it is the gold label's."""
    prompts = [prompter.prompt(render(template, item)) for template, item in pairs]
    choices = [[prompter.response(choice) for choice in template.choices] for template, _ in pairs]
    pad_token = prompter.tokenizer.pad_token_id

    def answers(part: slice) -> Iterator[dict[str, Any]]:
        scores = rank(scorer, prompts[part], choices[part], params.batch_rows, pad_token, on_done)
        for (template, item), logs in zip(pairs[part], scores, strict=True):
            best = int(np.argmax(logs))
            choice, f1 = template.choices[best], float(best == item.gold)
            yield _row(model.name, dataset, template, item, prompter, choice, logs, f1)

    with freed_after(load_model(str(folder), precision=model.precision).eval()) as scorer:
        yield answers


def _row(
    model: str,
    dataset: Dataset,
    template: Template,
    item: Item,
    prompter: Prompter,
    prediction: str,
    scores: list[float],
    f1: float,
) -> dict[str, Any]:
    return {
        "model": model,
        "dataset": dataset.name,
        "template": template.name,
        "item_id": item.id,
        "prompt": prompter.text(render(template, item)),
        "prediction": prediction,
        "golds": [template.choices[item.gold]] if dataset.classifies else list(item.golds),
        "choices": list(template.choices),
        "scores": scores,
        "f1": f1,
    }
