"""Answers that are spans of a passage: where they are, and whether they are answers at all."""

from __future__ import annotations

import re
from unicodedata import category

from tasks.core.task_types import EXTRACTION

#: Marks of print, as a keyboard writes them; a model mostly does. Each is one character.
_TYPED = str.maketrans("\u2018\u2019\u201c\u201d\u2010\u2011\u2013", "''\"\"---")
_IN_NUMBER = re.compile(r"\d[.,]\d")


def find_span(text: str, answer: str) -> tuple[int, int] | None:
    """Return start and end of an answer in a text, as :func:`holds` finds it; None where the text
    does not hold it.
    """
    text, words = text.translate(_TYPED), answer.translate(_TYPED).split()
    if not words:
        return None
    pattern = re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE)
    match = pattern.search(text)
    while match and not _is_whole(text, *match.span()):
        match = pattern.search(text, match.start() + 1)
    return match.span() if match else None


def holds(text: str, answer: str) -> bool:
    """Tell whether an answer is a span of a text, of whole words, ignoring case, spacing and
    the form of quotation marks and hyphens; an empty one is not.
    """
    return contains(_plain(text), _plain(answer))


def contains(text: str, answer: str) -> bool:
    """Tell what :func:`holds` does of texts that are in lower case and evenly spaced already."""
    if not (text.isascii() and answer.isascii()):
        text, answer = text.translate(_TYPED), answer.translate(_TYPED)
    start = text.find(answer) if answer else -1
    while start >= 0:
        if _is_whole(text, start, start + len(answer)):
            return True
        start = text.find(answer, start + 1)
    return False


def _is_whole(text: str, start: int, end: int) -> bool:
    """Tell whether a part of a text neither begins nor ends inside a word or a number, nor leaves
    out a "non-" before it.
    """
    if start and _is_inside(text[start - 1], text[start]):
        return False
    if end < len(text) and _is_inside(text[end - 1], text[end]):
        return False
    edges = (text[max(start - 2, 0) : start + 1], text[end - 1 : end + 2])
    is_half = any(map(_IN_NUMBER.fullmatch, edges))  # "200" of "14,200"
    return not is_half and text[max(start - 4, 0) : start].lower() != "non-"


def _is_inside(one: str, next_one: str) -> bool:
    """Tell whether no word ends between two characters. Of scripts without capitals, such as
    Chinese, it is not known: many write words without spaces, or join small words to them.
    """
    if not (one.isalnum() and next_one.isalnum()):
        return False
    return "Lo" not in (category(one), category(next_one))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def is_sound(task_type: str, instruction: str, context: str, answer: str) -> bool:
    """Tell whether an answer has the form of a response: for extraction a span of the passage that
    is not in the question.
    """
    if not answer.strip():
        return False
    if task_type not in EXTRACTION:
        return True
    return holds(context, answer) and not holds(instruction.replace(context, "\n"), answer)
