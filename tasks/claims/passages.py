"""Passages to construct claims from, out of the pipeline's tables."""

from __future__ import annotations

from collections import defaultdict

import pyarrow as pa

from tasks.claims.claims import Premise
from tasks.claims.questions import find_question


def passages_of(passages: pa.Table, answered: pa.Table | None = None) -> list[Premise]:
    """Return a table's passages (rows.PASSAGES) with the questions known to have answers.

    ``answered``: rows (rows.INSTRUCTIONS) that are right, such as verified ones; of extractive
    rows with one plain question the question and its answer are taken, others are passed over.
    """
    known = _answers(answered) if answered is not None else {}
    columns = passages.select(["passage_id", "document", "text"]).to_pylist()
    return [
        Premise(
            row["passage_id"], row["document"], row["text"], tuple(known.get(row["passage_id"], ()))
        )
        for row in columns
    ]


def _answers(rows: pa.Table) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in sorted(rows.to_pylist(), key=lambda row: row["row_id"]):
        question = find_question(row["instruction"].replace(row["context"], "\n"))
        if row["task_type"] == "exqa" and question:
            found[row["passage_id"]].append((question, row["response"]))
    return found
