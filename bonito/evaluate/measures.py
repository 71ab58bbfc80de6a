"""Measures of a set of tasks, generated or human-made: form, validity, label balance, diversity.

None needs a model. Shares are in 0-1. The human-made tasks for the same passages are measured too:
their values are what a generator can be expected to reach.
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
from tasks.core.labels import normal_labels, offered
from tasks.core.sections.validate import Validate
from tasks.core.task_types import CLASSIFICATION, EXTRACTION, LABEL_FAMILIES, TASK_TYPES
from tasks.validate.checks import measure
from tasks.validate.expectations import select_checks
from tasks.validate.suites import Suites
from tasks.validate.texts import RowTexts, content_keys, unspace

#: Jaccard similarity of word trigrams from which an instruction is a near-duplicate of an earlier
#: one of its type.
NEAR_DUPLICATE = 0.8


@dataclass(frozen=True)
class Written:
    """One task. ``reason`` says why it could not be parsed, or is empty.

    Instruction and response hold the placeholder.
    """

    row_id: str
    task_type: str
    context: str
    instruction: str = ""
    response: str = ""
    reason: str = ""


@dataclass(frozen=True)
class TaskCheck:
    """Form and validity of one task; all False and empty for one that could not be parsed.

    ``failed``: the expectations that it fails.
    """

    adheres: bool = False
    failed: tuple[str, ...] = ()
    answer_in_passage: bool = False
    label: str = ""
    family: str = ""


def check_tasks(tasks: Sequence[Written], suites: Suites) -> list[TaskCheck]:
    """Return one check for each task, in order."""
    found = [TaskCheck()] * len(tasks)
    parsed = [index for index, task in enumerate(tasks) if not task.reason]
    if not parsed:
        return found
    rows = _rows([tasks[index] for index in parsed])
    frame = measure(rows)
    frame["earlier_copies"] = pd.Series(content_keys(rows)).duplicated().astype(np.int64)
    frame["row_id"] = [tasks[index].row_id for index in parsed]
    frame["task_type"] = rows.task_type.to_pylist()
    fits, failed = _fits(rows), _failed(frame, suites)
    labels, questions = normal_labels(rows.response).to_pylist(), rows.question.to_pylist()
    for place, index in enumerate(parsed):
        label = labels[place] if tasks[index].task_type in CLASSIFICATION else ""
        family = name_family(questions[place], label) if label else ""
        found[index] = TaskCheck(
            fits[place], failed[place], bool(frame["answer_in_passage"].iloc[place]), label, family
        )
    return found


def make_suites(max_instruction_chars: int, max_response_chars: int, scratch: Path) -> Suites:
    """Return all expectations of stage validate; ``scratch`` only gets Data Docs."""
    values = {"min_yield": 0.0, "max_label_share": 1.0, "max_rows": 0, "seed": 0}
    limits = Validate.model_validate(
        values
        | {"max_instruction_chars": max_instruction_chars, "max_response_chars": max_response_chars}
    )
    return Suites(select_checks(limits), scratch)


def measure_tasks(tasks: Sequence[Written], checked: Sequence[TaskCheck]) -> dict[str, Any]:
    """Return the measures of one group of tasks; None where there is nothing to measure."""
    parsed = [(task, check) for task, check in zip(tasks, checked, strict=True) if not task.reason]
    extracted = [check.answer_in_passage for task, check in parsed if task.task_type in EXTRACTION]
    return {
        "rows": len(tasks),
        "parsed": len(parsed),
        "parse_yield": len(parsed) / len(tasks),
        "unparsed": dict(sorted(Counter(task.reason for task in tasks if task.reason).items())),
        "adherence": sum(check.adheres for _, check in parsed) / len(tasks),
        "valid": sum(not check.failed for _, check in parsed) / len(tasks),
        "failed": dict(
            sorted(Counter(name for _, check in parsed for name in check.failed).items())
        ),
        "answer_in_passage": sum(extracted) / len(extracted) if extracted else None,
        **measure_balance([(check.family, check.label) for _, check in parsed if check.label]),
        **measure_diversity([task for task, _ in parsed]),
    }


def measure_balance(labels: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return ``labels`` (family -> label -> rows), and the means over all rows of their family's
    largest share and entropy.

    Entropy is in 0-1: 1 where the occurring labels, at least two, are equally frequent. Families
    are weighted by their rows.
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


def name_family(question: str, label: str) -> str:
    """Return the name of the label family that a lower-case question offers, else of the first
    family with the label, else "other".
    """
    choices = offered(question)
    for family in LABEL_FAMILIES:
        if label in family and choices <= set(family):
            return "/".join(family[:2])
    return "/".join(next((family[:2] for family in LABEL_FAMILIES if label in family), ("other",)))


def check_forms(tasks: Sequence[Written]) -> dict[str, dict[str, Any]]:
    """Return how the rules of adherence perform on tasks whose types are right, by type.

    ``own``: share of its tasks that have its form; ``others``: the mean share of another type's
    tasks that have it; ``worst`` and ``worst_type``: the largest such share, and whose.
    """
    groups = {kind: [task for task in tasks if task.task_type == kind] for kind in TASK_TYPES}
    columns = {kind: _texts(members) for kind, members in groups.items() if members}
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


def measure_diversity(tasks: Sequence[Written]) -> dict[str, Any]:
    """Return the shares of distinct words, distinct word pairs and near-duplicates among the
    instructions, without the passage.

    A near-duplicate repeats an earlier instruction of its task type. Types whose instruction quotes
    nothing of the passage ("Is this review positive?") naturally have many.
    """
    words = [_words(task.instruction) for task in tasks]
    seen: dict[str, list[frozenset[tuple[str, ...]]]] = defaultdict(list)
    repeated = 0
    for task, tokens in zip(tasks, words, strict=True):
        starts = range(max(len(tokens) - 2, 1))
        shingles = frozenset(tuple(tokens[start : start + 3]) for start in starts)
        repeated += any(
            len(shingles & other) >= NEAR_DUPLICATE * len(shingles | other)
            for other in seen[task.task_type]
        )
        seen[task.task_type].append(shingles)
    return {
        "distinct_1": _distinct((word,) for tokens in words for word in tokens),
        "distinct_2": _distinct(pair for tokens in words for pair in pairwise(tokens)),
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
    """Tell for each row whether it has the form of its type."""
    types = rows.task_type.to_pylist()
    fits = [False] * len(types)
    for kind in sorted(set(types)):
        places = [place for place, name in enumerate(types) if name == kind]
        texts = (
            [column[place].as_py() for place in places]
            for column in (rows.context, rows.instruction, rows.response)
        )
        for place, fit in zip(places, adheres(kind, *texts), strict=True):
            fits[place] = fit
    return fits


def _failed(frame: pd.DataFrame, expected: Suites) -> list[tuple[str, ...]]:
    failed: list[list[str]] = [[] for _ in range(len(frame))]
    for name, places in expected.failing(frame).items():
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
