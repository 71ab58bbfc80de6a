"""Answers that are spans of a passage: where they are, and whether they are answers at all."""

from __future__ import annotations

import re

from tasks.core.task_types import EXTRACTION


def find_span(text: str, answer: str) -> tuple[int, int] | None:
    """Return start and end of an answer in a text, ignoring case and spacing; None where the text
    does not contain it, or the answer is empty.
    """
    words = answer.split()
    if not words:
        return None
    match = re.search(r"\s+".join(map(re.escape, words)), text, re.IGNORECASE)
    return match.span() if match else None


def holds(text: str, answer: str) -> bool:
    """Tell whether an answer is a span of a text, ignoring case and spacing."""
    return find_span(text, answer) is not None


def is_sound(task_type: str, instruction: str, context: str, answer: str) -> bool:
    """Tell whether an answer has the form of a response: for extraction a span of the passage that
    is not in the question.
    """
    if not answer.strip():
        return False
    if task_type not in EXTRACTION:
        return True
    return holds(context, answer) and not holds(instruction.replace(context, "\n"), answer)
