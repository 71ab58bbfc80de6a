"""What is measured of every instruction and response: one column a property, computed on Arrow
columns in bounded batches.

The expectations of :mod:`tasks.validate.expectations` are declared on these columns. All functions
are pure: a row's values depend on that row alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.task_types import TASK_TYPES
from tasks.lm.prompts import PLACEHOLDER
from tasks.validate.labels import (
    DENIALS,
    OFFERING,
    OPEN,
    in_family,
    normal_labels,
)
from tasks.validate.texts import (
    EDGES,
    GAP,
    PASSAGE_WORDS,
    Rows,
    filled,
    most_repeated,
    normal,
    spans,
    to_numpy,
)

_AUXILIARY = (
    "is|are|was|were|am|does|do|did|has|have|had|can|could|will|would|shall|should|may|might|must"
)
_WH = "what|when|where|who|whom|whose|which|why|how"
_REQUEST = (
    "name|find|state|list|identify|extract|give|tell|select|quote|specify|provide|describe|determine|locate|indicate|write|choose|decide|"
    "cite|define|compare|explain|mention"
)
_CLAUSE = rf'(?:^|[\n{GAP}.:;!,"“”(]|\band\b|\bplease\b|\bwonder\b|\bme\b)\s*'

#: A slot that the generator left empty: "Question:" with nothing behind it, or a claim of two
#: quotation marks.
_EMPTY_SLOT = (
    rf"(?i)(?:^|[\n{GAP}])\s*(?:question|q|claim|hypothesis|statement)\s*:[\s\"'“”]*"
    rf"(?:$|{GAP}|(?:answer|a|options|choices|{PASSAGE_WORDS})\s*:)|(?:^|\s)[\"“]\s*[\"”](?:[\s.,;:?!]|$)"
)
_ASKS = rf"(?i)\?|\b(?:{_WH}|whether)\b|{_CLAUSE}(?:{_AUXILIARY}|{_REQUEST})\b"
_OPEN_QUESTION = rf"(?i){_CLAUSE}(?:{_WH})\b[^?\n]*\?"
_CLOSED_CLAUSE = rf'(?i)[,.?\n"”:]\s*(?:{_AUXILIARY})\b'
_CONTROL_TOKEN = r"<\|[A-Za-z_]+\|>|</?s>|\[/?INST\]|<(?:pad|unk|eos|bos)>"  # noqa: S105 - not a secret
_BROKEN = r"[\x{FFFD}\x00-\x08\x0B\x0C\x0E-\x1F]"
_LETTER = r"[\p{L}\p{N}]"
#: A response may also be a symbol, such as a rating in stars.
_SYMBOL = r"[\p{L}\p{N}\p{So}]"
_WORD = rf"{_LETTER}+"
_ASKS_OUTRIGHT = tuple(name for name, kind in TASK_TYPES.items() if kind.asks_outright)
_WRITES_PASSAGE = tuple(name for name, kind in TASK_TYPES.items() if kind.writes_passage)


def measure(rows: Rows) -> pd.DataFrame:
    """Return every column of :data:`COLUMNS`, one row a prediction, in the rows' order."""
    columns = {name: column(rows) for name, column in COLUMNS.items()}
    # Great Expectations compares numpy's own int and float at once, any narrower type value by
    # value.
    return pd.DataFrame(
        {
            name: column if column.dtype == bool else column.astype(column.dtype.kind + "8")
            for name, column in columns.items()
        }
    )


def _count(texts: pa.Array, pattern: str) -> np.ndarray:
    return to_numpy(pc.count_substring_regex(texts, pattern))


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    return to_numpy(pc.match_substring_regex(texts, pattern))


def _passage_mentions(rows: Rows) -> np.ndarray:
    """How often the passage stands in the instruction, for text generation in the response too; an
    empty passage does not.
    """
    written = to_numpy(pc.count_substring(rows.response, PLACEHOLDER))
    written = written * rows.of_type(*_WRITES_PASSAGE)
    return (to_numpy(pc.count_substring(rows.instruction, PLACEHOLDER)) + written) * _matches(
        rows.context, _LETTER
    )


def _instruction_chars(rows: Rows) -> np.ndarray:
    added = to_numpy(pc.utf8_length(rows.context)).astype(np.int64) - len(PLACEHOLDER)
    return to_numpy(pc.utf8_length(rows.instruction)) + added * to_numpy(
        pc.count_substring(rows.instruction, PLACEHOLDER)
    )


def _leftover_placeholders(rows: Rows) -> np.ndarray:
    """Double braces that would stay in the text: the generator's own, and a passage that itself
    holds the placeholder.
    """
    mentions = to_numpy(pc.match_substring(rows.instruction, PLACEHOLDER)) | to_numpy(
        pc.match_substring(rows.response, PLACEHOLDER)
    )
    own = sum(
        _count(pc.replace_substring(texts, PLACEHOLDER, ""), r"\{\{|\}\}")
        for texts in (rows.instruction, rows.response)
    )
    return own + to_numpy(pc.count_substring(rows.context, PLACEHOLDER)) * mentions


def _control_tokens(rows: Rows) -> np.ndarray:
    return _count(rows.instruction, _CONTROL_TOKEN) + _count(rows.response, _CONTROL_TOKEN)


def _broken_characters(rows: Rows) -> np.ndarray:
    return _count(rows.instruction, _BROKEN) + _count(rows.response, _BROKEN)


def _question_present(rows: Rows) -> np.ndarray:
    """At least two words of its own beside the passage and stock wording, no empty slot; where
    the type says so a question or a request.
    """
    present = (_count(rows.asked, _WORD) >= 2) & ~_matches(rows.question, _EMPTY_SLOT)
    return present & (_matches(rows.asked, _ASKS) | ~rows.of_type(*_ASKS_OUTRIGHT))


def _question_closed(rows: Rows) -> np.ndarray:
    """Can the question be answered by yes or no? "When was it?" cannot; "When it failed, was it
    logged?" can.
    """
    return ~_matches(rows.asked, _OPEN_QUESTION) | _matches(rows.asked, _CLOSED_CLAUSE)


def _label_in_family(rows: Rows) -> np.ndarray:
    fits = np.ones(len(rows.response), bool)
    asked = np.flatnonzero(rows.of_type(*OFFERING))
    chosen = pa.array(asked)
    fits[asked] = in_family(
        rows.task_type.take(chosen),
        rows.question.take(chosen),
        normal_labels(rows.response.take(chosen)),
        rows.labels,
    )
    return fits


def _repeats_question(rows: Rows) -> np.ndarray:
    """Is the response the question again, whole or with something behind it?"""
    same = to_numpy(
        pc.or_(
            pc.equal(rows.response_text, pc.utf8_trim(rows.question_text, EDGES)),
            pc.equal(rows.response_text, rows.asked_text),
        )
    )
    long = _count(rows.asked_text, _WORD) >= 4
    return same | (spans(rows.asked_text, rows.response_text) & long)


def _passage_share(rows: Rows) -> np.ndarray:
    """The response's share of the passage's characters, where it is copied from it; else 0."""
    lengths = np.maximum(to_numpy(pc.utf8_length(rows.context_text)), 1)
    return np.where(
        rows.stands_in_passage, to_numpy(pc.utf8_length(rows.response_text)) / lengths, 0.0
    )


def _repeated_phrases(rows: Rows) -> np.ndarray:
    return np.maximum(most_repeated(normal(rows.instruction)), most_repeated(rows.response_text))


def _verbatim_claim_denied(rows: Rows) -> np.ndarray:
    """Is the one claim in quotes, of six words or more, a whole sentence of the passage, and does
    the response deny it or leave it open?

    Part of a sentence may rightly be denied: "nobody thinks that it failed" does not say that it
    failed.
    """
    denied = np.flatnonzero(
        to_numpy(pc.is_in(normal_labels(rows.response), pa.array((*DENIALS, *OPEN))))
    )
    found = np.zeros(len(rows.response), bool)
    chosen = pa.array(denied)
    claims = pc.struct_field(
        pc.extract_regex(rows.question.take(chosen), r'^[^"“”]*["“](?P<claim>[^"“”]+)["”][^"“”]*$'),
        "claim",
    )
    claims = pc.utf8_trim(normal(pc.fill_null(claims, "")), EDGES)
    sentences = (
        pc.binary_join_element_wise(".", claims, " "),
        pc.binary_join_element_wise(".", rows.context_text.take(chosen), " "),
    )
    stands = spans(pc.binary_join_element_wise(sentences[0], ".", ""), sentences[1])
    found[denied] = stands & (_count(claims, _WORD) >= 6)
    return found


#: Column -> how it is computed. Counts and lengths in characters are integers, shares floats in
#: 0-1, the rest are bools.
COLUMNS: dict[str, Callable[[Rows], np.ndarray]] = {
    "instruction_present": lambda rows: _matches(rows.instruction, _LETTER),
    "response_present": lambda rows: _matches(rows.response, _SYMBOL),
    "instruction_chars": _instruction_chars,
    "response_chars": lambda rows: to_numpy(pc.utf8_length(filled(rows.response, rows.context))),
    "passage_mentions": _passage_mentions,
    "leftover_placeholders": _leftover_placeholders,
    "control_tokens": _control_tokens,
    "broken_characters": _broken_characters,
    "question_present": _question_present,
    "question_closed": _question_closed,
    "label_in_family": _label_in_family,
    "verbatim_claim_denied": _verbatim_claim_denied,
    "answer_in_passage": lambda rows: rows.stands_in_passage,
    "answer_in_question": lambda rows: spans(rows.response_text, rows.question_text),
    "repeats_question": _repeats_question,
    "passage_share": _passage_share,
    "repeated_phrases": _repeated_phrases,
}
