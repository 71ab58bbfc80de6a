"""answering: remixed rows in the direction of answering, and claims on their passages.

The generator learns passage > instruction + response from ``train.parquet``; a reader learns
instruction with the passage > response from the same rows. Labels by construction join them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, cast

import pyarrow as pa
from pydantic import Field

from bonito.finetune.stage import draw_mixture
from bonito.params import Mixture
from tasks.claims.claims import Premise
from tasks.claims.construct import construct
from tasks.claims.questions import find_question
from tasks.claims.sentences import split_sentences, tidy
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, row_seed
from tasks.core.parquet import GROUP, read_table, write_table
from tasks.core.rows import INSTRUCTIONS
from tasks.core.sections.base import Count, Positive, Section, Tokens
from tasks.core.sections.finetune import Finetune
from tasks.core.stage import Stage, run_stage
from tasks.lm.preflight import check_training
from tasks.lm.prompts import fill

_COLUMNS = ["row_id", "dataset", "template", "task_type", "context", "instruction", "response"]
#: Types whose passage may lose sentences that do not hold the answer.
_SPANS = ("exqa",)
#: A shorter passage leaves nothing to decide a claim by but its one sentence.
_LEAST_PASSAGE = 120


class Answering(Mixture):
    """Which remixed rows a reader learns from, and how many claims are constructed beside them."""

    mixture: dict[str, Count] = Field(
        description="rows by task type or task type/dataset, drawn by hash"
    )
    max_passage_chars: Count = Field(
        0,
        description="spans and claims: sentences go until the passage is so short; 0: none go",
    )
    claims: Count = Field(0, description="constructed rows, drawn by hash; 0: none")
    claim_sources: tuple[str, ...] = Field(
        (), description="datasets whose passages claims are made of"
    )
    claims_per_passage: Positive = Field(2, description="pairs of claims a passage at most")
    max_prompt_tokens: Tokens = Field(
        230, description="rows with longer instructions are left out (four characters a token)"
    )
    max_response_tokens: Tokens = Field(
        40, description="rows with longer responses are left out (four characters a token)"
    )


class Params(Section):
    """A file such as ``bonito/answering/params.yaml``."""

    answering: Answering
    finetune: Finetune


def check_answering_model(stage: str, params: Params) -> None:
    """Refuse the answering model's training where it cannot be loaded or does not fit here."""
    check_training(params.finetune, stage, "bonito")


def answering(stage: Stage) -> None:
    """Write ``instructions.parquet`` (rows.INSTRUCTIONS) and ``summary.json``."""
    params = cast(Params, stage.params).answering
    table = read_table(stage.path("rows"), _COLUMNS)
    chosen, dropped = draw_mixture(table.to_batches(GROUP), params)
    people = [row for row in (_answering_row(row, params) for row in chosen) if row is not None]
    dropped["too_long"] = len(chosen) - len(people)
    claims, counts = _claims(table, params) if params.claims else ([], {})
    rows = sorted(people + claims, key=lambda row: row_seed(params.seed, "order", row["row_id"]))
    write_table(stage.out / "instructions.parquet", pa.Table.from_pylist(rows, schema=INSTRUCTIONS))
    kinds = Counter(f"{row['task_type']}/{row['document']}" for row in people)
    types = Counter(f"{row['task_type']}/constructed" for row in claims)
    stage.summary(
        len(table) + len(claims),
        len(rows),
        dict(dropped),
        rows_by_type=dict(sorted((kinds + types).items())),
        claims=counts,
    )


def _answering_row(row: dict[str, Any], params: Answering) -> dict[str, Any] | None:
    """Return a remixed row with its passage in its place, or None where it is too long."""
    context = row["context"]
    if row["task_type"] in _SPANS and params.max_passage_chars:
        context = shortened(
            context,
            row["response"],
            params.max_passage_chars,
            row_seed(params.seed, "cut", row["row_id"]),
        )
    instruction, response = (
        fill(row["instruction"], context).strip(),
        fill(row["response"], context).strip(),
    )
    if (
        len(instruction) > 4 * params.max_prompt_tokens
        or not 0 < len(response) <= 4 * params.max_response_tokens
    ):
        return None
    return {
        "row_id": row["row_id"],
        "passage_id": fingerprint(row["context"])[:20],
        "document": row["dataset"],
        "task_type": row["task_type"],
        "context": context,
        "instruction": instruction,
        "response": response,
    }


def shortened(context: str, answer: str, most: int, seed: int) -> str:
    """Return the sentences around ``answer``, at most ``most`` characters where that can be.

    Sentences go from either end in a seeded order, so that the answer stands anywhere. A passage
    without the answer stays whole.
    """
    if len(context) <= most or answer not in context:
        return context
    sentences = re.findall(r"\S.*?(?:[.!?][\"”)]?(?=\s+[A-Z\"“(])|$)", context.replace("\n", " "))
    first, last, turn = 0, len(sentences), seed
    while last - first > 1 and sum(map(len, sentences[first:last])) + last - first > most:
        ends = [(first + 1, last), (first, last - 1)]
        if turn % 2:
            ends.reverse()
        fitting = [end for end in ends if answer in " ".join(sentences[slice(*end)])]
        if not fitting:
            break
        (first, last), turn = fitting[0], turn // 2 + (seed if turn < 2 else 0)
    return " ".join(sentences[first:last])


def _claims(table: pa.Table, params: Answering) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return constructed rows from the passages of people's rows, and what came of them."""
    passages = _passages(table, params)
    if not passages:
        raise PipelineError(
            f"no row has a passage of answering.claim_sources {', '.join(params.claim_sources)}"
        )
    made = construct(passages, params.seed, params.claims_per_passage)
    rows = sorted(
        made.table.to_pylist(), key=lambda row: row_seed(params.seed, "claim", row["row_id"])
    )
    kinds = Counter(f"{claim.kind}/{claim.label}" for claim in made.claims)
    facts = {
        "passages": len(passages),
        "made": len(rows),
        "dropped": dict(made.dropped),
        "probes": made.probes,
    }
    return rows[: params.claims], facts | {"kinds": dict(sorted(kinds.items()))}


def _passages(table: pa.Table, params: Answering) -> list[Premise]:
    """Return the sources' distinct passages, shortened, with the questions people answered."""
    answered: dict[str, list[tuple[str, str]]] = defaultdict(list)
    datasets: dict[str, str] = {}
    for row in sorted(table.to_pylist(), key=lambda row: row["row_id"]):
        if row["dataset"] not in params.claim_sources or len(row["context"]) < _LEAST_PASSAGE:
            continue
        datasets.setdefault(row["context"], row["dataset"])
        question = (
            find_question(row["instruction"])
            if row["task_type"] == "exqa" and row["dataset"] == "squad"
            else None
        )
        if question:
            answered[row["context"]].append((question, row["response"]))
    return [_passage(text, datasets[text], answered[text], params) for text in sorted(datasets)]


def _passage(
    text: str, dataset: str, answered: Sequence[tuple[str, str]], params: Answering
) -> Premise:
    key = fingerprint(text)[:20]
    short = _window(text, params.max_passage_chars, row_seed(params.seed, "window", key))
    pairs = tuple((question, answer) for question, answer in answered if answer in short)
    return Premise(key, dataset, short, pairs)


def _window(text: str, most: int, seed: int) -> str:
    """Return a run of whole sentences, at most ``most`` characters, from a drawn start."""
    if not most or len(text) <= most:
        return tidy(text)
    sentences = split_sentences(text)
    runs = []
    for first in range(len(sentences)):
        last = first
        while (
            last < len(sentences)
            and sum(map(len, sentences[first : last + 1])) + last - first <= most
        ):
            last += 1
        if last > first:
            runs.append(" ".join(sentences[first:last]))
        if last == len(sentences):
            break
    return runs[seed % len(runs)] if runs else tidy(text[:most])


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage("answering", answering, ("rows",), argv, model=Params, package="bonito")
