"""What is measured of a set of tasks, generated or human-made: form, validity, label balance,
diversity. No model is needed for any of it.

Shares are in 0-1. Every measure is taken of the human-made tasks for the same passages too: what
they reach is what a generator can be held to.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bonito.evaluate.adherence import adheres
from tasks.core.params import Validate
from tasks.core.task_types import CLASSIFICATION, EXTRACTION, LABEL_FAMILIES, TASK_TYPES
from tasks.validate.checks import measure
from tasks.validate.expectations import select_checks
from tasks.validate.labels import normal_labels, offered
from tasks.validate.suites import Suites
from tasks.validate.texts import RowTexts, content_keys, unspace

#: Instructions whose word trigrams overlap so much with an earlier one's of their type (Jaccard)
#: are near-duplicates.
NEAR_DUPLICATE = 0.8


@dataclass(frozen=True)
class Written:
    """One task. ``reason`` is empty, or says why it could not be parsed; instruction and response
    hold the placeholder.
    """

    row_id: str
    task_type: str
    context: str
    instruction: str = ""
    response: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """What was found of one task; all False and empty for one that could not be parsed.

    ``failed``: the expectations that it fails.
    """

    adheres: bool = False
    failed: tuple[str, ...] = ()
    answer_in_passage: bool = False
    label: str = ""
    family: str = ""


def verdicts(tasks: Sequence[Written], suites: Suites) -> list[Verdict]:
    """Return one verdict a task, in order."""
    found = [Verdict()] * len(tasks)
    parsed = [index for index, task in enumerate(tasks) if not task.reason]
    if not parsed:
        return found
    rows = _rows([tasks[index] for index in parsed])
    frame = measure(rows)
    frame["earlier_copies"] = pd.Series(content_keys(rows)).duplicated().astype(np.int64)
    frame["row_id"] = [tasks[index].row_id for index in parsed]
    fits, failed = _fits(rows), _failed(rows, frame, suites)
    labels, questions = normal_labels(rows.response).to_pylist(), rows.question.to_pylist()
    for place, index in enumerate(parsed):
        label = labels[place] if tasks[index].task_type in CLASSIFICATION else ""
        family = family_of(questions[place], label) if label else ""
        found[index] = Verdict(
            fits[place], failed[place], bool(frame["answer_in_passage"].iloc[place]), label, family
        )
    return found


def suites(max_instruction_chars: int, max_response_chars: int, scratch: Path) -> Suites:
    """Return the expectations of stage validate, all of them.

    Nothing is written to ``scratch`` unless Data Docs are asked for.
    """
    values = {"min_yield": 0.0, "max_label_share": 1.0, "max_rows": 0, "seed": 0}
    limits = Validate.model_validate(
        values
        | {"max_instruction_chars": max_instruction_chars, "max_response_chars": max_response_chars}
    )
    return Suites(select_checks(limits), scratch)


def scores(tasks: Sequence[Written], found: Sequence[Verdict]) -> dict[str, Any]:
    """Return the measures of one group of tasks; None where there is nothing to measure (no
    extraction, no labels, no parsed row).
    """
    parsed = [
        (task, verdict) for task, verdict in zip(tasks, found, strict=True) if not task.reason
    ]
    extracted = [
        verdict.answer_in_passage for task, verdict in parsed if task.task_type in EXTRACTION
    ]
    return {
        "rows": len(tasks),
        "parsed": len(parsed),
        "parse_yield": len(parsed) / len(tasks),
        "unparsed": dict(sorted(Counter(task.reason for task in tasks if task.reason).items())),
        "adherence": sum(verdict.adheres for _, verdict in parsed) / len(tasks),
        "valid": sum(not verdict.failed for _, verdict in parsed) / len(tasks),
        "failed": dict(
            sorted(Counter(name for _, verdict in parsed for name in verdict.failed).items())
        ),
        "answer_in_passage": sum(extracted) / len(extracted) if extracted else None,
        **balance([(verdict.family, verdict.label) for _, verdict in parsed if verdict.label]),
        **diversity([task for task, _ in parsed]),
    }


def balance(labels: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return ``labels`` (family -> label -> rows), and over all rows the mean of their family's
    largest share and of its entropy.

    Entropy is in 0-1: 1 where the labels that occur, or two at least, are equally frequent. One
    family is weighed by its rows.
    """
    families: dict[str, Counter[str]] = defaultdict(Counter)
    for family, label in labels:
        families[family][label] += 1
    if not families:
        return {"labels": {}, "largest_label_share": None, "label_entropy": None}
    largest = sum(max(counts.values()) for counts in families.values()) / len(labels)
    entropy = sum(counts.total() * _entropy(counts) for counts in families.values()) / len(labels)
    return {
        "labels": {
            family: dict(counts.most_common()) for family, counts in sorted(families.items())
        },
        "largest_label_share": largest,
        "label_entropy": entropy,
    }


def family_of(question: str, label: str) -> str:
    """Return the name of the label family that a lower-case question offers, else of the first one
    that has the label; "other" where none has.
    """
    choices = offered(question)
    for family in LABEL_FAMILIES:
        if label in family and choices <= set(family):
            return "/".join(family[:2])
    return "/".join(next((family[:2] for family in LABEL_FAMILIES if label in family), ("other",)))


def form_check(tasks: Sequence[Written]) -> dict[str, dict[str, Any]]:
    """Return how the rules of adherence do on tasks whose types are right, for each type that
    occurs.

    ``own``: share of its tasks that have its form; ``others``: the mean share of another type's
    tasks that have it; ``worst`` and ``worst_type``: the largest such share, and whose.
    """
    groups = {kind: [task for task in tasks if task.task_type == kind] for kind in TASK_TYPES}
    columns = {kind: _texts(own) for kind, own in groups.items() if own}
    result = {}
    for form in columns:
        shares = {kind: float(np.mean(adheres(form, *texts))) for kind, texts in columns.items()}
        others = {kind: share for kind, share in shares.items() if kind != form}
        worst = max(others, key=lambda kind: others[kind], default="")
        mean = float(np.mean(list(others.values()))) if others else 0.0
        result[form] = {
            "own": shares[form],
            "others": mean,
            "worst": others.get(worst, 0.0),
            "worst_type": worst,
        }
    return result


def diversity(tasks: Sequence[Written]) -> dict[str, Any]:
    """Return the shares of distinct words and word pairs of the instructions, and of
    near-duplicates, the passage left out.

    A near-duplicate repeats an earlier instruction of its own task type. Types whose instruction
    holds nothing of the passage's ("Is this review positive?") have many of them by their nature.
    """
    words = [_words(task.instruction) for task in tasks]
    seen: dict[str, list[frozenset[tuple[str, ...]]]] = defaultdict(list)
    repeated = 0
    for task, own in zip(tasks, words, strict=True):
        shingles = frozenset(tuple(own[place : place + 3]) for place in range(max(len(own) - 2, 1)))
        repeated += any(
            len(shingles & other) >= NEAR_DUPLICATE * len(shingles | other)
            for other in seen[task.task_type]
        )
        seen[task.task_type].append(shingles)
    return {
        "distinct_1": _distinct((word,) for own in words for word in own),
        "distinct_2": _distinct(pair for own in words for pair in pairwise(own)),
        "near_duplicates": repeated / len(tasks) if tasks else None,
    }


def _rows(tasks: Sequence[Written]) -> RowTexts:
    columns = {
        name: pa.array([getattr(task, name) for task in tasks], pa.string())
        for name in ("task_type", "context", "instruction", "response")
    }
    return RowTexts(
        **columns | {name: unspace(columns[name]) for name in ("instruction", "response")}
    )


def _texts(tasks: Sequence[Written]) -> tuple[list[str], list[str], list[str]]:
    return (
        [task.context for task in tasks],
        [task.instruction for task in tasks],
        [task.response for task in tasks],
    )


def _fits(rows: RowTexts) -> list[bool]:
    """Return one bool a row: has it the form of its type?"""
    types = rows.task_type.to_pylist()
    fits = [False] * len(types)
    for kind in sorted(set(types)):
        places = [place for place, name in enumerate(types) if name == kind]
        own = (
            [column[place].as_py() for place in places]
            for column in (rows.context, rows.instruction, rows.response)
        )
        for place, fit in zip(places, adheres(kind, *own), strict=True):
            fits[place] = fit
    return fits


def _failed(rows: RowTexts, frame: pd.DataFrame, expected: Suites) -> list[tuple[str, ...]]:
    failed: list[list[str]] = [[] for _ in range(len(frame))]
    types = np.array(rows.task_type.to_pylist())
    for kind in sorted(set(types)):
        for name, places in expected.failing(kind, frame[types == kind]).items():
            for place in places:
                failed[place].append(name)
    return [tuple(names) for names in failed]


def _entropy(counts: Mapping[str, int]) -> float:
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values()) / math.log(
        max(len(counts), 2)
    )


def _words(instruction: str) -> list[str]:
    return instruction.replace("{{context}}", " ").lower().split()


def _distinct(grams: Iterable[tuple[str, ...]]) -> float | None:
    every = list(grams)
    return len(set(every)) / len(every) if every else None
