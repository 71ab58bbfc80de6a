"""The expectations on rows, declared on the columns of :mod:`tasks.validate.checks`."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.core.errors import PipelineError, did_you_mean
from tasks.core.sections.validate import Validate
from tasks.core.task_types import types_expecting

#: Checked on the labels of the selected rows; no expectation on single rows.
LABEL_BALANCE = "label_balance"


@dataclass(frozen=True)
class Check:
    """An expectation on one column: a value from ``low`` to ``high`` (None: open), or ``value``."""

    name: str
    column: str
    says: str
    low: float | None = None
    high: float | None = None
    value: bool | None = None
    #: Only for rows of the task types that name it (``TaskType.expectations``).
    of_types: bool = False

    @property
    def types(self) -> tuple[str, ...] | None:
        """The task types whose rows must meet it; None: all."""
        return types_expecting(self.name) if self.of_types else None

    def is_for(self, task_type: str) -> bool:
        """Return whether rows of this task type must meet it."""
        return self.types is None or task_type in self.types


def select_checks(params: Validate) -> tuple[Check, ...]:
    """Return the expectations on rows that ``validate.skip`` leaves, in the order of reasons."""
    longest, longest_response = params.max_instruction_chars, params.max_response_chars
    every = (
        Check(
            "instruction_present",
            "instruction_present",
            "the instruction holds words",
            value=True,
        ),
        Check(
            "response_present",
            "response_present",
            "the response holds a letter, a digit or a symbol",
            value=True,
        ),
        Check(
            "passage_in_instruction",
            "passage_mentions",
            "the instruction (text generation: or the response) holds the passage, once or twice",
            low=1,
            high=2,
        ),
        Check(
            "instruction_length",
            "instruction_chars",
            f"the instruction has at most {longest} characters",
            high=longest,
        ),
        Check(
            "response_length",
            "response_chars",
            f"the response has at most {longest_response} characters",
            high=longest_response,
        ),
        Check(
            "no_leftover_placeholder",
            "leftover_placeholders",
            "no {{placeholder}} is left in instruction or response",
            high=0,
        ),
        Check(
            "no_control_tokens",
            "control_tokens",
            "no token of a prompt format, such as an end mark, is in the text",
            high=0,
        ),
        Check(
            "no_broken_characters",
            "broken_characters",
            "no cut or control characters are in the text",
            high=0,
        ),
        Check(
            "no_repetition",
            "repeated_phrases",
            "no run of four words occurs more than four times",
            high=4,
        ),
        Check(
            "question_present",
            "question_present",
            "beside the passage there is a question, a request or a claim",
            value=True,
            of_types=True,
        ),
        Check(
            "question_closed",
            "question_closed",
            "the question can be answered by yes or no",
            value=True,
            of_types=True,
        ),
        Check(
            "label_in_family",
            "label_in_family",
            "the response is a label that the instruction offers",
            value=True,
            of_types=True,
        ),
        Check(
            "verbatim_claim_entailed",
            "verbatim_claim_denied",
            "a claim that is the passage's own is not denied",
            value=False,
            of_types=True,
        ),
        Check(
            "answer_in_passage",
            "answer_in_passage",
            "the response is in the passage, word for word",
            value=True,
            of_types=True,
        ),
        Check(
            "answer_not_in_question",
            "answer_in_question",
            "the response is not in the question already",
            value=False,
            of_types=True,
        ),
        Check(
            "answer_not_question",
            "repeats_question",
            "the response is not the question again",
            value=False,
        ),
        Check(
            "answer_not_passage",
            "passage_share",
            "the response is not the passage again (at most 80 % of it)",
            high=0.8,
            of_types=True,
        ),
        Check(
            "unique",
            "earlier_copies",
            "no earlier row has the same instruction and response",
            high=0,
        ),
    )
    names = {check.name for check in every} | {LABEL_BALANCE}
    for name in params.skip:
        if name not in names:
            raise PipelineError(
                f"validate.skip: unknown expectation {name!r}{did_you_mean(name, names)}"
            )
    return tuple(check for check in every if check.name not in params.skip)
