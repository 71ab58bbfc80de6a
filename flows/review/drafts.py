"""Passages to label, and the questions that a run has already written about them, or rules make."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.review.place import Place
from flows.review.preview import find_preview
from flows.review.rule_drafts import RuleDraft, RuleDrafts
from tasks.core.errors import PipelineError
from tasks.core.files import row_seed
from tasks.core.parquet import Batches
from tasks.core.rows import INSTRUCTIONS, PASSAGES
from tasks.core.task_types import task_type
from tasks.scoring.datasets import Dataset, asked_columns
from tasks.scoring.reviews import review_key

#: Passages that are drawn: more than anyone labels.
MOST = 1000
#: Where a draft is from.
RUN, RULES = "run", "rules"
#: Every third passage without a draft of a run gets an empty form.
_BY_HAND = 3
_QUOTED = re.compile(r"[\"“]([^\"“”]{8,})[\"”]")
_QUESTION = re.compile(r"[^.?!\n\"“”:]*\?")
#: What a question says before it asks: "With reference to the above, What is ...?".
_BEFORE = re.compile(
    r"^.*?,\s+(?=(?:What|Which|Who|When|Where|Why|How|Is|Are|Was|Were|Do|Does|Did|Can|May|Must)\b)"
)
#: A question that only offers labels: "Yes, no, or maybe?".
_LABELS_ONLY_WORDS = 6


def find_passages(place: Place) -> Path:
    """Return the passages of the profile's last run, or those of ``make ingest`` with the same
    corpus and settings.
    """
    found = place.run.path / "artifacts/ingest/passages.parquet"
    if found.is_file():
        return found
    command = place.command("ingest", CORPUS=place.params.ingest.corpus)
    preview = find_preview(place.main, place.params, command)
    if preview is None:
        there = place.user_file("evaluate", "items").is_file()
        but = "" if there else ", but does not start without the items file"
        raise PipelineError(
            f"there are no passages to label: {command} cuts them; {place.command('run')} also "
            f"writes drafts{but}"
        )
    return preview


def draw_passages(path: Path, seed: int) -> list[dict[str, Any]]:
    """Return a seeded choice of the passages (rows.PASSAGES), in an order of its own."""
    rows = (row for batch in Batches(path, PASSAGES) for row in batch.to_pylist())
    chosen = heapq.nsmallest(MOST, rows, key=lambda row: row_seed(seed, "label", row["sha256"]))
    if not chosen:
        raise PipelineError(f"{path} has no passages")
    return chosen


def make_drafts(
    dataset: Dataset, passages: list[dict[str, Any]], written: Path | None, seed: int
) -> list[dict[str, Any]]:
    """Return what a person decides on, passage by passage: the questions in ``written``
    (rows.INSTRUCTIONS) of the dataset's task type; where there is none, what rules make of one of
    its sentences, and for every third such passage an empty form, so that not all items have the
    words of their passages.

    A draft has a ``key``, its passage's place, ``fields`` (column -> text), ``label`` or
    ``answers``, and its ``origin``: ``run``, ``rules``, or nothing for an empty form.
    """
    rules = RuleDrafts.of(dataset, passages, seed)
    found: dict[str, list[dict[str, Any]]] = {row["passage_id"]: [] for row in passages}
    for row in _rows(written, task_type(dataset.task_type)):
        if row["passage_id"] in found:
            found[row["passage_id"]].append(row)
    drafts, alone = [], 0
    for passage in passages:
        kept = ("passage_id", "document", "page", "section", "start", "end", "text")
        place = {name: passage[name] for name in kept}
        rows = found[passage["passage_id"]]
        drafts += [place | _draft(dataset, row) for row in rows if row["context"] == place["text"]]
        if not rows:
            alone += 1
            made = rules.draft(passage) if alone % _BY_HAND else None
            drafts.append(place | _unwritten(dataset, passage["passage_id"], made))
    return list({draft["key"]: draft for draft in drafts}.values())


def _rows(written: Path | None, kind: str) -> Iterator[dict[str, Any]]:
    if written is not None and written.is_file():
        for batch in Batches(written, INSTRUCTIONS):
            yield from (row for row in batch.to_pylist() if row["task_type"] == kind)


def _draft(dataset: Dataset, row: dict[str, Any]) -> dict[str, Any]:
    asked = asked_text(row["instruction"].replace(row["context"], "\n"))
    response = row["response"].strip()
    return {
        "key": review_key(row["instruction"], row["response"]),
        "row_id": row["row_id"],
        "origin": RUN,
        "fields": _fields(dataset, asked),
        "label": label_of(dataset, response),
        "answers": [] if dataset.classifies else [response],
    }


def _unwritten(dataset: Dataset, key: str, made: RuleDraft | None) -> dict[str, Any]:
    """Return what rules made of a passage; an empty form where that is nothing, or no label of the
    dataset.
    """
    label = (
        next(filter(None, (label_of(dataset, word) for word in made.labels)), "") if made else ""
    )
    if not made or (dataset.classifies and not label):
        made, label = RuleDraft(""), ""
    return {
        "key": key,
        "row_id": "",
        "origin": RULES if made.asked else "",
        "fields": _fields(dataset, made.asked),
        "label": label,
        "answers": [made.answer] if made.answer else [],
    }


def _fields(dataset: Dataset, asked: str) -> dict[str, str]:
    """Return the columns that a person fills; the question or claim is in the first."""
    return {name: "" if place else asked for place, name in enumerate(asked_columns(dataset))}


def asked_text(instruction: str) -> str:
    """Return the claim or question of an instruction without its passage: what it quotes, else its
    first question, else all of it. A person reads it before it counts.
    """
    quoted = _QUOTED.findall(instruction)
    if len(quoted) == 1:
        return str(quoted[0]).strip()
    questions = [
        text
        for match in _QUESTION.findall(instruction)
        if (text := match.strip()) and not _only_labels(text)
    ]
    return _BEFORE.sub("", questions[0]) if questions else " ".join(instruction.split())


def _only_labels(question: str) -> bool:
    return len(question.split()) <= _LABELS_ONLY_WORDS and " or " in f" {question.lower()}"


def label_of(dataset: Dataset, response: str) -> str:
    """Return the dataset's label that a response means in any template; empty if none."""
    for choices in (dataset.labels, *(template.choices for template in dataset.templates)):
        for label, choice in zip(dataset.labels, choices, strict=False):
            if choice.lower() == response.lower().rstrip("."):
                return label
    return ""
