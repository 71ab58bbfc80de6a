"""What the paths share: the folders of the models, the settings of the profile, made texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.model import Shape, words
from benchmarks.gpu_check.outcome import NotRun
from benchmarks.harness import ROOT
from benchmarks.inputs import prompter_of
from tasks.core.files import read_json, write_json
from tasks.core.overlay import read_layers
from tasks.core.params import parse_params
from tasks.core.sections.finetune import Finetune
from tasks.lm.examples import Example
from tasks.lm.merged import merged_folder
from tasks.lm.prompts import Prompter
from tasks.tracking.kept_answers import MOST

_PROFILE = ROOT / "profiles" / "mistral-7b.yaml"
#: Greedy answers as token ids, end mark included.
Answers = list[list[int]]
_CHOICES, _CHOICE_TOKENS, _RESPONSE_TOKENS = 3, 4, 24


@dataclass(frozen=True)
class Setting:
    """A shape, and the folder that everything is written to.

    ``part`` is what a path's name says where it takes the cut alone.
    """

    shape: Shape
    work: Path

    @property
    def part(self) -> str:
        """See the class."""
        return " (cut)"

    @property
    def whole(self) -> Path:
        """The model of the whole shape."""
        return self.work / "whole"

    @property
    def cut(self) -> Path:
        """Its first two layers."""
        return self.work / "cut"

    @property
    def trained(self) -> Path:
        """The adapter that the path ``train`` makes."""
        return self.work / "adapter"

    @property
    def adapter(self) -> Path:
        """The adapter that is merged, scored and served."""
        return self.trained

    @property
    def start(self) -> Path | None:
        """The adapter that training starts from; None for a new one."""
        return None

    @property
    def compared(self) -> Path:
        """The model whose ranked choices are compared with float32."""
        return self.cut

    def merged(self) -> Path:
        """Return the checkpoint that is scored and generates: with the adapter if there is one."""
        adapter = self.adapter if self.adapter.is_dir() else None
        return merged_folder(str(self.whole), "main", adapter, "nf4", self.shape.precision)

    def finetune(self, model: Path, **more: Any) -> Finetune:
        """Return the profile's settings for a model."""
        return read_finetune([_PROFILE], self.shape.finetune | {"model": str(model)} | more)

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

    def tasks(self, count: int) -> list[list[int]]:
        """Return prompts to sample for."""
        return self.prompts(count)

    def asked(self) -> list[list[int]]:
        """Return prompts to answer greedily: as many as serve checks, one of them long."""
        return [*self.tasks(min(MOST - 1, self.shape.prompts)), self.long_prompt()]

    def keep(self, kind: str, answers: Answers) -> None:
        """Keep an engine's answers to the prompts of :meth:`asked` for later paths."""
        write_json(self._answers(kind), answers)

    def has_kept(self, kind: str) -> bool:
        """Tell whether there are answers of that kind."""
        return self._answers(kind).is_file()

    def kept(self, kind: str) -> Answers:
        """Return them; :class:`NotRun` where the path that makes them has failed."""
        if not self.has_kept(kind):
            raise NotRun(f"there are no answers of {kind} to compare with")
        answers: Answers = read_json(self._answers(kind))
        return answers

    def _answers(self, kind: str) -> Path:
        return self.work / f"answers-{kind}.json"

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


def read_finetune(profiles: Sequence[Path], over: dict[str, Any]) -> Finetune:
    """Return the section finetune of params.yaml and profiles, with some values replaced."""
    values, source = read_layers(ROOT / "params.yaml", profiles)
    section = values["finetune"] | over
    settings: Finetune = parse_params(values | {"finetune": section}, source).finetune
    return settings
