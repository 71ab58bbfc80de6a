"""The examples of a training that ends after ``finetune.max_tokens`` tokens: of a million rows it
needs the token ids of few.

Which examples it takes depends on how many there are. So all rows are read, but a row gets token
ids only if it is trained on, or if its number of examples is not known otherwise.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import Any

from tasks.core.sections.finetune import Finetune
from tasks.lm.examples import (
    Built,
    Example,
    Made,
    build_examples,
    draw_epoch,
    is_extracted,
    make_examples,
)
from tasks.lm.prompts import PROMPT_SLACK, Prompter

#: Reads the rows (rows.INSTRUCTIONS), each time again.
Read = Callable[[], Iterable[dict[str, Any]]]
#: Rows that give this many times the budget all get their token ids.
_ALL = 2
#: Tokens that a response may have more than its text has by itself.
_RESPONSE_SLACK = 8
#: An example without token ids.
_EMPTY = Example([], [])


def build_within_budget(read: Read, prompter: Prompter, params: Finetune) -> Built:
    """Return what :func:`build_examples` returns, with empty examples where the first epoch does
    not come to them before it has ``params.max_tokens`` tokens: the training is the same.

    Rows that have at most twice that many tokens together all get their token ids. ``shortened``
    counts rows with token ids alone.
    """
    built, mean = _build_first(read(), prompter, params)
    order = draw_epoch(len(built.examples), random.Random(params.seed))
    reached = place = 0
    while reached < params.max_tokens and place < len(order):
        if example := built.examples[order[place]]:
            reached += len(example)
            place += 1
            continue
        # Some more than are needed: each time all rows are read again.
        more = math.ceil(1.1 * (params.max_tokens - reached) / mean) + 8
        wanted = {index for index in order[place : place + more] if not built.examples[index]}
        if not _fill(built, wanted, read(), prompter, params):
            return build_examples(read(), prompter, params)
    return built


def _build_first(
    rows: Iterable[dict[str, Any]], prompter: Prompter, params: Finetune
) -> tuple[Built, float]:
    """Return the rows as examples, empty ones once there are enough tokens, and the mean length of
    those that got token ids.
    """
    built, tokens, count = Built(), 0, 0
    marks = PROMPT_SLACK + len(prompter.prompt("x"))
    for place, row in enumerate(rows):
        enough = tokens >= _ALL * params.max_tokens
        if enough and _is_one(row, marks, params):
            made = Made([_EMPTY])
        else:
            made = make_examples(row, prompter, params)
            tokens += sum(map(len, made.examples))
            count += len(made.examples)
        if enough:
            made = Made([_EMPTY] * len(made.examples), made.reason)
        built.add(place, row, made)
    return built, tokens / max(1, count)


def _is_one(row: dict[str, Any], marks: int, params: Finetune) -> bool:
    """Tell whether a row is certain to give one example, without its token ids: a text has no more
    tokens than bytes.
    """
    if not row["instruction"]:
        return False
    if len(row["response"].encode()) + _RESPONSE_SLACK > params.max_response_tokens:
        return False
    fits = len(row["instruction"].encode()) + marks <= params.max_prompt_tokens
    return fits or not is_extracted(row)


def _fill(
    built: Built,
    wanted: set[int],
    rows: Iterable[dict[str, Any]],
    prompter: Prompter,
    params: Finetune,
) -> bool:
    """Make the wanted examples; return False where a row gives another number of them than was
    expected, as a tokenizer with more tokens than bytes does.
    """
    index = 0
    for place, row in enumerate(rows):
        own = index
        while index < len(built.places) and built.places[index] == place:
            index += 1
        if wanted.isdisjoint(range(own, index)):
            continue
        made = make_examples(row, prompter, params)
        if len(made.examples) != index - own:
            return False
        for number, example in enumerate(made.examples, own):
            if number in wanted:
                built.examples[number] = example
        built.shortened += made.shortened
    return True
