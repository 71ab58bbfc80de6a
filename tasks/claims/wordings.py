"""The instructions that a claim is put into, read from ``wordings.yaml``."""

from __future__ import annotations

import re
from collections.abc import Container
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from tasks.claims.claims import ENTAILED, UNDECIDED
from tasks.claims.questions import uncapitalised, yes_no_question
from tasks.core.errors import PipelineError
from tasks.core.params import load_params
from tasks.core.sections.base import Section
from tasks.lm.prompts import PLACEHOLDER, fill

WORDINGS = Path(__file__).parent / "wordings.yaml"
_SLOT = re.compile(r"\{\{(\w+)\}\}")
_SLOTS = ("context", "claim", "bare", "inner", "question")


class Family(Section):
    """Answers that belong together, and the instructions that offer them."""

    labels: dict[str, str]
    wordings: tuple[str, ...] = Field(min_length=1)
    said: bool = Field(
        False, description="asks what the passage says: what it leaves open it does not say"
    )

    @property
    def decides(self) -> bool:
        """Tell whether every label has an answer of its own."""
        return len(set(self.labels.values())) == len(self.labels)


class Wordings(Section):
    """A file of wordings: families by task type."""

    exqa: tuple[str, ...] = Field(min_length=1)
    nli: tuple[Family, ...] = Field(min_length=1)
    te: tuple[Family, ...] = Field(min_length=1)
    ynqa: tuple[Family, ...] = Field(min_length=1)

    def of(self, task_type: str) -> list[tuple[Family, str]]:
        """Return (family, wording) of a task type, in the order of the file."""
        families: tuple[Family, ...] = getattr(self, task_type)
        return [(family, wording) for family in families for wording in family.wordings]


@lru_cache(maxsize=4)
def load_wordings(path: Path = WORDINGS) -> Wordings:
    """Read a file of wordings; an unknown slot or a family that lacks a label is an error."""
    wordings: Wordings = load_params(path, Wordings)
    for wording in wordings.exqa:
        if sorted(_SLOT.findall(wording)) != ["context", "question"]:
            raise PipelineError(
                f"{path}: exqa: {wording!r} needs {PLACEHOLDER} and {{{{question}}}}, each once"
            )
    for task_type in ("nli", "te", "ynqa"):
        for family, wording in wordings.of(task_type):
            slots = _SLOT.findall(wording)
            unknown = [slot for slot in slots if slot not in _SLOTS]
            if unknown:
                raise PipelineError(
                    f"{path}: {task_type}: nothing fills {{{{{unknown[0]}}}}} in {wording!r}"
                )
            if slots.count("context") != 1 or len(slots) < 2:
                raise PipelineError(
                    f"{path}: {task_type}: {wording!r} needs {PLACEHOLDER} once, and the claim"
                )
            if ENTAILED not in family.labels or (
                task_type == "nli" and UNDECIDED not in family.labels
            ):
                raise PipelineError(
                    f"{path}: {task_type}: a family lacks a label ({family.labels})"
                )
    return wordings


def span_instruction(wording: str, question: str, context: str) -> str:
    """Return the instruction of a question whose answer is a span of the passage."""
    return fill(wording.replace("{{question}}", question), context)


def instruction(wording: str, claim: str, context: str, small: Container[str]) -> str:
    """Return the instruction of a claim about a passage; ``small`` are the words that the corpus
    writes in lower case.
    """
    bare = claim.rstrip(".")
    inner = uncapitalised(bare, small)
    question = yes_no_question(claim, small) or f"Is it true that {inner}?"
    texts = {"claim": claim, "bare": bare, "inner": inner, "question": question}
    filled = _SLOT.sub(lambda match: texts.get(match[1], match[0]), wording)
    return fill(filled, context)
