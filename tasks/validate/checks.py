"""Measures of every instruction and response: one column a property, computed on Arrow columns.

The expectations of :mod:`tasks.validate.expectations` are declared on these columns. All functions
are pure: a row's values depend on that row alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.spans import contains
from tasks.core.task_types import TASK_TYPES, types_expecting
from tasks.lm.prompts import PLACEHOLDER
from tasks.validate.labels import DENIALS, OFFERING, OPEN, in_family
from tasks.validate.texts import (
    EDGES,
    GAP,
    PASSAGE_WORDS,
    PLACEHOLDER_PATTERN,
    RowTexts,
    count,
    fill_all,
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
    "name|find|state|list|identify|extract|give|tell|select|quote|specify|provide|describe|determine"
    "|locate|indicate|write|choose|decide|cite|define|compare|explain|mention"
)
_CLAUSE = rf'(?:^|[\n{GAP}.:;!,"“”(]|\band\b|\bplease\b|\bwonder\b|\bme\b)\s*'

#: A slot that the generator left empty: "Question:" without a question, or quotation marks without
#: a claim.
_EMPTY_SLOT = (
    rf"(?i)(?:^|[\n{GAP}])\s*(?:question|q|claim|hypothesis|statement)\s*:[\s\"'“”]*"
    rf"(?:$|{GAP}|(?:answer|a|options|choices|{PASSAGE_WORDS})\s*:)|(?:^|\s)[\"“]\s*[\"”](?:[\s.,;:?!]|$)"
)
#: An inference's wording without its claim: "is this always, sometimes, or never correct?".
_NO_CLAIM = (
    r"(?i)^(?:[^\p{L}\p{N}]+|\b(?:is|are|this|that|it|the|claim|statement|following|true|false|neither"
    r"|inconclusive|always|sometimes|never|correct|incorrect|yes|no|maybe|or|definitely|guaranteed"
    r"|possible|impossible|does|imply|follow|therefore|must|be|should|can|we|assume|infer"
    r"|justified|in|saying)\b)*$"
)
#: Question marks: Latin, Chinese and Japanese, Arabic, Armenian, Ethiopic, Greek. A Japanese
#: question may end with its particle; Thai, Lao, Khmer and Burmese have no mark: any letter
#: of theirs counts.
_MARK = (
    r"[?\x{FF1F}\x{061F}\x{055E}\x{1367}\x{037E}]|\p{Greek}\s?;|か(?:。|$)"
    r"|[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
)
_ASKS = rf"(?i){_MARK}|\b(?:{_WH}|whether)\b|{_CLAUSE}(?:{_AUXILIARY}|{_REQUEST})\b"
_OPEN_QUESTION = rf"(?i){_CLAUSE}(?:{_WH})\b[^?\n]*\?"
_CLOSED_CLAUSE = rf'(?i)[,.?\n"”:]\s*(?:{_AUXILIARY})\b'
_CONTROL_TOKEN = r"<\|[A-Za-z_]+\|>|</?s>|\[/?INST\]|<(?:pad|unk|eos|bos)>"  # noqa: S105 - not a secret
_BROKEN = r"[\x{FFFD}\x00-\x08\x0B\x0C\x0E-\x1F]"
_LETTER = r"[\p{L}\p{N}]"
#: A response may also be a symbol, such as a rating in stars.
_SYMBOL = r"[\p{L}\p{N}\p{So}]"
#: Or two letters of a script that puts no space between words.
_TWO_WORDS = (
    rf"{_LETTER}[^\p{{L}}\p{{N}}]+{_LETTER}"
    r"|[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]{2}"
)
#: A word, for :mod:`re`.
_WORD = re.compile(r"[^\W_]+")
_ASKS_OUTRIGHT = tuple(name for name, kind in TASK_TYPES.items() if kind.asks_outright)
_STATES_CLAIMS = types_expecting("verbatim_claim_entailed")
_WRITES_PASSAGE = tuple(name for name, kind in TASK_TYPES.items() if kind.writes_passage)


def measure(rows: RowTexts) -> pd.DataFrame:
    """Return every column of :data:`COLUMNS`, one row a prediction, in the rows' order."""
    columns = {name: column(rows) for name, column in COLUMNS.items()}
    # Great Expectations compares int64 and float64 as whole columns, narrower types value by value.
    return pd.DataFrame(
        {
            name: column if column.dtype == bool else column.astype(column.dtype.kind + "8")
            for name, column in columns.items()
        }
    )


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    return to_numpy(pc.match_substring_regex(texts, pattern))


def _words(text: str) -> int:
    return len(_WORD.findall(text))


def _passage_mentions(rows: RowTexts) -> np.ndarray:
    """How often the instruction holds the passage, for text generation also the response; 0 for a
    passage without letters.
    """
    written = rows.response_mentions * rows.of_type(*_WRITES_PASSAGE)
    return (rows.instruction_mentions + written) * _matches(rows.context, _LETTER)


def _instruction_chars(rows: RowTexts) -> np.ndarray:
    added = to_numpy(pc.utf8_length(rows.context)).astype(np.int64) - len(PLACEHOLDER)
    return to_numpy(pc.utf8_length(rows.instruction)) + added * rows.instruction_mentions


def _leftover_placeholders(rows: RowTexts) -> np.ndarray:
    """Double braces left in the text: the generator's, and placeholders in the passage."""
    mentions = (rows.instruction_mentions > 0) | (rows.response_mentions > 0)
    written = sum(
        count(pc.replace_substring_regex(texts, PLACEHOLDER_PATTERN, ""), r"\{\{|\}\}")
        for texts in (rows.instruction, rows.response)
    )
    return written + count(rows.context, PLACEHOLDER_PATTERN) * mentions


def _control_tokens(rows: RowTexts) -> np.ndarray:
    return count(rows.instruction, _CONTROL_TOKEN) + count(rows.response, _CONTROL_TOKEN)


def _broken_characters(rows: RowTexts) -> np.ndarray:
    return count(rows.instruction, _BROKEN) + count(rows.response, _BROKEN)


def _question_present(rows: RowTexts) -> np.ndarray:
    """Two words or more beside the passage and stock wording, and no empty slot; for some types
    also a question or a request, for those of inference more than their labels.
    """
    present = _matches(rows.asked, _TWO_WORDS) & ~_matches(rows.question, _EMPTY_SLOT)
    present &= ~(rows.of_type(*_STATES_CLAIMS) & _matches(rows.asked, _NO_CLAIM))
    return present & (_matches(rows.asked, _ASKS) | ~rows.of_type(*_ASKS_OUTRIGHT))


def _question_closed(rows: RowTexts) -> np.ndarray:
    """Can the question be answered by yes or no? "When was it?" cannot; "When it failed, was it
    logged?" can.
    """
    return ~_matches(rows.asked, _OPEN_QUESTION) | _matches(rows.asked, _CLOSED_CLAUSE)


def _label_in_family(rows: RowTexts) -> np.ndarray:
    fits = np.ones(len(rows.response), bool)
    offering = np.flatnonzero(rows.of_type(*OFFERING))
    chosen = pa.array(offering)
    fits[offering] = in_family(
        rows.task_type.take(chosen),
        rows.question.take(chosen),
        rows.response_label.take(chosen),
        rows.labels,
    )
    return fits


def _repeats_question(rows: RowTexts) -> np.ndarray:
    """Does the response repeat the question, alone or with more text after it?"""
    same = to_numpy(
        pc.or_(
            pc.equal(rows.response_text, pc.utf8_trim(rows.question_text, EDGES)),
            pc.equal(rows.response_text, rows.asked_text),
        )
    )
    pairs = zip(rows.asked_text.to_pylist(), rows.response_text.to_pylist(), strict=True)
    repeated = (contains(response, asked) and _words(asked) >= 4 for asked, response in pairs)
    return same | np.fromiter(repeated, bool, len(same))


def _passage_share(rows: RowTexts) -> np.ndarray:
    """The response's share of the passage's characters; 0 where it is not copied from it."""
    lengths = np.maximum(to_numpy(pc.utf8_length(rows.context_text)), 1)
    return np.where(rows.is_in_passage, to_numpy(pc.utf8_length(rows.response_text)) / lengths, 0.0)


def _repeated_phrases(rows: RowTexts) -> np.ndarray:
    return np.maximum(most_repeated(rows.instruction_text), most_repeated(rows.response_text))


#: A single claim: in quotation marks, or between the words before it and the labels at the end.
_QUOTED = r'^[^"“”]*["“](?P<claim>[^"“”]+)["”][^"“”]*$'
_UNQUOTED = (
    rf'^[^"“”]*(?:[\n{GAP}]\s*question:|\bdoes it follow that\b|\bconsider:)\s*'
    r'(?P<claim>[^"“”?]+?)\s+'
    r"(?:true,? (?:or )?false(?:,? or neither)?|yes,? (?:or )?no(?:,? or maybe)?)\?\s*$"
)
#: Words after a claim that limit it or take it back.
_TAKEN_BACK = re.compile(
    r"\b(?:if|unless|except|excepting|save|only|until|till|provided|but|although|though|when|where"
    r"|whether|while|without|otherwise|or|not|no|never|nor|nobody|none|than|subject|depending)\b"
)


#: What stands before a sentence, and what follows its beginning up to its end.
_SENTENCE_ENDS = frozenset((". ", "! ", "? ", "; ", ": "))
_REST_OF_SENTENCE = re.compile(r"\b(?P<rest>[^.;]*)")


def _verbatim_claim_denied(rows: RowTexts) -> np.ndarray:
    """Does the response deny, or leave open, a claim that is a sentence of the passage, or begins
    one whose rest takes nothing back?

    Only a single claim of five words or more counts. Other parts of a sentence may rightly
    be denied: "nobody thinks that it failed" does not say that it failed.
    """
    denied = np.flatnonzero(
        rows.of_type(*_STATES_CLAIMS)
        & to_numpy(pc.is_in(rows.response_label, pa.array((*DENIALS, *OPEN))))
    )
    verbatim = np.zeros(len(rows.response), bool)
    chosen = pa.array(denied)
    questions = rows.question.take(chosen)
    claims = pc.coalesce(
        *(
            pc.struct_field(pc.extract_regex(questions, form), "claim")
            for form in (_QUOTED, _UNQUOTED)
        )
    )
    claims = pc.utf8_trim(normal(pc.fill_null(claims, "")), EDGES)
    passages = rows.context_text.take(chosen).to_pylist()
    pairs = zip(claims.to_pylist(), passages, strict=True)
    stated = (_words(claim) >= 5 and _states(passage, claim) for claim, passage in pairs)
    verbatim[denied] = np.fromiter(stated, bool, len(claims))
    return verbatim


def _states(passage: str, claim: str) -> bool:
    """Tell whether a sentence of the passage is the claim, or begins with it and continues without
    a condition. Both are in normal form.

    No pattern is made of the claim: compiling one for each row took a fifth of the stage.
    """
    place = passage.find(claim) if claim else -1
    while place >= 0:
        rest = _REST_OF_SENTENCE.match(passage, place + len(claim))
        if rest and (place == 0 or passage[max(0, place - 2) : place] in _SENTENCE_ENDS):
            return not _TAKEN_BACK.search(rest["rest"])
        place = passage.find(claim, place + 1)
    return False


#: Column -> how it is computed. Counts and lengths in characters are integers, shares floats in
#: 0-1, the rest are bools.
COLUMNS: dict[str, Callable[[RowTexts], np.ndarray]] = {
    "instruction_present": lambda rows: _matches(rows.instruction, _LETTER),
    "response_present": lambda rows: _matches(rows.response, _SYMBOL),
    "instruction_chars": _instruction_chars,
    "response_chars": lambda rows: to_numpy(pc.utf8_length(fill_all(rows.response, rows.context))),
    "passage_mentions": _passage_mentions,
    "leftover_placeholders": _leftover_placeholders,
    "control_tokens": _control_tokens,
    "broken_characters": _broken_characters,
    "question_present": _question_present,
    "question_closed": _question_closed,
    "label_in_family": _label_in_family,
    "verbatim_claim_denied": _verbatim_claim_denied,
    "answer_in_passage": lambda rows: rows.is_in_passage,
    "answer_in_question": lambda rows: spans(rows.response_text, rows.question_text),
    "repeats_question": _repeats_question,
    "passage_share": _passage_share,
    "repeated_phrases": _repeated_phrases,
}
