"""Does a written task have the form of its task type? Rules on its wording and its response.

A form has two sides: what the instruction must ask for (a pattern on its words without the
passage) and what the response must be (an offered label, a span of the passage, a question...). A
task adheres where both fit; whether the response is *right* is another question.

The rules are measured too: :mod:`bonito.evaluate.stage` applies them to human-made rows of every
type, under the form of their type (how many fit) and under the other forms (how many fit wrongly),
and reports both beside the generator's share. Some types overlap: "is it true that..." over a
passage is both textual entailment and a yes-no question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.labels import offered
from tasks.core.task_types import TASK_TYPES
from tasks.lm.prompts import PLACEHOLDER
from tasks.validate.checks import COLUMNS
from tasks.validate.texts import RowTexts, normal, spans

_YES_NO = frozenset(("yes", "no", "true", "false", "maybe", "unknown", "unclear"))
#: Labels that are decisions; a multiple-choice question offers other options beside them.
_DECISIONS = TASK_TYPES["nli"].labels | TASK_TYPES["sentiment"].labels


@dataclass(frozen=True)
class Answer:
    """What a form reads besides the instruction's wording; texts are lower case, single-spaced."""

    text: str
    label: str
    words: int
    question: str
    context: str
    #: Labels or options that the instruction offers.
    choices: frozenset[str]
    in_family: bool
    in_passage: bool
    in_question: bool
    holds_passage: bool
    asks: bool
    closed: bool


Rule = Callable[[Answer], bool]


def _labelled(answer: Answer) -> bool:
    return answer.in_family and (
        answer.label in answer.choices or answer.label in _YES_NO or answer.words <= 4
    )


def _span(answer: Answer) -> bool:
    listed = answer.label in answer.choices or answer.label in _YES_NO
    return (
        answer.asks
        and (answer.in_passage or answer.in_question)
        and not listed
        and not answer.holds_passage
    )


def _free(answer: Answer) -> bool:
    return (
        answer.asks
        and not _is_choice(answer)
        and answer.label not in _YES_NO
        and not _is_question(answer)
        and not answer.holds_passage
    )


def _option(answer: Answer) -> bool:
    decides = answer.choices <= _DECISIONS if answer.choices else answer.label in _DECISIONS
    return _is_choice(answer) and not decides


def _is_choice(answer: Answer) -> bool:
    """Tell whether the response is an offered option: in a list, or a side of "this or that"."""
    either = rf"\bor {re.escape(answer.label)}\b|\b{re.escape(answer.label)}\W+or\b"
    listed = re.search(
        r"choices|options|possible answers|choose between|pick one|which one", answer.question
    )
    return answer.label in answer.choices or (
        answer.in_question and bool(listed or re.search(either, answer.question))
    )


def _is_question(answer: Answer) -> bool:
    return "?" in answer.text or bool(
        re.match(
            r"(?:question:\s*)?(?:what|when|where|who|whom|whose|which|why|how|is|are|was|were|do|does|did|can)\b",
            answer.text,
        )
    )


def _decides_question(answer: Answer) -> bool:
    return answer.closed and answer.asks and answer.in_family and answer.label in _YES_NO


def _ending(answer: Answer) -> bool:
    return (
        answer.holds_passage
        or _is_choice(answer)
        or answer.in_question
        or (answer.words >= 2 and not answer.choices)
    )


def _shorter(answer: Answer) -> bool:
    return (
        answer.label not in _YES_NO
        and not answer.holds_passage
        and len(answer.text) <= 0.8 * len(answer.context)
    )


def _whole_text(answer: Answer) -> bool:
    return answer.holds_passage or answer.words >= 20


def _topic(answer: Answer) -> bool:
    named = not answer.choices or answer.label in answer.choices or answer.in_question
    return (
        named and answer.label not in _YES_NO and 1 <= answer.words <= 5 and "?" not in answer.text
    )


def _reworded(answer: Answer) -> bool:
    words, context_words = set(answer.text.split()), set(answer.context.split())
    return (
        len(words) >= 4
        and answer.text.strip(" .") != answer.context.strip(" .")
        and len(words & context_words) >= 0.3 * len(words)
    )


#: Name of a rule in a type's form -> the rule on the response.
RULES: dict[str, Rule] = {
    "decided_question": _decides_question,
    "ending": _ending,
    "firm_label": lambda answer: _labelled(answer) and answer.label != "maybe",
    "free": _free,
    "label": _labelled,
    "option": _option,
    "question": _is_question,
    "referent": lambda answer: _labelled(answer) or answer.in_passage,
    "reworded": _reworded,
    "shorter": _shorter,
    "span": _span,
    "topic": _topic,
    "whole_text": _whole_text,
}


def adheres(
    task_type: str, contexts: Sequence[str], instructions: Sequence[str], responses: Sequence[str]
) -> list[bool]:
    """Tell for each task whether it has the form of ``task_type``. Instructions and responses hold
    the placeholder, unspaced.
    """
    form = TASK_TYPES[task_type].form
    fits = RULES[form.answers]
    asks, unless = (re.compile(pattern, re.DOTALL) for pattern in (form.asks, form.unless))
    answers = _answers(task_type, contexts, instructions, responses)
    return [
        bool(asks.search(answer.question)) and not unless.search(answer.question) and fits(answer)
        for answer in answers
    ]


def _answers(
    task_type: str, contexts: Sequence[str], instructions: Sequence[str], responses: Sequence[str]
) -> list[Answer]:
    texts = [pa.array(column, pa.string()) for column in (contexts, instructions, responses)]
    rows = RowTexts(pa.array([task_type] * len(contexts), pa.string()), *texts)
    # Question mark and brackets of the response matter: rows.response_text has none at its edges.
    texts_without_passage = normal(pc.replace_substring(rows.response, PLACEHOLDER, " "))
    trimmed = pc.utf8_trim(texts_without_passage, " .,;:!?\"'“”‘’\n")
    bare = texts_without_passage.to_pylist()
    labels = pc.utf8_trim(trimmed, "()[]*` ").to_pylist()
    in_question = spans(trimmed, rows.question_text)
    columns = {
        name: COLUMNS[name](rows)
        for name in ("question_present", "question_closed", "label_in_family")
    }
    holds = pc.match_substring(rows.response, PLACEHOLDER).to_pylist()
    return [
        Answer(
            bare[row],
            labels[row],
            len(bare[row].split()),
            rows.question_text[row].as_py(),
            rows.context_text[row].as_py(),
            offered(rows.question[row].as_py()),
            bool(columns["label_in_family"][row]),
            bool(rows.is_in_passage[row]),
            bool(in_question[row]),
            bool(holds[row]),
            bool(columns["question_present"][row]),
            bool(columns["question_closed"][row]),
        )
        for row in range(len(contexts))
    ]
