"""The embedded model with one of the adapters in models/, on the texts of data/."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.setting import Setting, read_finetune
from benchmarks.harness import ROOT
from tasks.core.sections.finetune import Finetune
from tasks.lm.examples import Example
from tasks.lm.models import EMBEDDED, base_path
from tasks.lm.prompts import generator_prompt
from tasks.scoring.datasets import Dataset, Item, load_dataset, load_items, render

ANSWERING, GENERATOR = "smollm2-135m-answering", "bonito-smollm2-135m"
#: Passages that make the prompt that is longer than the others.
_PASSAGES = 3


@dataclass(frozen=True)
class EmbeddedSetting(Setting):
    """The embedded model and a shipped adapter (``name``, a folder of models/).

    Nothing is cut: the model is small enough for float32. A passage has at most ``shape.passage``
    words. The generator gets its own prompts.
    """

    name: str = ANSWERING

    @property
    def part(self) -> str:
        """See :class:`Setting`."""
        return ""

    @property
    def whole(self) -> Path:
        """The converted model."""
        return Path(base_path(EMBEDDED))

    @property
    def cut(self) -> Path:
        """The same."""
        return self.whole

    @property
    def adapter(self) -> Path:
        """The shipped adapter."""
        return ROOT / "models" / self.name

    @property
    def start(self) -> Path:
        """Training continues from it, as in a default run."""
        return self.adapter

    @property
    def compared(self) -> Path:
        """The merged model."""
        return self.merged()

    def finetune(self, model: Path, **more: Any) -> Finetune:
        """Return the settings of params.yaml for the model, with small batches."""
        own = {"batch_rows": 4, "micro_batch_rows": 4, "precision": self.shape.precision}
        return read_finetune([], own | {"model": str(model)} | more)

    def examples(self, count: int) -> list[Example]:
        """Return questions with their gold answers to train on."""
        return [
            Example(prompt, self.prompter.response(item.golds[0]))
            for prompt, item in zip(self.prompts(count), self._items(count), strict=True)
        ]

    def prompts(self, count: int, kind: str = "prompt") -> list[list[int]]:
        """Return questions of the incidents."""
        return [self.prompter.prompt(text) for text in self._instructions(count)]

    def tasks(self, count: int) -> list[list[int]]:
        """Return what the adapter is asked for: the generator for tasks, the other for answers."""
        if self.name != GENERATOR:
            return self.prompts(count)
        return [self._task_prompt(item.context) for item in self._items(count)]

    def long_prompt(self) -> list[int]:
        """Return a prompt with several passages."""
        text = "\n\n".join(item.context for item in self._items(_PASSAGES))
        return self._task_prompt(text) if self.name == GENERATOR else self.prompter.prompt(text)

    def questions(self, count: int) -> list[dict[str, Any]]:
        """Return yes-no questions of the privacy notices, template by template."""
        dataset, items = self._privacy
        return [
            {
                "instruction": render(template, self._shortened(item)),
                "choices": list(template.choices),
            }
            for index in range(count)
            for template in [dataset.templates[index % len(dataset.templates)]]
            for item in [items[index % len(items)]]
        ]

    def long_question(self) -> dict[str, Any]:
        """Return a question behind several passages."""
        asked = self.questions(_PASSAGES)
        text = "\n\n".join(str(one["instruction"]) for one in asked)
        return {**asked[0], "instruction": text}

    def _task_prompt(self, context: str) -> list[int]:
        return generator_prompt(self.prompter.tokenizer, context, "exqa")

    def _instructions(self, count: int) -> list[str]:
        templates = self._incidents[0].templates
        return [
            render(templates[index % len(templates)], item)
            for index, item in enumerate(self._items(count))
        ]

    def _items(self, count: int) -> list[Item]:
        items = self._incidents[1]
        return [self._shortened(items[index % len(items)]) for index in range(count)]

    def _shortened(self, item: Item) -> Item:
        words = item.context.split()[: self.shape.passage]
        return item.model_copy(update={"context": " ".join(words)})

    @cached_property
    def _incidents(self) -> tuple[Dataset, list[Item]]:
        return _read("incidents")

    @cached_property
    def _privacy(self) -> tuple[Dataset, list[Item]]:
        return _read("privacy")


def _read(name: str) -> tuple[Dataset, list[Item]]:
    dataset = load_dataset(ROOT / "datasets" / f"{name}.yaml")
    return dataset, load_items(dataset, ROOT / "data" / name / "evaluation.jsonl")
