"""Render one row with one meta-template: instruction and response with the placeholder, or the
reason for none.
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
#: Faults of the template or its columns: a run stops, unless faulty templates are skipped.
FAULTS = ("syntax", "refused", "timeout", "memory", "missing_column", "bad_label", "error")

#: Shorter passages and sentences may be in an instruction by chance: "Yes, it is."
_LEAST_LEAK = 30
#: The placeholder as it is filled later: with spaces, too.
_PLACEHOLDERS = re.compile(r"\{\{\s*context\s*\}\}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class Rendering:
    """A rendered row. ``detail`` explains a status other than ``ok``.

    ``derivable`` tells whether the response is in what the reader sees: in the passage or
    instruction (extraction), or with one of the answer choices. None for other task types.
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
    """Render one row; every failure of the template is a :class:`Rendering`, except running out of
    memory or time.
    """
    if "answer_choices" in row:
        return Rendering(
            "error",
            "the row has a column 'answer_choices', a name that templates use for their choices",
        )
    sandbox.seed(seed)
    values = protect(row)
    try:
        context = unprotect(passage.render(values)).strip()
        choices = Choices(split(meta.choices.render(values))) if meta.choices is not None else None
        if choices is not None:
            values["answer_choices"] = Choices(protect(choices))
        parts = split(meta.body.render(values))
    except SecurityError as error:
        return Rendering("refused", str(error))
    except UndefinedError as error:
        return Rendering("missing_column", f"it names a column that the row lacks: {error}")
    except BadLabel as error:
        return Rendering("bad_label", str(error))
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001 - a template is untrusted code: what it raises is a finding, not our bug
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
    elif _PLACEHOLDERS.search(context) or _PLACEHOLDERS.search(whole):
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
    "passage_leak": "the passage's text is beside its placeholder",
}


def leaks(context: str, text: str) -> bool:
    """Tell whether ``text`` holds at least half of the passage, counting sentences of over 30
    characters.

    A shorter quotation is often the task itself: the answer to a question, the clause of a pronoun.
    """
    text = _plain(text)
    sentences = [_plain(sentence) for sentence in _SENTENCE_END.split(context)]
    leaked = sum(
        len(sentence) for sentence in sentences if len(sentence) > _LEAST_LEAK and sentence in text
    )
    return leaked > 0 and 2 * leaked >= sum(map(len, sentences))


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
