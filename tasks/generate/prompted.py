"""A chat model as the generator: it writes a task about a passage in parts that begin with marks.

The prompt texts are files, one a task type, in ``supervise.prompts``. The model is a local one,
through the engine, or one behind an OpenAI-compatible address.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint
from tasks.core.params import load_params
from tasks.core.sections.base import Section
from tasks.lm.prompts import PLACEHOLDER, Prompter, Task

log = logging.getLogger(__name__)
_FIELD = re.compile(r"\{(\w+)\}")
_LABELS = "{{labels}}"


class Prompt(Section):
    """One task type's file.

    ``request`` holds ``{{context}}``; the answer is read as ``marks``, in order, each at the start
    of a line.
    """

    request: str = Field(description="what the chat model is asked")
    marks: tuple[str, ...] = Field(
        min_length=1, description="names of the parts of its answer, each after 'name:'"
    )
    instruction: str = Field(description="the instruction, with {{context}} and {part}")
    response: str = Field(description="the response, with {part}")
    labels: tuple[str, ...] = Field(
        (),
        description="what {{labels}} stands for in request and instruction, unless "
        "validate.labels says otherwise",
    )
    with_labels: Prompt | None = Field(
        None, description="the texts to use instead where validate.labels gives labels"
    )


@dataclass(frozen=True)
class PromptedForm:
    """A :class:`tasks.generate.shards.GeneratorForm` over the prompt files."""

    prompts: dict[str, Prompt]

    @property
    def identity(self) -> str:
        """Return a fingerprint of the texts."""
        return fingerprint(
            {name: prompt.model_dump(mode="json") for name, prompt in self.prompts.items()}
        )

    def prompt(self, tokenizer: Any, context: str, task_type: str) -> Any:
        """Return the chat prompt's token ids; without a tokenizer, the message."""
        message = self.prompts[task_type].request.replace(PLACEHOLDER, context)
        if tokenizer is None:
            return message
        return Prompter(tokenizer, "chat" if tokenizer.chat_template else "pretrained").prompt(
            message
        )

    def copies(self, task_type: str) -> int:
        """Return how often a prompt holds its passage."""
        return self.prompts[task_type].request.count(PLACEHOLDER)

    def parse(self, text: str, finished: bool, task_type: str) -> Task:
        """Return the task. Reasons: ``truncated``, ``no_<part>``, ``empty_<part>``."""
        prompt = self.prompts[task_type]
        matches = [
            # Of a model that writes Chinese the colon is a wide one.
            re.search(
                rf"^\W*{re.escape(mark)}\W*[:\uff1a][ \t*_]*", text, re.MULTILINE | re.IGNORECASE
            )
            for mark in prompt.marks
        ]
        found = [match for match in matches if match]
        if len(found) < len(matches):
            missing = prompt.marks[matches.index(None)]
            return Task(reason=f"no_{missing}" if finished else "truncated")
        starts = [match.start() for match in found]
        if starts != sorted(starts):
            return Task(reason="parts_out_of_order")
        if not finished:
            return Task(reason="truncated")
        parts = {
            mark: text[match.end() : end].strip()
            for mark, match, end in zip(prompt.marks, found, [*starts[1:], len(text)], strict=True)
        }
        # Chat models add remarks after the last part: it ends with its paragraph.
        parts[prompt.marks[-1]] = parts[prompt.marks[-1]].split("\n\n")[0].strip()
        empty = next((mark for mark, part in parts.items() if not part), None)
        if empty:
            return Task(reason=f"empty_{empty}")
        fields = {name: _fill(getattr(prompt, name), parts) for name in ("instruction", "response")}
        return Task(fields["instruction"].strip(), fields["response"].strip())


def read_prompts(
    folder: Path, task_types: Sequence[str], labels: Sequence[str] = ()
) -> PromptedForm:
    """Read ``<folder>/<task type>.yaml`` for each task type; ``labels`` are a custom label set for
    the texts that name labels.

    A missing file or an unknown part in one is an error before anything is generated.
    """
    prompts: dict[str, Prompt] = {}
    for name in task_types:
        path = folder / f"{name}.yaml"
        if not path.is_file():
            present = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
            raise PipelineError(
                f"{path} does not exist: the prompted source has prompt texts for {present}; "
                f"write one for {name}"
            )
        prompt = _labelled(path, load_params(path, Prompt), labels)
        if PLACEHOLDER not in prompt.request or PLACEHOLDER not in prompt.instruction:
            raise PipelineError(
                f"{path}: request and instruction must both hold {PLACEHOLDER}, the place "
                "of the passage"
            )
        for text in (prompt.instruction, prompt.response):
            unknown = [
                part
                for part in _FIELD.findall(text.replace(PLACEHOLDER, ""))
                if part not in prompt.marks
            ]
            if unknown:
                raise PipelineError(
                    f"{path}: {{{unknown[0]}}} is not one of its marks ({', '.join(prompt.marks)})"
                )
        prompts[name] = prompt
    return PromptedForm(prompts)


def _labelled(path: Path, prompt: Prompt, custom: Sequence[str]) -> Prompt:
    """Replace ``{{labels}}`` by the labels, as ``a, b or c``."""
    prompt = prompt.with_labels or prompt if custom else prompt
    labels = [*(custom or prompt.labels)]
    if not labels and _LABELS in prompt.request + prompt.instruction:
        raise PipelineError(
            f"{path}: there are no labels for {_LABELS}: give it some, or set validate.labels"
        )
    named = " or ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)
    return prompt.model_copy(
        update={
            name: getattr(prompt, name).replace(_LABELS, named)
            for name in ("request", "instruction")
        }
    )


def _fill(text: str, parts: dict[str, str]) -> str:
    before, *behind = text.split(PLACEHOLDER)
    return PLACEHOLDER.join(
        _FIELD.sub(lambda match: parts[match[1]], piece) for piece in (before, *behind)
    )
