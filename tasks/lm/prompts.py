"""The text formats (arXiv 2402.18334) of Bonito and of the models that are adapted and scored.

Prompts become token ids here and nowhere else, so that training, evaluation and serving agree to
the token.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from tasks.core.errors import PipelineError
from tasks.core.sections.finetune import Finetune
from tasks.core.task_types import TASK_TYPES
from tasks.lm.adapters import read_provenance

#: Stands for the passage inside a generated instruction (and, rarely, response).
PLACEHOLDER = "{{context}}"
#: Tokens that a prompt may have more than its parts have by themselves.
PROMPT_SLACK = 64
#: Tokens that a shortened instruction may gain when its two ends meet.
_SPARE = 8
#: The day that chat templates name which put today's before a conversation: with today's, training
#: and scoring would change overnight. Llama's templates have this one where none is given.
_DAY = date(2024, 7, 26)
_PIPE = "<|pipe|>"
_SPACED_PLACEHOLDER = re.compile(r"\{\{\s*context\s*\}\}")


def bonito_input(context: str, task_type: str) -> str:
    """Return Bonito's input for a passage and a task type in short form."""
    name = TASK_TYPES[task_type].full_name
    return f"<|tasktype|>\n{name}\n<|context|>\n{context.strip()}\n<|task|>\n"


def generator_prompt(tokenizer: Any, context: str, task_type: str) -> list[int]:
    """Return the generator's prompt tokens, BOS first where the tokenizer has one."""
    return _encode(tokenizer, bonito_input(context, task_type))


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Return a text's token ids, BOS first where the tokenizer has one."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [tokenizer.bos_token_id, *ids] if tokenizer.bos_token_id is not None else list(ids)


def bonito_output(instruction: str, response: str) -> str:
    """Return the text Bonito is trained to write: the inverse of :func:`parse_prediction`."""
    return f"{instruction.strip()}\n{_PIPE}\n{response.strip()}"


class Task(NamedTuple):
    """A parsed prediction; ``reason`` says why it is unusable, or is empty."""

    instruction: str = ""
    response: str = ""
    reason: str = ""


def parse_prediction(prediction: str, finished: bool = True) -> Task:
    """Split a prediction at ``<|pipe|>`` into instruction and response, or say why it cannot be.

    Reasons: ``truncated`` (the token budget ended it), ``no_pipe``, ``many_pipes``,
    ``empty_instruction``, ``empty_response``.
    """
    parts = prediction.split(_PIPE)
    if len(parts) == 1:
        return Task(reason="no_pipe" if finished else "truncated")
    if len(parts) > 2:
        return Task(reason="many_pipes")
    instruction, response = parts[0].strip(), parts[1].strip()
    if not instruction:
        return Task(reason="empty_instruction")
    if not response:
        return Task(reason="empty_response" if finished else "truncated")
    return Task(instruction, response) if finished else Task(reason="truncated")


def count_instruction(pieces: Sequence[str]) -> int:
    """Return how many tokens of a prediction (``pieces`` of its text) are the instruction with its
    mark; 0 without a mark.
    """
    ends = list(accumulate(map(len, pieces)))
    mark = "".join(pieces).find(_PIPE)
    return 0 if mark < 0 else bisect_left(ends, mark + len(_PIPE)) + 1


def fill(text: str, context: str) -> str:
    """Replace the placeholder, however it is spaced, by the passage."""
    return _SPACED_PLACEHOLDER.sub(lambda _: context, text)


@dataclass(frozen=True)
class Prompter:
    """Turns instructions and responses into tokens, for one model and one prompt form.

    Forms: ``bonito`` (``<|input|>``/``<|output|>``, adapted pretrained models), ``chat`` (the
    tokenizer's chat template, for chat models before and after adaptation), ``pretrained``
    (``Instruct:``/``Answer:``, unadapted pretrained models), ``plain`` (the instruction alone).
    """

    tokenizer: Any
    form: str

    def prompt(self, instruction: str, max_tokens: int | None = None) -> list[int]:
        """Return the prompt's token ids, BOS first where the tokenizer has one; of an instruction
        that is shortened for ``max_tokens``.
        """
        ids = self._ids(instruction)
        if max_tokens is None or len(ids) <= max_tokens:
            return ids
        return self._ids(self.shorten(instruction, max_tokens))[:max_tokens]

    def shorten(self, instruction: str, max_tokens: int) -> str:
        """Return the instruction, without its middle if its prompt has more than ``max_tokens``.

        The prompt's own marks stay, and the question is at the beginning or the end. Raises
        :class:`PipelineError` where the marks alone fill ``max_tokens``.
        """
        size = len(self._ids(instruction))
        if size <= max_tokens:
            return instruction
        tokens = self.tokenizer.encode(instruction, add_special_tokens=False)
        room = max_tokens - (size - len(tokens)) - _SPARE
        if room < 1:
            raise PipelineError(
                f"finetune.max_prompt_tokens is {max_tokens}, and {size - len(tokens) + _SPARE} "
                f"tokens of a prompt are not its instruction: raise it"
            )
        kept = tokens[: room // 2] + tokens[len(tokens) - (room - room // 2) :]
        return str(self.tokenizer.decode(kept))

    def text(self, instruction: str) -> str:
        """Return the prompt as text, for people to read."""
        if self.form == "chat":
            return self._chat(instruction)
        return {
            "bonito": f"<|input|>\n{instruction.strip()}\n<|output|>\n",
            "pretrained": f"Instruct: {instruction.strip()}\nAnswer:",
            "plain": instruction,
        }[self.form]

    def response(self, response: str) -> list[int]:
        """Return the response's token ids, end mark last, for training and for ranking."""
        lead = " " if self.form == "pretrained" and not self._leads_with_space() else ""
        return [
            *self.tokenizer.encode(lead + response.strip(), add_special_tokens=False),
            self.tokenizer.eos_token_id,
        ]

    def _leads_with_space(self) -> bool:
        """Tell whether the tokenizer itself puts a space before a text, as SentencePiece does: with
        one more the answer would begin with two.
        """
        first = self.tokenizer.encode("x", add_special_tokens=False)[:1]
        return bool(self.tokenizer.convert_ids_to_tokens(first)[0].startswith(("▁", "Ġ")))

    def _ids(self, instruction: str) -> list[int]:
        text = self.text(instruction)
        if self.form == "chat":  # the template has its own BOS
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        return _encode(self.tokenizer, text)

    def _chat(self, instruction: str) -> str:
        message = {"role": "user", "content": instruction.strip()}
        text = self.tokenizer.apply_chat_template(
            [message],
            tokenize=False,
            add_generation_prompt=True,
            strftime_now=_DAY.strftime,
        )
        return str(text)


def trained_form(adapter: Path, tokenizer: Any, asked: str) -> str:
    """Return the prompt form that an adapter was trained with, from its ``provenance.json``; where
    that names none, the form that a training would choose for ``asked``.
    """
    form = read_provenance(adapter).get("prompt")
    return str(form) if form else prompt_form(tokenizer, asked, adapted=True)


def prompt_form(tokenizer: Any, asked: str, adapted: bool) -> str:
    """Return a model's prompt form. ``asked`` is the form of adaptation.

    A model that was not trained on our instructions gets its chat template if it has one, else the
    pretrained form.
    """
    if asked == "chat" or (tokenizer.chat_template and (asked == "auto" or not adapted)):
        return "chat"
    return "bonito" if adapted else "pretrained"


def choose_form(
    tokenizer: Any, params: Finetune, rows: Iterable[dict[str, Any]], start: Path | None
) -> str:
    """Return the prompt form of training and scoring.

    A model that is trained on raw text alone, or on nothing, keeps the form it had before.
    """
    instructed = any(row["instruction"] for row in rows)
    if start and not instructed:
        return trained_form(start, tokenizer, params.prompt)
    return prompt_form(tokenizer, params.prompt, adapted=instructed)
