"""What is measured of every instruction and response: one column a property, computed on Arrow
columns in bounded batches.

The expectations of :mod:`tasks.validate.suites` are declared on these columns. All functions are
pure: a row's values depend on that row alone. Text is compared in a normal form: lower case, runs
of white space as one space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tasks.lm.prompts import PLACEHOLDER, fill
from tasks.validate.labels import (
    CLASSIFICATION,
    DENIALS,
    OFFERING,
    OPEN,
    families,
    in_family,
    normal_labels,
)

#: Stands where the passage stood in a question: a control character that neither counts as a word
#: nor as white space.
_GAP = "\x1f"

_EDGES = " \t\r\n.,;:!?\"'“”‘’"
_AUXILIARY = (
    "is|are|was|were|am|does|do|did|has|have|had|can|could|will|would|shall|should|may|might|must"
)
_WH = "what|when|where|who|whom|whose|which|why|how"
_REQUEST = (
    "name|find|state|list|identify|extract|give|tell|select|quote|specify|provide|describe|determine|locate|indicate|write|choose|decide|"
    "cite|define|compare|explain|mention"
)
_PASSAGE = "passage|text|context|document|paragraph|article|information|report|excerpt"
_CLAUSE = rf'(?:^|[\n{_GAP}.:;!,"“”(]|\band\b|\bplease\b|\bwonder\b|\bme\b)\s*'

#: Wording around a question that is no question itself: "answer the following question:", "based on
#: the passage,".
_STOCK = (
    r"(?i)[^.?!:\n]*\bquestions?\b(?:\s+(?:below|above|about|from|based|using|in|with|that|by|given|according|regarding|related)\b[^.?!:\n]*)?\s*(?:[.:!\n]|$)",
    r"(?i)\b(?:read|refer to|look at|consider|use|using|given|based on|according to|with "
    rf"reference to|having read|after reading|from)\b[^.?!:\n,{_GAP}]*"
    rf"\b(?:{_PASSAGE}|above|below|following)\b(?:\s+(?:above|below))?\s*(?:[.:!,\n]|$)",
    rf"(?i)(?:^|[\n{_GAP}])\s*(?:{_PASSAGE}|title|question|q|answer|a|hint|background|note|exercise|exam)\s*:",
)
#: A slot that the generator left empty: "Question:" with nothing behind it, or a claim of two
#: quotation marks.
_EMPTY_SLOT = (
    rf"(?i)(?:^|[\n{_GAP}])\s*(?:question|q|claim|hypothesis|statement)\s*:[\s\"'“”]*"
    rf"(?:$|{_GAP}|(?:answer|a|options|choices|{_PASSAGE})\s*:)|(?:^|\s)[\"“]\s*[\"”](?:[\s.,;:?!]|$)"
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

#: Types that put a question, or a claim, about the passage.
QUESTION_TYPES = ("exqa", "ynqa", "mcqa", "qa", "nli", "te")


@dataclass(frozen=True)
class Rows:
    """A batch of parsed predictions as Arrow string arrays of one length, none null;
    ``instruction`` and ``response`` hold the placeholder, unspaced.
    """

    task_type: pa.Array
    context: pa.Array
    instruction: pa.Array
    response: pa.Array
    #: Labels the classification types must answer with; empty: those the instruction offers.
    labels: tuple[str, ...] = ()

    @cached_property
    def question(self) -> pa.Array:
        """The instruction in lower case, a gap where the passage stood."""
        return pc.utf8_lower(pc.replace_substring(self.instruction, PLACEHOLDER, _GAP))

    @cached_property
    def asked(self) -> pa.Array:
        """The question without the stock wording around it."""
        asked = self.question
        for pattern in _STOCK:
            asked = pc.replace_substring_regex(asked, pattern, "\n")
        return asked

    @cached_property
    def question_text(self) -> pa.Array:
        """The question in normal form."""
        return normal(pc.replace_substring(self.question, _GAP, " "))

    @cached_property
    def asked_text(self) -> pa.Array:
        """What is asked, in normal form."""
        return pc.utf8_trim(normal(pc.replace_substring(self.asked, _GAP, " ")), _EDGES)

    @cached_property
    def context_text(self) -> pa.Array:
        """The passage in normal form; a passage of several rows is worked on once."""
        passages = self.context.dictionary_encode()
        return normal(passages.dictionary).take(passages.indices)

    @cached_property
    def response_text(self) -> pa.Array:
        """The response (its passage filled in) in normal form, without quotes and punctuation
        around it.
        """
        return pc.utf8_trim(normal(filled(self.response, self.context)), _EDGES)

    @cached_property
    def label(self) -> pa.Array:
        """The response as a label; null for types that are no classification."""
        return pc.if_else(
            pc.is_in(self.task_type, pa.array(CLASSIFICATION)), normal_labels(self.response), None
        )

    @cached_property
    def family(self) -> np.ndarray:
        """The label's family (:func:`tasks.validate.labels.families`)."""
        return families(self.task_type, self.question, pc.fill_null(self.label, ""), self.labels)

    @cached_property
    def stands_in_passage(self) -> np.ndarray:
        """Does the response stand in the passage, on word boundaries?"""
        return spans(self.response_text, self.context_text)

    def of_type(self, *names: str) -> np.ndarray:
        """Return one bool a row: is it of one of these task types?"""
        return _numpy(pc.is_in(self.task_type, pa.array(names, pa.string())))


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


def normal(texts: pa.Array) -> pa.Array:
    """Return texts in lower case with every run of white space as one space."""
    return pc.utf8_lower(
        pc.binary_join(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts)), " ")
    )


def unspaced(templates: pa.Array) -> pa.Array:
    """Return templates with ``{{ context }}``, however it is spaced, as the placeholder."""
    return pc.replace_substring_regex(templates, r"\{\{\s*context\s*\}\}", PLACEHOLDER)


def filled(templates: pa.Array, contexts: pa.Array) -> pa.Array:
    """Return templates with every placeholder replaced by the row's passage.

    What a passage itself holds is not replaced again.
    """
    if not pc.any(pc.match_substring(templates, PLACEHOLDER), min_count=0).as_py():
        return templates
    pairs = zip(templates.to_pylist(), contexts.to_pylist(), strict=True)
    return pa.array([fill(template, context) for template, context in pairs], pa.string())


def spans(needles: pa.Array, texts: pa.Array) -> np.ndarray:
    """Return one bool a row: does the needle stand in the text, not starting or ending inside a
    word? An empty needle does not.
    """
    pairs = zip(needles.to_pylist(), texts.to_pylist(), strict=True)
    return np.fromiter((_stands(needle, text) for needle, text in pairs), bool, len(needles))


def most_repeated(texts: pa.Array, size: int = 4) -> np.ndarray:
    """Return how often each text's most frequent run of ``size`` words occurs in it; 0 for a
    shorter text.
    """
    words = pc.utf8_split_whitespace(texts)
    row = _numpy(pc.list_parent_indices(words))
    most = np.zeros(len(texts), np.int32)
    if len(row) < size:
        return most
    code = _numpy(pc.list_flatten(words).dictionary_encode().indices).astype(np.uint64)
    whole = row[: 1 - size] == row[size - 1 :]
    run = row[: 1 - size].astype(np.uint64)
    for place in range(size):
        run = (
            run * np.uint64(0x9E3779B97F4A7C15)
            + code[place : len(code) - size + 1 + place]
            + np.uint64(1)
        )
    _, first, counts = np.unique(run[whole], return_index=True, return_counts=True)
    np.maximum.at(most, row[: 1 - size][whole][first], counts.astype(np.int32))
    return most


def content_keys(rows: Rows) -> np.ndarray:
    """Return a 64-bit key of each row's instruction, passage and response in normal form: equal
    texts, equal keys, on every machine.
    """
    key = np.zeros(len(rows.response), np.uint64)
    for column in (rows.context_text, normal(rows.instruction), rows.response_text):
        key = key * np.uint64(0x9E3779B97F4A7C15) + pd.util.hash_array(
            _numpy(column).astype(object), categorize=False
        )
    return key


def _stands(needle: str, text: str) -> bool:
    start = text.find(needle) if needle else -1
    while start >= 0:
        end = start + len(needle)
        inside_before = start > 0 and needle[0].isalnum() and text[start - 1].isalnum()
        inside_after = end < len(text) and needle[-1].isalnum() and text[end].isalnum()
        if not inside_before and not inside_after:
            return True
        start = text.find(needle, start + 1)
    return False


def _numpy(column: pa.Array) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False)


def _count(texts: pa.Array, pattern: str) -> np.ndarray:
    return _numpy(pc.count_substring_regex(texts, pattern))


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    return _numpy(pc.match_substring_regex(texts, pattern))


def _passage_mentions(rows: Rows) -> np.ndarray:
    """How often the passage stands in the instruction, for text generation also in the response; an
    empty passage does not.
    """
    written = _numpy(pc.count_substring(rows.response, PLACEHOLDER)) * rows.of_type("text_gen")
    return (_numpy(pc.count_substring(rows.instruction, PLACEHOLDER)) + written) * _matches(
        rows.context, _LETTER
    )


def _instruction_chars(rows: Rows) -> np.ndarray:
    added = _numpy(pc.utf8_length(rows.context)).astype(np.int64) - len(PLACEHOLDER)
    return _numpy(pc.utf8_length(rows.instruction)) + added * _numpy(
        pc.count_substring(rows.instruction, PLACEHOLDER)
    )


def _leftover_placeholders(rows: Rows) -> np.ndarray:
    """Double braces that would stay in the text: the generator's own, and a passage that itself
    holds the placeholder.
    """
    mentions = _numpy(pc.match_substring(rows.instruction, PLACEHOLDER)) | _numpy(
        pc.match_substring(rows.response, PLACEHOLDER)
    )
    own = sum(
        _count(pc.replace_substring(texts, PLACEHOLDER, ""), r"\{\{|\}\}")
        for texts in (rows.instruction, rows.response)
    )
    return own + _numpy(pc.count_substring(rows.context, PLACEHOLDER)) * mentions


def _control_tokens(rows: Rows) -> np.ndarray:
    return _count(rows.instruction, _CONTROL_TOKEN) + _count(rows.response, _CONTROL_TOKEN)


def _broken_characters(rows: Rows) -> np.ndarray:
    return _count(rows.instruction, _BROKEN) + _count(rows.response, _BROKEN)


def _question_present(rows: Rows) -> np.ndarray:
    """At least two words of its own beside the passage and stock wording, no empty slot; for exqa
    and ynqa a question or a request.
    """
    present = (_count(rows.asked, _WORD) >= 2) & ~_matches(rows.question, _EMPTY_SLOT)
    return present & (_matches(rows.asked, _ASKS) | ~rows.of_type("exqa", "ynqa"))


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
    same = _numpy(
        pc.or_(
            pc.equal(rows.response_text, pc.utf8_trim(rows.question_text, _EDGES)),
            pc.equal(rows.response_text, rows.asked_text),
        )
    )
    long = _count(rows.asked_text, _WORD) >= 4
    return same | (spans(rows.asked_text, rows.response_text) & long)


def _passage_share(rows: Rows) -> np.ndarray:
    """The response's share of the passage's characters, where it is copied from it; else 0."""
    lengths = np.maximum(_numpy(pc.utf8_length(rows.context_text)), 1)
    return np.where(
        rows.stands_in_passage, _numpy(pc.utf8_length(rows.response_text)) / lengths, 0.0
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
        _numpy(pc.is_in(normal_labels(rows.response), pa.array((*DENIALS, *OPEN))))
    )
    found = np.zeros(len(rows.response), bool)
    chosen = pa.array(denied)
    claims = pc.struct_field(
        pc.extract_regex(rows.question.take(chosen), r'^[^"“”]*["“](?P<claim>[^"“”]+)["”][^"“”]*$'),
        "claim",
    )
    claims = pc.utf8_trim(normal(pc.fill_null(claims, "")), _EDGES)
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
    "response_chars": lambda rows: _numpy(pc.utf8_length(filled(rows.response, rows.context))),
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
