"""The texts of a batch of rows, as Arrow columns in the forms that are compared.

Text is compared in a normal form: lower case, runs of white space as one space. All functions are
pure: a row's values depend on that row alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.labels import normal_labels
from tasks.core.spans import contains
from tasks.core.task_types import CLASSIFICATION
from tasks.lm.prompts import PLACEHOLDER
from tasks.validate.labels import families

#: Replaces the passage in a question: a control character, neither a word nor white space.
GAP = "\x1f"

EDGES = " \t\r\n.,;:!?\"'“”‘’„‚«»‹›。，、；：！？「」『』،؛؟।"
#: Names of the passage in instructions.
PASSAGE_WORDS = "passage|text|context|document|paragraph|article|information|report|excerpt"
#: Wording around a question that is not part of it: "answer the following question:", "based on the
#: passage,".
_STOCK = (
    r"(?i)[^.?!:\n]*\bquestions?\b(?:\s+(?:below|above|about|from|based|using|in|with|that|by|given"
    r"|according|regarding|related)\b[^.?!:\n]*)?\s*(?:[.:!\n]|$)",
    r"(?i)\b(?:read|refer to|look at|consider|use|using|given|based on|according to"
    rf"|with reference to|having read|after reading|from)\b[^.?!:\n,{GAP}]*"
    rf"\b(?:{PASSAGE_WORDS}|above|below|following)\b(?:\s+(?:above|below))?\s*(?:[.:!,\n]|$)",
    rf"(?i)(?:^|[\n{GAP}])\s*(?:{PASSAGE_WORDS}|title|question|q|answer|a|hint|background|note"
    r"|exercise|exam)\s*:",
)
#: White space besides the space itself, as Python and Arrow know it.
_SPACES = (
    r"\t-\r\x1C-\x1F\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
)
#: Every run of white space that is not a single space: most of a text's spaces stay as they are.
_UNEVEN = rf" [ {_SPACES}]+|[{_SPACES}][ {_SPACES}]*"
_SPACED_PLACEHOLDER = r"\{\{\s*context\s*\}\}"
#: The placeholder with white space in it. Few batches have one: to look is cheaper than to replace.
_UNEVEN_PLACEHOLDER = r"\{\{(?:\s+context|context\s)"
PLACEHOLDER_PATTERN = re.escape(PLACEHOLDER)


@dataclass(frozen=True)
class RowTexts:
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
    def instruction_mentions(self) -> np.ndarray:
        """How often the instruction has the placeholder."""
        return count(self.instruction, PLACEHOLDER_PATTERN)

    @cached_property
    def response_mentions(self) -> np.ndarray:
        """How often the response has the placeholder."""
        return count(self.response, PLACEHOLDER_PATTERN)

    @cached_property
    def instruction_text(self) -> pa.Array:
        """The instruction in normal form."""
        return normal(self.instruction)

    @cached_property
    def question(self) -> pa.Array:
        """The instruction in lower case, with :data:`GAP` instead of the passage."""
        return pc.utf8_lower(pc.replace_substring(self.instruction, PLACEHOLDER, GAP))

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
        return normal(pc.replace_substring(self.question, GAP, " "))

    @cached_property
    def asked_text(self) -> pa.Array:
        """The question without stock wording, in normal form."""
        return pc.utf8_trim(normal(pc.replace_substring(self.asked, GAP, " ")), EDGES)

    @cached_property
    def context_text(self) -> pa.Array:
        """The passage in normal form, computed once for all of its rows."""
        passages = self.context.dictionary_encode()
        return normal(passages.dictionary).take(passages.indices)

    @cached_property
    def response_text(self) -> pa.Array:
        """The response with its passage, in normal form, without quotes or punctuation around."""
        return pc.utf8_trim(normal(fill_all(self.response, self.context)), EDGES)

    @cached_property
    def response_label(self) -> pa.Array:
        """The response as a label, whatever its type."""
        return normal_labels(self.response)

    @cached_property
    def label(self) -> pa.Array:
        """The response as a label; null for types that are not classification."""
        return pc.if_else(
            pc.is_in(self.task_type, pa.array(CLASSIFICATION)), self.response_label, None
        )

    @cached_property
    def family(self) -> np.ndarray:
        """The label's family (:func:`tasks.validate.labels.families`)."""
        return families(self.task_type, self.question, pc.fill_null(self.label, ""), self.labels)

    @cached_property
    def is_in_passage(self) -> np.ndarray:
        """Is the response in the passage, on word boundaries?"""
        return spans(self.response_text, self.context_text)

    def of_type(self, *names: str) -> np.ndarray:
        """Return one bool a row: is it of one of these task types?"""
        return to_numpy(pc.is_in(self.task_type, pa.array(names, pa.string())))


def normal(texts: pa.Array) -> pa.Array:
    """Return texts in lower case with every run of white space as one space."""
    return pc.utf8_lower(pc.utf8_trim(pc.replace_substring_regex(texts, _UNEVEN, " "), " "))


def unspace(templates: pa.Array) -> pa.Array:
    """Return templates with ``{{ context }}``, in any spacing, as the placeholder."""
    if not pc.any(pc.match_substring_regex(templates, _UNEVEN_PLACEHOLDER)).as_py():
        return templates
    return pc.replace_substring_regex(templates, _SPACED_PLACEHOLDER, PLACEHOLDER)


def fill_all(templates: pa.Array, contexts: pa.Array) -> pa.Array:
    """Return templates with the row's passage in every placeholder.

    A placeholder inside a passage is not replaced.
    """
    return pc.binary_join(pc.split_pattern_regex(templates, _SPACED_PLACEHOLDER), contexts)


def count(texts: pa.Array, pattern: str) -> np.ndarray:
    """Return how often each text matches a regular expression. Arrow searches for plain text more
    slowly.
    """
    return to_numpy(pc.count_substring_regex(texts, pattern))


def spans(needles: pa.Array, texts: pa.Array) -> np.ndarray:
    """Return one bool a row: is the needle in the text, on word boundaries? An empty one is not."""
    pairs = zip(needles.to_pylist(), texts.to_pylist(), strict=True)
    return np.fromiter((contains(text, needle) for needle, text in pairs), bool, len(needles))


def most_repeated(texts: pa.Array, size: int = 4) -> np.ndarray:
    """Return how often each text's most frequent run of ``size`` words occurs; 0 if it has none.

    The texts are in normal form.
    """
    words = pc.split_pattern(texts, " ")
    row = to_numpy(pc.list_parent_indices(words)).astype(np.uint64)
    most = np.zeros(len(texts), np.int64)
    if len(row) < size:
        return most
    code = to_numpy(pc.list_flatten(words).dictionary_encode().indices).astype(np.uint64)
    first, last = row[: 1 - size], row[size - 1 :]
    run = np.zeros(len(first), np.uint64)
    for place in range(size):
        run = (run + code[place : place + len(run)] + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    # A text's number in the upper bits: its runs are counted by one sort of numbers.
    keys = first << np.uint64(40) | run >> np.uint64(24)
    runs, counts = np.unique(keys[first == last], return_counts=True)
    texts_of_runs = (runs >> np.uint64(40)).astype(np.int64)
    most[texts_of_runs] = 1
    several = counts > 1
    np.maximum.at(most, texts_of_runs[several], counts[several])
    return most


def content_keys(rows: RowTexts) -> np.ndarray:
    """Return a 64-bit key of each row's instruction, passage and response in normal form.

    Equal texts have equal keys on every machine.
    """
    key = np.zeros(len(rows.response), np.uint64)
    for column in (rows.context_text, rows.instruction_text, rows.response_text):
        key = key * np.uint64(0x9E3779B97F4A7C15) + pd.util.hash_array(
            to_numpy(column).astype(object), categorize=False
        )
    return key


def to_numpy(column: pa.Array) -> np.ndarray:
    """Return a column as a numpy array."""
    return column.to_numpy(zero_copy_only=False)
