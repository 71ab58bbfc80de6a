"""Whether the target model has positions for the labelled items, asked by a run's first stage: the
models are scored after the training.
"""

from __future__ import annotations

from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.params import Params
from tasks.lm.models import count_positions
from tasks.lm.prompts import Prompter, prompt_form
from tasks.lm.tokenizers import load_tokenizer
from tasks.scoring.datasets import Item, Template, has_items, render
from tasks.scoring.questions import Questions

#: Most tokens that a prompt form adds to the instruction: chat templates bring texts of their own.
_FRAME = 512


def check_lengths(params: Params) -> None:
    """Raise :class:`PipelineError` where a prompt of the evaluation and its answer have more tokens
    than ``finetune.model`` has positions for.

    A text has no more tokens than bytes; only one whose bytes are too many is cut into tokens.
    """
    asked, target = params.evaluate, params.finetune
    if not has_items(Path(asked.items)):
        return
    positions = count_positions(target.model, target.revision)
    questions = Questions.read(asked, Path(asked.items))
    pairs = [
        (template, item)
        for template, item in questions.pairs
        if _most_tokens(template, item, asked.max_new_tokens) > positions > 0
    ]
    if not pairs:
        return
    tokenizer = load_tokenizer(target.model, target.revision)
    forms = {prompt_form(tokenizer, target.prompt, adapted) for adapted in (False, True)}
    for form in sorted(forms):
        prompter = Prompter(tokenizer, form)
        for template, item in pairs:
            size = len(prompter.prompt(render(template, item)))
            choices = [len(prompter.response(choice)) for choice in template.choices]
            answer = max(choices, default=asked.max_new_tokens)
            if size + answer > positions:
                raise PipelineError(
                    f"evaluate.items, item {item.id!r}: template {template.name!r} makes a prompt "
                    f"of {size:,} tokens, and {target.model} has positions for {positions:,}, "
                    f"{answer} of them for the answer: shorten its passage, leave the item out, "
                    "or choose another finetune.model"
                )


def _most_tokens(template: Template, item: Item, new_tokens: int) -> int:
    """Return a number of tokens that prompt and answer do not exceed in any prompt form."""
    choices = (len(choice.encode()) for choice in template.choices)
    return len(render(template, item).encode()) + max(choices, default=new_tokens) + _FRAME
