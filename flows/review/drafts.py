"""Passages to label, and the questions that a run has already written about them."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.review.place import Place
from flows.review.preview import find_preview
from tasks.core.errors import PipelineError
from tasks.core.files import row_seed
from tasks.core.parquet import Batches
from tasks.core.rows import INSTRUCTIONS, PASSAGES
from tasks.core.task_types import task_type
from tasks.scoring.datasets import Dataset, asked_columns
from tasks.scoring.reviews import review_key

#: Passages that are drawn: more than anyone labels.
MOST = 1000
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
        raise PipelineError(
            f"there are no passages to label: {command} cuts them; "
            f"{place.command('run')} also writes drafts, but does not start without the items file"
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
    dataset: Dataset, passages: list[dict[str, Any]], written: Path | None
) -> list[dict[str, Any]]:
    """Return what a person decides on, passage by passage: the questions in ``written``
    (rows.INSTRUCTIONS) of the dataset's task type, and an empty form where there is none.

    A draft has a ``key``, its passage's place, ``fields`` (column -> text), and ``label`` or
    ``answers``.
    """
    found: dict[str, list[dict[str, Any]]] = {row["passage_id"]: [] for row in passages}
    for row in _rows(written, task_type(dataset.task_type)):
        if row["passage_id"] in found:
            found[row["passage_id"]].append(row)
    drafts = []
    for passage in passages:
        kept = ("passage_id", "document", "page", "section", "start", "end", "text")
        place = {name: passage[name] for name in kept}
        rows = found[passage["passage_id"]]
        drafts += [place | _draft(dataset, row) for row in rows if row["context"] == place["text"]]
        if not rows:
            drafts.append(place | _empty(dataset, passage["passage_id"]))
    return list({draft["key"]: draft for draft in drafts}.values())


def _rows(written: Path | None, kind: str) -> Iterator[dict[str, Any]]:
    if written is not None and written.is_file():
        for batch in Batches(written, INSTRUCTIONS):
            yield from (row for row in batch.to_pylist() if row["task_type"] == kind)


def _draft(dataset: Dataset, row: dict[str, Any]) -> dict[str, Any]:
    columns = asked_columns(dataset)
    asked = asked_text(row["instruction"].replace(row["context"], "\n"))
    response = row["response"].strip()
    return {
        "key": review_key(row["instruction"], row["response"]),
        "row_id": row["row_id"],
        "fields": {name: asked if place == 0 else "" for place, name in enumerate(columns)},
        "label": label_of(dataset, response),
        "answers": [] if dataset.classifies else [response],
    }


def _empty(dataset: Dataset, key: str) -> dict[str, Any]:
    fields = dict.fromkeys(asked_columns(dataset), "")
    return {"key": key, "row_id": "", "fields": fields, "label": "", "answers": []}


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
