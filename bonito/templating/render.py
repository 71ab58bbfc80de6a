"""One row through one meta-template: an instruction and a response with the placeholder, or the
reason why not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jinja2 import Template as Compiled
from jinja2.exceptions import SecurityError, UndefinedError

from bonito.templating.metatemplate import MARK, PLACEHOLDER, MetaTemplate
from bonito.templating.sandbox import BadLabel, Choices, Sandbox, protect, split, unprotect
from tasks.core.task_types import EXTRACTION

OK = "ok"
#: Something is wrong with the template, or with the columns it is given: a run stops, unless it is
#: told to go on without.
FAULTS = ("syntax", "refused", "timeout", "memory", "missing_column", "bad_label", "error")
#: Nothing is wrong, the row just gives no example with this template.
EMPTY = (
    "no_response",
    "empty_context",
    "empty_instruction",
    "empty_response",
    "no_passage",
    "part",
    "passage_leak",
    "placeholder_in_row",
)

#: A passage, or a sentence of one, that is shorter may stand in an instruction by chance: "Yes, it
#: is."
_LEAST_LEAK = 30
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class Rendering:
    """What came of a row. ``detail`` explains a status other than ``ok``.

    ``derivable`` tells whether the response can be had from what the reader sees, where the task
    type lets one say so: it stands in the passage or instruction (extraction), or holds one of the
    answer choices.
    """

    status: str
    detail: str = ""
    context: str = ""
    instruction: str = ""
    response: str = ""
    derivable: bool | None = None


def render(
    meta: MetaTemplate, passage: Compiled, sandbox: Sandbox, row: dict[str, Any], seed: int
) -> Rendering:
    """Render one row; every failure of the template is an :class:`Outcome`, except running out of
    memory or time.
    """
    if "answer_choices" in row:
        return Rendering(
            "error",
            (
                "the row has a column 'answer_choices', a name that templates keep for their "
                "own choices"
            ),
        )
    sandbox.seed(seed)
    values = protect(row)
    try:
        context = unprotect(passage.render(values)).strip()
        choices = Choices(split(meta.choices.render(values))) if meta.choices is not None else None
        if choices is not None:
            values["answer_choices"] = choices
        parts = split(meta.body.render(values))
    except SecurityError as error:
        return Rendering("refused", str(error))
    except UndefinedError as error:
        return Rendering("missing_column", f"it names what the row does not have: {error}")
    except BadLabel as error:
        return Rendering("bad_label", str(error))
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001 - a template is a stranger's program: whatever it raises is a finding about it, not a bug of ours
        return Rendering("error", f"{type(error).__name__}: {error}")
    return _judge(meta, context, parts, choices)


def _judge(
    meta: MetaTemplate, context: str, parts: list[str], choices: Choices | None
) -> Rendering:
    if len(parts) != 2:
        return Rendering(
            "no_response",
            f"it rendered {len(parts)} parts instead of instruction ||| response",
            context,
            "\n|||\n".join(parts)[:2000],
        )
    instruction, response = parts
    whole = f"{instruction}\n{response}"
    status = OK
    if not context:
        status = "empty_context"
    elif PLACEHOLDER in context or PLACEHOLDER in whole:
        status = "placeholder_in_row"
    elif MARK not in whole:
        status = "no_passage"
    elif not instruction:
        status = "empty_instruction"
    elif not response:
        status = "empty_response"
    elif leaks(context, whole):
        status = "passage_leak"
    derivable = _derivable(meta.template.task_type, response, f"{context}\n{instruction}", choices)
    return Rendering(
        status,
        _DETAILS.get(status, ""),
        context,
        instruction.replace(MARK, PLACEHOLDER),
        response.replace(MARK, PLACEHOLDER),
        derivable,
    )


_DETAILS = {
    "empty_context": "the row has no passage",
    "placeholder_in_row": f"the row's own text holds {PLACEHOLDER}",
    "no_passage": "for this row it does not insert the passage",
    "empty_instruction": "the instruction is empty",
    "empty_response": "the response is empty",
    "passage_leak": "the passage's text stands beside its placeholder",
}


def leaks(context: str, text: str) -> bool:
    """Whether at least half of the passage stands word for word in ``text``, counting its sentences
    of over 30 characters.

    A shorter quotation is often the very task: the answer that a question is asked for, the clause
    a pronoun stands in.
    """
    text = _plain(text)
    sentences = [_plain(sentence) for sentence in _SENTENCE_END.split(context)]
    standing = sum(
        len(sentence) for sentence in sentences if len(sentence) > _LEAST_LEAK and sentence in text
    )
    return standing > 0 and 2 * standing >= sum(map(len, sentences))


def _derivable(task_type: str, response: str, seen: str, choices: Choices | None) -> bool | None:
    if task_type in EXTRACTION:
        return _plain(response) in _plain(seen)
    if choices:
        return any(choice and choice in response for choice in choices) or _plain(
            response
        ) in _plain(seen)
    return None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
