"""Before registration: do the trained, the merged and the served model give the same answers?

The adapter is trained over 4-bit weights, scored merged, and served by another engine: three
computations that round differently. Where their answers differ on many items, the measured F1 is
not the F1 of the model that people will use. Some of the scored answers are kept, for the server to
be asked the same over HTTP (:mod:`tasks.serve`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tasks.core.errors import PipelineError
from tasks.core.files import read_json, row_seed
from tasks.core.parquet import read_table
from tasks.core.stage import Stage
from tasks.lm.loading import load_model
from tasks.lm.memory import freed_after
from tasks.lm.merged import scored_folder
from tasks.lm.prompts import Prompter
from tasks.lm.tokenizers import load_tokenizer
from tasks.scoring.datasets import Dataset, Item, Template, has_items, render
from tasks.scoring.predict import need_writer, open_writer
from tasks.scoring.questions import Questions
from tasks.scoring.ranking import rank
from tasks.tracking.kept_answers import MOST, KeptAnswer, KeptAnswers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parity:
    """On how many of ``items`` the 4-bit adapter and the served model answer as the merged model
    does, and on how many all three agree.
    """

    items: int
    trained: int
    served: int
    all_three: int

    def describe(self) -> str:
        """Return the counts as a sentence."""
        if not self.items:
            return "not checked"
        return (
            f"of {self.items} items the 4-bit adapter agrees with the merged model on "
            f"{self.trained}, the served one on {self.served}, all three on {self.all_three}"
        )


def check_parity(stage: Stage) -> Parity:
    """Compare the three models on ``register.parity_items`` items; raise :class:`PipelineError`
    where too few agree.

    Writes the first items' greedy answers into the stage's output
    (:mod:`tasks.tracking.kept_answers`).
    """
    settings = stage.params.register
    path = Path(stage.params.evaluate.items)
    questions = (
        Questions.read(stage.params.evaluate, path)
        if has_items(path)
        else Questions.held_out(stage.path("supervise") / "heldout.parquet")
    )
    dataset, items = questions.dataset, list(questions.items)
    items.sort(key=lambda item: row_seed(stage.params.evaluate.seed, "parity", item.id))
    items = items[: settings.parity_items]
    if not items:
        return Parity(0, 0, 0, 0)
    answers, kept = _answers(stage, dataset, items)
    trained, merged, served = answers["trained"], answers["merged"], answers["served"]
    parity = Parity(
        len(items),
        sum(one == two for one, two in zip(trained, merged, strict=True)),
        sum(one == two for one, two in zip(served, merged, strict=True)),
        sum(one == two == three for one, two, three in zip(trained, merged, served, strict=True)),
    )
    log.info("parity: %s", parity.describe())
    if parity.all_three < settings.parity_floor * parity.items:
        raise PipelineError(
            f"not registered: {parity.describe()}; register.parity_floor asks for "
            f"{settings.parity_floor:.0%}: lower it, or train with finetune.quantization none"
        )
    kept.write(stage.out)
    return parity


def _answers(
    stage: Stage, dataset: Dataset, items: list[Item]
) -> tuple[dict[str, list[str]], KeptAnswers]:
    """Return each model's answers, the choice that scores highest, or greedy text; and the scored
    model's greedy texts to keep.

    The served model's texts are those that evaluate kept: they come from the same engine.
    """
    template, adapter = dataset.templates[0], stage.path("finetune")
    provenance = read_json(adapter / "provenance.json")
    base = (provenance["base"], provenance["revision"])
    rounding = (provenance["quantization"], provenance["precision"])
    if dataset.classifies:
        need_writer(*base, rounding[1], stage.params.evaluate)
    folder = scored_folder(provenance, adapter)
    tokenizer = load_tokenizer(str(folder))
    prompter = Prompter(tokenizer, provenance["prompt"])
    questioner = _Questioner(stage, dataset, template, items, prompter)
    with freed_after(_with_adapter(adapter, *base, *rounding)) as model:
        trained = questioner.choose(model)
    with freed_after(_load_merged(folder, rounding[1])) as model:
        merged = questioner.choose(model)
    if dataset.classifies:
        # The engine writes, it does not rank. Its answer counts as the merged model's choice where
        # the merged model writes the same text.
        texts = questioner.write_with_engine(folder, rounding[1])
        with freed_after(_load_merged(folder, rounding[1])) as model:
            written = questioner.write(model)
        served = [
            choice if own == text else text
            for choice, own, text in zip(merged, written, texts, strict=True)
        ]
    else:
        predictions = _read_predictions(stage.path("evaluate"), template.name)
        served = written = [predictions[item.id] for item in items]
    answers = {"trained": trained, "merged": merged, "served": served}
    return answers, questioner.keep(written)


def _read_predictions(evaluation: Path, template: str) -> dict[str, str]:
    """Return item id -> the adapted model's prediction under one template."""
    rows = read_table(
        evaluation / "predictions.parquet", ["model", "template", "item_id", "prediction"]
    ).to_pylist()
    return {
        row["item_id"]: row["prediction"]
        for row in rows
        if row["model"] == "adapted" and row["template"] == template
    }


def _load_merged(folder: Path, precision: str) -> Any:
    return load_model(str(folder), precision=precision).eval()


def _with_adapter(
    adapter: Path, base: str, revision: str, quantization: str, precision: str
) -> Any:
    """Return a fresh 4-bit model with the adapter on it.

    Never the training instance: on the CPU bitsandbytes repacks its weights in place.
    """
    from peft import PeftModel

    return PeftModel.from_pretrained(
        load_model(base, revision, quantization, precision), str(adapter)
    ).eval()


@dataclass(frozen=True)
class _Questioner:
    """Asks a model one template's question about each item."""

    stage: Stage
    dataset: Dataset
    template: Template
    items: list[Item]
    prompter: Prompter

    def prompts(self) -> list[list[int]]:
        return [self.prompter.prompt(render(self.template, item)) for item in self.items]

    def choose(self, model: Any) -> list[str]:
        """Return the choices of a loaded model; its greedy answers where there are no choices."""
        if not self.dataset.classifies:
            return self.write(model)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        choices = [
            [self.prompter.response(choice) for choice in self.template.choices] for _ in self.items
        ]
        scores = rank(
            inner,
            self.prompts(),
            choices,
            self.stage.params.evaluate.batch_rows,
            self.prompter.tokenizer.pad_token_id,
        )
        return [self.template.choices[row.index(max(row))] for row in scores]

    @torch.inference_mode()
    def write(self, model: Any) -> list[str]:
        """Return greedy answers, one prompt at a time."""
        tokenizer = self.prompter.tokenizer
        texts = []
        for prompt in self.prompts():
            ids = torch.tensor([prompt], device=model.device)
            limit = self.stage.params.evaluate.max_new_tokens
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=limit,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
            texts.append(
                tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip()
            )
        return texts

    def write_with_engine(self, folder: Path, precision: str) -> list[str]:
        """Return the greedy answers of the engine that serves."""
        params, prompts = self.stage.params.evaluate, self.prompts()
        with open_writer(folder, precision, prompts, params, lambda _: None) as write:
            completions = write(prompts)
        return [completion.text.strip() for completion in completions]

    def keep(self, texts: Sequence[str]) -> KeptAnswers:
        """Return the first prompts with these greedy answers of the scored model."""
        pairs = list(zip(self.prompts(), texts, strict=True))[:MOST]
        return KeptAnswers(
            floor=self.stage.params.register.parity_floor,
            max_tokens=self.stage.params.evaluate.max_new_tokens,
            answers=tuple(KeptAnswer(prompt=tuple(prompt), answer=text) for prompt, text in pairs),
        )
