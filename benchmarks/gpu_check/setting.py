"""What the paths share: the folders of the models, the settings of the profile, made texts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.model import Shape, words
from benchmarks.harness import ROOT
from benchmarks.inputs import prompter_of
from tasks.core.model_params import Finetune
from tasks.core.overlay import read_layers
from tasks.core.params import parse_params
from tasks.lm.examples import Example
from tasks.lm.merged import merged_folder
from tasks.lm.prompts import Prompter

_PROFILE = ROOT / "profiles" / "mistral-7b.yaml"
_CHOICES, _CHOICE_TOKENS, _RESPONSE_TOKENS = 3, 4, 24


@dataclass(frozen=True)
class Setting:
    """A shape, and the folder that everything is written to."""

    shape: Shape
    work: Path

    @property
    def whole(self) -> Path:
        """The model of the whole shape."""
        return self.work / "whole"

    @property
    def cut(self) -> Path:
        """Its first two layers."""
        return self.work / "cut"

    @property
    def adapter(self) -> Path:
        """The adapter that the path ``train`` makes."""
        return self.work / "adapter"

    def merged(self) -> Path:
        """Return the checkpoint that is scored and generates: with the adapter if there is one."""
        adapter = self.adapter if self.adapter.is_dir() else None
        return merged_folder(str(self.whole), "main", adapter, "nf4", self.shape.precision)

    def finetune(self, model: Path, **more: Any) -> Finetune:
        """Return the profile's settings for a model."""
        values, source = read_layers(ROOT / "params.yaml", [_PROFILE])
        section = values["finetune"] | self.shape.finetune | {"model": str(model)} | more
        settings: Finetune = parse_params(values | {"finetune": section}, source).finetune
        return settings

    @cached_property
    def prompter(self) -> Prompter:
        """The prompter of the adapted models; they all have one tokenizer."""
        return prompter_of(str(self.cut), adapted=True)

    @property
    def pad_token(self) -> int:
        """The id that fills rows up."""
        return int(self.prompter.tokenizer.pad_token_id)

    def examples(self, count: int) -> list[Example]:
        """Return rows to train on."""
        prompts = self.prompts(count, "row")
        return [
            Example(
                prompt,
                self.prompter.response(words(_RESPONSE_TOKENS, self.shape, "response", index)),
            )
            for index, prompt in enumerate(prompts)
        ]

    def prompts(self, count: int, kind: str = "prompt") -> list[list[int]]:
        """Return prompts of different lengths."""
        return [self.prompter.prompt(self._passage(kind, index)) for index in range(count)]

    def long_prompt(self) -> list[int]:
        """Return a prompt longer than the sliding window."""
        return self.prompter.prompt(self._long("long prompt"))

    def questions(self, count: int) -> list[dict[str, Any]]:
        """Return questions with choices."""
        return [
            {
                "instruction": self._passage("question", index),
                "choices": [
                    words(_CHOICE_TOKENS, self.shape, "choice", index, number)
                    for number in range(_CHOICES)
                ],
            }
            for index in range(count)
        ]

    def long_question(self) -> dict[str, Any]:
        """Return a question longer than the sliding window."""
        return {**self.questions(1)[0], "instruction": self._long("long question")}

    def _long(self, kind: str) -> str:
        window = self.shape.config["sliding_window"]
        return words(window + window // 8, self.shape, kind)

    def _passage(self, kind: str, index: int) -> str:
        most = self.shape.passage
        return words(most - index * 37 % (most // 2), self.shape, kind, index)
