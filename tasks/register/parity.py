"""Do the adapter as it was trained, the merged model and the served one say the same? Asked of some
evaluation items before registration.

The adapter is trained over 4-bit weights, scored merged, and served by another engine: three
computations that round differently. Where their answers part on many items, the F1 that was
measured is not the F1 of what people will use.
"""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tasks.core.errors import PipelineError
from tasks.core.files import read_json, row_seed
from tasks.core.parquet import read_table
from tasks.core.stage import Stage
from tasks.lm.engine import Sampling, open_engine
from tasks.lm.merged import merged_folder
from tasks.lm.models import load_model, load_tokenizer
from tasks.lm.prompts import Prompter, prompt_form
from tasks.scoring.datasets import Dataset, Item, Template, load_dataset, load_items, render
from tasks.scoring.ranking import rank

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
        shared = (
            f"the 4-bit adapter agrees with the merged model on {self.trained}, the served "
            f"one on {self.served}"
        )
        return f"of {self.items} items {shared}, all three on {self.all_three}"


def check_parity(stage: Stage, adapter: Path, evaluation: Path) -> Parity:
    """Compare the three models on ``register.parity_items`` items; raise :class:`PipelineError`
    where too few agree.
    """
    settings = stage.params.register
    provenance = read_json(adapter / "provenance.json")
    dataset = load_dataset(Path(stage.params.evaluate.dataset))
    items = load_items(
        dataset,
        Path(stage.params.evaluate.items),
        stage.params.evaluate.max_items,
        stage.params.evaluate.seed,
    )
    items = sorted(items, key=lambda item: row_seed(stage.params.evaluate.seed, "parity", item.id))[
        : settings.parity_items
    ]
    if not items:
        return Parity(0, 0, 0, 0)
    answers = _answers(stage, dataset, items, adapter, evaluation, provenance)
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
            f"{settings.parity_floor:.0%}"
        )
    return parity


def _answers(
    stage: Stage,
    dataset: Dataset,
    items: list[Item],
    adapter: Path,
    evaluation: Path,
    provenance: dict[str, Any],
) -> dict[str, list[str]]:
    """Return each model's answers: the largest-scored choice, or greedy text.

    The served model's are those that evaluate kept, from the same engine.
    """
    template = dataset.templates[0]
    base = (provenance["base"], provenance["revision"])
    folder = merged_folder(*base, adapter, provenance["quantization"], provenance["precision"])
    tokenizer = load_tokenizer(str(folder))
    prompter = Prompter(tokenizer, prompt_form(tokenizer, provenance["prompt"], adapted=True))
    answer = _Answer(stage, dataset, template, items, prompter)
    trained = answer.by(
        _with_adapter(adapter, *base, provenance["quantization"], provenance["precision"])
    )
    merged = answer.by(load_model(str(folder), precision=provenance["precision"]).eval())
    kept = read_table(
        evaluation / "predictions.parquet", ["model", "template", "item_id", "prediction"]
    ).to_pylist()
    said = {
        row["item_id"]: row["prediction"]
        for row in kept
        if row["model"] == "adapted" and row["template"] == template.name
    }
    served = answer.by_engine(folder) if dataset.classifies else [said[item.id] for item in items]
    # the engine writes, it does not rank: its answer counts where it is the choice that the merged
    # model writes too
    if dataset.classifies:
        written = answer.written(load_model(str(folder), precision=provenance["precision"]).eval())
        served = [
            choice if own == theirs else theirs
            for choice, own, theirs in zip(merged, written, served, strict=True)
        ]
    return {"trained": trained, "merged": merged, "served": served}


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
class _Answer:
    """Puts one template's question about each item to a model."""

    stage: Stage
    dataset: Dataset
    template: Template
    items: list[Item]
    prompter: Prompter

    def prompts(self) -> list[list[int]]:
        return [self.prompter.prompt(render(self.template, item)) for item in self.items]

    def by(self, model: Any) -> list[str]:
        """Return the answers of a loaded model, and let go of it."""
        if not self.dataset.classifies:
            return self.written(model)
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
        return [self.template.choices[own.index(max(own))] for own in scores]

    @torch.inference_mode()
    def written(self, model: Any) -> list[str]:
        """Return greedy answers, one prompt at a time."""
        tokenizer = self.prompter.tokenizer
        texts = []
        for prompt in self.prompts():
            ids = torch.tensor([prompt], device=model.device)
            limit = self.stage.params.evaluate.max_new_tokens
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=limit,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
            texts.append(tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True).strip())
        return texts

    def by_engine(self, folder: Path) -> list[str]:
        """Return the greedy answers of the engine that serves."""
        params, prompts = self.stage.params.evaluate, self.prompts()
        engine = open_engine(
            params.engine, folder, max_length=max(map(len, prompts)) + params.max_new_tokens
        )
        done = engine.generate(
            prompts, Sampling(0.0, 1.0, params.max_new_tokens), [params.seed] * len(prompts)
        )
        del engine
        gc.collect()
        return [completion.text.strip() for completion in done]
