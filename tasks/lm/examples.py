"""Training rows as token ids, and the order in which they are trained on."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.core.sections.finetune import Finetune
from tasks.core.spans import holds
from tasks.core.task_types import EXTRACTION
from tasks.lm.prompts import Prompter

#: Batches that are sorted by length and shuffled together.
_STRETCH = 50
#: The reason of an extraction row whose answer would be cut out of its instruction.
CUT_OUT = "answer_cut_out"


@dataclass(frozen=True)
class Example:
    """Token ids of one row; the loss falls on ``response`` alone."""

    prompt: list[int]
    response: list[int]

    def __len__(self) -> int:
        """Return the row's tokens."""
        return len(self.prompt) + len(self.response)


class Examples(Sequence[Example]):
    """Examples in four bytes a token: as lists of numbers a million would fill the memory."""

    def __init__(self) -> None:
        self._ids = array("i")
        #: Where each prompt begins and ends, and where its response ends.
        self._places = array("q")

    def append(self, example: Example) -> None:
        """Add an example."""
        self._places.extend((0, 0, 0))
        self[len(self) - 1] = example

    def __setitem__(self, number: int, example: Example) -> None:
        """Put an example in the place of an empty one."""
        places = [len(self._ids)]
        for ids in (example.prompt, example.response):
            self._ids.extend(ids)
            places.append(len(self._ids))
        self._places[3 * number : 3 * number + 3] = array("q", places)

    def __len__(self) -> int:
        """Return the examples."""
        return len(self._places) // 3

    def __getitem__(self, place: Any) -> Any:
        """Return an example, or a list of them for a slice."""
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        number = range(len(self))[place]
        start, middle, end = self._places[3 * number : 3 * number + 3]
        return Example(self._ids[start:middle].tolist(), self._ids[middle:end].tolist())


@dataclass
class Built:
    """The examples of rows, in row order: one a row, several for long raw text."""

    examples: Examples = field(default_factory=Examples)
    #: The place of each example's row among the rows.
    places: list[int] = field(default_factory=list)
    #: Rows that are left out, by reason.
    dropped: Counter[str] = field(default_factory=Counter)
    #: Rows whose instruction lost its middle; they are among the examples.
    shortened: int = 0
    #: The ids of rows that are left out because their answer stood there.
    cut_out: list[str] = field(default_factory=list)

    def add(self, place: int, row: dict[str, Any], made: Made) -> None:
        """Add what is made of the row at ``place``."""
        for example in made.examples:
            self.examples.append(example)
            self.places.append(place)
        self.shortened += made.shortened
        if made.reason:
            self.dropped[made.reason] += 1
        if made.reason == CUT_OUT:
            self.cut_out.append(row["row_id"])


@dataclass(frozen=True)
class Made:
    """What is made of a row: its examples, or the reason why there are none."""

    examples: Sequence[Example]
    reason: str = ""
    shortened: bool = False


def build_examples(rows: Iterable[dict[str, Any]], prompter: Prompter, params: Finetune) -> Built:
    """Return the examples of ``rows``, and how many rows are left out by reason."""
    built = Built()
    for place, row in enumerate(rows):
        built.add(place, row, make_examples(row, prompter, params))
    return built


def make_examples(row: dict[str, Any], prompter: Prompter, params: Finetune) -> Made:
    """Return the examples of a row: one, or several of long raw text.

    A long instruction loses its middle, so that the question is kept; an extraction row whose
    answer stood there is left out. So is a row whose response is too long: half an answer is a
    wrong answer.
    """
    if not row["instruction"]:
        longest = params.max_prompt_tokens + params.max_response_tokens
        made = text_examples(prompter.tokenizer, row["response"], longest)
        return Made(made) if made else Made([], reason="too_short")
    response = prompter.response(row["response"])
    if len(response) > params.max_response_tokens:
        return Made([], reason="response_too_long")
    prompt = prompter.prompt(row["instruction"])
    if len(prompt) <= params.max_prompt_tokens:
        return Made([Example(prompt, response)])
    shortened = prompter.shorten(row["instruction"], params.max_prompt_tokens)
    if is_extracted(row) and not holds(shortened, row["response"]):
        return Made([], CUT_OUT)
    prompt = prompter.prompt(row["instruction"], params.max_prompt_tokens)
    return Made([Example(prompt, response)], shortened=True)


def is_extracted(row: dict[str, Any]) -> bool:
    """Tell whether a row's response is a span of its instruction."""
    return row["task_type"] in EXTRACTION and holds(row["instruction"], row["response"])


def text_examples(tokenizer: Any, text: str, most: int) -> list[Example]:
    """Return raw text as next-token examples of at most ``most`` tokens; the loss covers all but
    the first token.
    """
    ids = tokenizer.encode(text.strip(), add_special_tokens=False)
    has_start = tokenizer.bos_token_id is not None and not tokenizer.chat_template
    start = [tokenizer.bos_token_id] if has_start else []
    step = most - len(start)
    pieces = [start + ids[place : place + step] for place in range(0, len(ids), step)]
    return [Example(piece[:1], piece[1:]) for piece in pieces if len(piece) > 1]


def training_order(lengths: list[int], settings: Finetune) -> list[int]:
    """Return the rows' indices in the order of training: all epochs in one list of at most
    ``max_steps`` batches of ``batch_rows``.

    Batches hold rows of similar length, so that little is padded: rows are sorted within stretches
    of 50 batches, whose batches are shuffled. The order is computed here, from the seed alone,
    because the Trainer's own sampler draws another one when it resumes.
    """
    chance = random.Random(settings.seed)
    drawn = _draw(lengths, settings, chance)
    order: list[int] = []
    stretch = _STRETCH * settings.batch_rows
    for start in range(0, len(drawn), stretch):
        rows = sorted(drawn[start : start + stretch], key=lambda index: -lengths[index])
        batches = [
            rows[first : first + settings.batch_rows]
            for first in range(0, len(rows), settings.batch_rows)
        ]
        whole = [batch for batch in batches if len(batch) == settings.batch_rows]
        chance.shuffle(whole)
        order += [index for batch in whole + batches[len(whole) :] for index in batch]
    return order[: settings.max_steps * settings.batch_rows or None]


def examples_trained(examples: Sequence[Example], params: Finetune, steps: int) -> list[int]:
    """Return the indices of the examples that the first ``steps`` steps train on, in that order.

    An index appears once for each pass over its example. No steps give an empty list.
    """
    order = training_order([len(example) for example in examples], params) if steps else []
    return order[: steps * params.batch_rows]


def draw_epoch(count: int, chance: random.Random) -> list[int]:
    """Return the indices of ``count`` examples in the order in which an epoch draws them."""
    return chance.sample(range(count), count)


def name_cut(params: Finetune) -> str:
    """Return the reason of rows for which the batches have no room."""
    if params.max_tokens:
        return "beyond_max_tokens"
    return "beyond_max_steps" if params.max_steps else "beyond_epochs"


def tokens_trained(examples: Sequence[Example], params: Finetune, steps: int) -> int:
    """Return the tokens of prompts and responses in ``steps`` steps, without padding."""
    return sum(len(examples[index]) for index in examples_trained(examples, params, steps))


def _draw(lengths: list[int], settings: Finetune, chance: random.Random) -> list[int]:
    """Return the rows of all epochs, or as many as hold ``max_tokens``; each epoch is shuffled."""
    drawn: list[int] = []
    if settings.max_tokens:
        tokens = 0
        while tokens < settings.max_tokens:
            for index in draw_epoch(len(lengths), chance):
                if tokens < settings.max_tokens:
                    drawn.append(index)
                    tokens += lengths[index]
        return drawn
    rows = max(1, round(settings.epochs * len(lengths)))
    while len(drawn) < rows:
        drawn += draw_epoch(len(lengths), chance)
    return drawn[:rows]
