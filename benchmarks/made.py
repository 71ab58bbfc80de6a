"""Rows that are made, not generated: from the documents of data/ and a seed, as many as are asked
for, never held in memory together.

A passage is a few sentences of the documents. A prediction about it has the form that Bonito
writes; one in eight is broken in one of the ways in which a small generator breaks its form.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.inputs import data_folder
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint
from tasks.core.parquet import GROUP, write_batches
from tasks.core.rows import INSTRUCTIONS, PASSAGES, PREDICTIONS
from tasks.lm.prompts import fill, parse_prediction

_ROWS_A_FILE = 10_000
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
#: Every eighth prediction is one of these, in turn: what a generator does that has not learnt its
#: form well.
_BROKEN = (
    lambda instruction, response: f"{instruction}\n{response}",  # no mark between the two
    lambda instruction, response: f"{instruction}\n<|pipe|>\n{response}\n<|pipe|>\n{response}",
    lambda instruction, response: f"{instruction}\n<|pipe|>\n",
    lambda instruction, response: f"\n<|pipe|>\n{response}",
    lambda instruction, response: f"{instruction}<|im_end|>\n<|pipe|>\n{response}",
    lambda instruction, response: f"{instruction.replace('{{context}}', '')}\n<|pipe|>\n{response}",
    lambda instruction, response: f"{instruction}\n<|pipe|>\n{instruction.rpartition(chr(10))[2]}",
)


def passages(count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Yield ``count`` rows of rows.PASSAGES; no two texts are alike."""
    for number in range(count):
        draw = random.Random(seed << 40 | number)
        text = " ".join([f"Report {number}.", *draw.sample(_sentences(), 4)])
        yield {
            "passage_id": fingerprint(seed, number)[:16],
            "document": f"report-{number // 20}.txt",
            "page": 0,
            "section": "",
            "start": 0,
            "end": len(text),
            "tokens": len(text) // 4,
            "sha256": fingerprint(text),
            "in_evaluation": False,
            "text": text,
        }


def contexts(count: int) -> list[dict[str, Any]]:
    """Return the first ``count`` passages that data/ asks labelled questions about, as rows of
    rows.PASSAGES: what a generator really meets.

    The passage is an item's longest field, whatever a dataset calls it.
    """
    lines = [
        line
        for path in sorted(data_folder().glob("*/evaluation.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    texts = dict.fromkeys(
        str(max(json.loads(line).values(), key=lambda value: len(str(value)))).strip()
        for line in lines
    )
    if len(texts) < count:
        raise PipelineError(
            f"data/ has {len(texts)} labelled passages, the benchmark needs {count}: run make data"
        )
    return [
        {**row, "text": text, "end": len(text), "sha256": fingerprint(text)}
        for row, text in zip(passages(count), texts, strict=False)
    ]


def predictions(count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Yield ``count`` rows of rows.PREDICTIONS, parsed as generate parses them."""
    for number, passage in enumerate(passages(count, seed)):
        kind, instruction, response = _task(passage["text"], random.Random(seed << 41 | number))
        broken = number % 8 == 7
        text = (
            _BROKEN[number // 8 % len(_BROKEN)](instruction, response)
            if broken
            else f"{instruction}\n<|pipe|>\n{response}"
        )
        task = parse_prediction(text)
        yield {
            "row_id": f"{passage['passage_id']}-{kind}-0",
            "passage_id": passage["passage_id"],
            "document": passage["document"],
            "task_type": kind,
            "sample": 0,
            "attempt": 0,
            "seed": number,
            "context": passage["text"],
            "prediction": text,
            "parsed": not task.reason,
            "reason": task.reason,
            "instruction": task.instruction,
            "response": task.response,
            "prompt_tokens": len(passage["text"]) // 4,
            "output_tokens": len(text) // 4,
            "confidence": -0.5 - number % 7 / 10,
            "generator": "made",
            "revision": "made",
            "temperature": 0.5,
            "top_p": 0.95,
            "max_tokens": 128,
        }


def instructions(count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Yield the rows of rows.INSTRUCTIONS that ``count`` predictions are parsed to."""
    for row in predictions(count, seed):
        if row["parsed"]:
            filled = {name: fill(row[name], row["context"]) for name in ("instruction", "response")}
            yield {name: row[name] for name in INSTRUCTIONS.names} | filled


def _task(passage: str, draw: random.Random) -> tuple[str, str, str]:
    """Return task type, instruction and response of a well-formed prediction about a passage."""
    sentence = draw.choice(_SENTENCE.split(passage)[1:])
    words = sentence.rstrip(".").split()
    start = draw.randrange(max(len(words) - 3, 1))
    span, asked = (
        " ".join(words[start : start + 3]),
        " ".join(words[max(start - 4, 0) : start]) or words[-1],
    )
    kind = draw.choice(("exqa", "exqa", "ynqa", "qa", "nli"))
    if kind == "ynqa":
        return (
            kind,
            (
                f"{{{{context}}}}\n\nQuestion: Is it true that the report mentions "
                f"{asked}?\nAnswer yes or no."
            ),
            draw.choice(("Yes", "No")),
        )
    if kind == "nli":
        claim = (
            f'Based on that information, is the claim: "The report speaks of {asked}" true, '
            "false, or inconclusive?"
        )
        return kind, f"{{{{context}}}}\n\n{claim}", draw.choice(("True", "False", "Inconclusive"))
    return (
        kind,
        (
            f"{draw.choice(('', 'Read the following and answer.'))}\n{{{{context}}}}\n\nQuestion: "
            f"What stands right behind {asked}?"
        ),
        span,
    )


@cache
def _sentences() -> list[str]:
    found = {
        sentence
        for path in data_folder().glob("*/documents/*")
        for line in path.read_text(encoding="utf-8").splitlines()
        for sentence in _SENTENCE.split(line)
    }
    if not found:
        raise PipelineError("data/ has no documents: run make data")
    return sorted(
        sentence
        for sentence in found
        if 40 <= len(sentence) <= 240 and not sentence.startswith(("#", "|", "-"))
    )


def write_passages(path: Path, count: int) -> Path:
    """Write rows.PASSAGES; an earlier file of that name is taken to be the same."""
    return _write(path, passages(count), PASSAGES)


def write_predictions(path: Path, count: int) -> Path:
    """Write rows.PREDICTIONS; an earlier file of that name is taken to be the same."""
    return _write(path, predictions(count), PREDICTIONS)


def write_instructions(path: Path, count: int) -> Path:
    """Write rows.INSTRUCTIONS; an earlier file of that name is taken to be the same."""
    return _write(path, instructions(count), INSTRUCTIONS)


def write_corpus(folder: Path, count: int) -> Path:
    """Write JSON Lines for ingest, one passage a row, 10,000 rows a file."""
    rows = passages(count)
    for number in range(0, count, _ROWS_A_FILE):
        path = folder / f"part-{number // _ROWS_A_FILE:03d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "".join(json.dumps({"text": row["text"]}) + "\n" for row in islice(rows, _ROWS_A_FILE)),
            encoding="utf-8",
        )
    return folder


def _write(path: Path, rows: Iterator[dict[str, Any]], schema: pa.Schema) -> Path:
    if not path.is_file():
        write_batches(
            path,
            (
                pa.Table.from_pylist(group, schema=schema)
                for group in iter(lambda: list(islice(rows, GROUP)), [])
            ),
            schema,
        )
    return path
