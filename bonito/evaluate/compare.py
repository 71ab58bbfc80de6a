"""Compare generators in a Markdown table.

``python -m bonito.evaluate.compare A/scores.json B/scores.json [...] [--out FILE]``

The others are compared with the first file. Where two evaluations drew the same passages, the
difference has a 95 % interval: a paired bootstrap over passages, from the ``predictions.parquet``
beside each file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bonito.evaluate.scores_table import COLUMNS, format_cell
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_text
from tasks.core.markdown import table
from tasks.core.parquet import read_table
from tasks.core.stage import one_line_errors
from tasks.core.task_types import TASK_TYPES
from tasks.scoring.f1 import interval, resample

_RESAMPLES = 2000
_BY_TYPE = ("parse_yield", "adherence", "valid", "held_out_loss")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare scores files; return 0, or 2 if they cannot be compared."""
    parser = argparse.ArgumentParser(
        prog="python -m bonito.evaluate.compare",
        allow_abbrev=False,
        description=__doc__.split("\n")[0],
    )
    parser.add_argument(
        "scores", nargs="+", type=Path, help="scores.json files of bonito.evaluate.stage"
    )
    parser.add_argument("--out", type=Path, help="Markdown file to write the tables to")
    arguments = parser.parse_args(argv)
    with one_line_errors("compare"):
        text = compare(arguments.scores)
        if arguments.out:
            write_text(arguments.out, text)
        print(text, end="")
        return 0
    return 2


def compare(paths: Sequence[Path]) -> str:
    """Return the tables: overall with differences to the first, then by task type."""
    facts = [_read(path) for path in paths]
    names = [f"{number}: {scores['generator']}" for number, scores in enumerate(facts, start=1)]
    overall = [scores["generated"]["overall"] for scores in facts]
    lines = [
        [label, *(format_cell(scores.get(name), form) for scores in overall)]
        for name, (label, form) in COLUMNS.items()
    ]
    parts = ["# Generators side by side", table(["measure", *names], lines)]
    for path, scores, name in list(zip(paths, facts, names, strict=True))[1:]:
        parts.append(f"## {name} against {names[0]}")
        if scores["rows_key"] != facts[0]["rows_key"]:
            parts.append(
                "Not the same passages: the differences above are not paired and have no interval."
            )
        else:
            parts.append(
                table(["measure", "difference", "95 % interval"], _differences(paths[0], path))
            )
    kinds = [kind for kind in TASK_TYPES if any(kind in scores["generated"] for scores in facts)]
    for name in _BY_TYPE:
        label, form = COLUMNS[name]
        parts += [
            f"## {label}, by task type",
            table(
                ["task type", *names],
                [
                    [kind, *(format_cell(_value(scores, kind, name), form) for scores in facts)]
                    for kind in kinds
                ],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _differences(first: Path, second: Path) -> list[list[str]]:
    """Return (measure, difference, interval) of two evaluations of the same passages, in percentage
    points, for the loss in nats.
    """
    tables = [
        read_table(path.with_name("predictions.parquet")).to_pylist() for path in (first, second)
    ]
    weights = resample([row["context"] for row in tables[0]], _RESAMPLES, 1)
    lines = []
    for label, outcome in _OUTCOMES.items():
        values = np.array([[float(outcome(row)) for row in rows] for rows in tables])
        difference = 100 * (values[1] - values[0])
        low, high = interval(weights @ difference / weights.sum(axis=1))
        lines.append([label, f"{difference.mean():+.1f}", f"{low:+.1f} to {high:+.1f}"])
    tokens = np.array([float(row["loss_tokens"]) for row in tables[0]])
    # The loss for a token of another tokenizer is another measure.
    if [row["loss_tokens"] for row in tables[1]] == tokens.tolist():
        nats = np.array([row["loss"] for row in tables[1]]) - np.array(
            [row["loss"] for row in tables[0]]
        )
        low, high = interval(weights @ nats / (weights @ tokens))
        lines.append(
            [
                "held-out loss (nats a token)",
                f"{nats.sum() / tokens.sum():+.3f}",
                f"{low:+.3f} to {high:+.3f}",
            ]
        )
    return lines


_OUTCOMES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "parsed (points)": lambda row: not row["reason"],
    "form of the type (points)": lambda row: bool(row["adheres"]),
    "valid (points)": lambda row: not row["reason"] and not row["failed"],
}


def _value(facts: dict[str, Any], kind: str, name: str) -> float | None:
    value: float | None = facts["generated"].get(kind, {}).get(name)
    return value


def _read(path: Path) -> dict[str, Any]:
    facts = read_json(path)
    if not isinstance(facts, dict) or "generated" not in facts or "rows_key" not in facts:
        raise PipelineError(f"{path} is no scores.json of bonito.evaluate.stage")
    return facts


if __name__ == "__main__":
    raise SystemExit(main())
