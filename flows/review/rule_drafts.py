"""Drafts of items that rules make of a passage's own sentence (docs/claims.md): without a run there
is something to decide on, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.claims.claims import CONTRADICTED, ENTAILED, Premise, make_twins
from tasks.claims.questions import small_words, yes_no_question
from tasks.claims.spans import SPANS, ask_spans
from tasks.core.files import row_seed
from tasks.core.task_types import task_type
from tasks.scoring.datasets import Dataset

#: Task types whose items are a claim, or a question that can be answered with yes or no.
_CLAIMS, _QUESTIONS = ("nli", "te"), ("ynqa",)
#: What datasets call a claim's label.
_WORDS: Mapping[str, tuple[str, ...]] = {
    ENTAILED: ("entailment", "entailed", "supports", "yes", "true"),
    CONTRADICTED: ("contradiction", "contradicted", "refutes", "no", "false"),
}


@dataclass(frozen=True)
class RuleDraft:
    """What is asked, and the words for its label, or its answer."""

    asked: str
    labels: tuple[str, ...] = ()
    answer: str = ""


@dataclass(frozen=True)
class RuleDrafts:
    """Makes drafts for a dataset's task type, at most one a passage."""

    dataset: Dataset
    seed: int
    #: Words that the passages write in lower case: a question keeps the capitals of the others.
    small: frozenset[str]

    @classmethod
    def of(cls, dataset: Dataset, passages: Sequence[Mapping[str, Any]], seed: int) -> RuleDrafts:
        """Take the dataset and all passages (rows.PASSAGES) that are offered."""
        small = small_words(passage["text"] for passage in passages)
        return cls(dataset, seed, small)

    def draft(self, passage: Mapping[str, Any]) -> RuleDraft | None:
        """Return a draft about a passage, the same for the same seed; None where its sentences
        give none, or the task type is another.
        """
        kind = task_type(self.dataset.task_type)
        premise = Premise(passage["passage_id"], passage["document"], passage["text"])
        if kind == SPANS:
            spans = ask_spans(premise, 1, self.seed)
            return RuleDraft(spans[0].question, answer=spans[0].answer) if spans else None
        if kind not in (*_CLAIMS, *_QUESTIONS):
            return None
        twins = make_twins(premise, 1, self.seed)
        if not twins:
            return None
        right = row_seed(self.seed, "draft", premise.passage_id) % 2 == 0
        claim = twins[0].entailed if right else twins[0].contradicted
        labels = _WORDS[ENTAILED if right else CONTRADICTED]
        if kind in _QUESTIONS:
            question = yes_no_question(claim, self.small)
            return RuleDraft(question, labels) if question else None
        return RuleDraft(claim, labels)
