"""The files of an evaluation: scores by task type, and one row for each passage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bonito.evaluate.judging import Opinion
from bonito.evaluate.measures import TaskCheck, Written, measure_tasks
from tasks.core.task_types import EXTRACTION, TASK_TYPES

#: predictions.parquet: one row a passage, parsable or not. ``reference_*``: the human-made task for
#: the passage; ``loss``: its output's summed cross-entropy under the generator, in nats, over
#: ``loss_tokens``; ``judge_*`` are null where there was nothing to judge.
SCORED = pa.schema(
    [
        *((name, pa.string()) for name in ("row_id", "dataset", "task_type", "context")),
        *((name, pa.string()) for name in ("prediction", "instruction", "response", "reason")),
        ("output_tokens", pa.int32()),
        ("adheres", pa.bool_()),
        ("failed", pa.list_(pa.string())),
        ("answer_in_passage", pa.bool_()),
        ("label", pa.string()),
        ("judge_answer", pa.string()),
        ("judge_agreement", pa.float64()),
        ("judge_chance", pa.float64()),
        ("reference_instruction", pa.string()),
        ("reference_response", pa.string()),
        ("reference_adheres", pa.bool_()),
        ("loss", pa.float64()),
        ("loss_tokens", pa.int32()),
    ]
)


def score_by_type(
    tasks: list[Written],
    checks: list[TaskCheck],
    opinions: list[Opinion | None],
    losses: Sequence[float] = (),
    tokens: Sequence[int] = (),
) -> dict[str, Any]:
    """Return the scores of all tasks (``overall``) and of each task type that has any."""
    groups = {"overall": list(range(len(tasks)))} | {
        kind: places
        for kind in TASK_TYPES
        if (places := [place for place, task in enumerate(tasks) if task.task_type == kind])
    }
    return {
        name: measure_tasks([tasks[place] for place in places], [checks[place] for place in places])
        | _agreement([(tasks[place].task_type, opinions[place]) for place in places])
        | (
            {
                "held_out_loss": sum(losses[place] for place in places)
                / sum(tokens[place] for place in places)
            }
            if losses
            else {}
        )
        for name, places in groups.items()
    }


def _agreement(opinions: list[tuple[str, Opinion | None]]) -> dict[str, Any]:
    """Return the judge's agreement on choices with that of guessing, and its answers' mean F1; None
    without any.
    """
    answered = [(kind, opinion) for kind, opinion in opinions if opinion is not None]
    chosen = [opinion for kind, opinion in answered if kind not in EXTRACTION]
    extracted = [opinion for kind, opinion in answered if kind in EXTRACTION]
    return {
        "judged": len(chosen),
        "judge_agreement": _mean([opinion.agreement for opinion in chosen]),
        "judge_chance": _mean([opinion.chance for opinion in chosen]),
        "answered": len(extracted),
        "answer_f1": _mean([opinion.agreement for opinion in extracted]),
    }


def _mean(values: Sequence[Any]) -> float | None:
    return float(np.mean(values)) if values else None


def tabulate_predictions(
    rows: list[dict[str, Any]],
    completions: list[Any],
    written: list[Written],
    checks: list[TaskCheck],
    opinions: list[Opinion | None],
    human_checks: list[TaskCheck],
    losses: list[float],
    tokens: list[int],
) -> pa.Table:
    """Return :data:`SCORED` from lists with one entry a row."""
    lines = []
    for row, completion, task, verdict, opinion, reference, loss, count in zip(
        rows, completions, written, checks, opinions, human_checks, losses, tokens, strict=True
    ):
        lines.append(
            {
                **{name: row[name] for name in ("row_id", "dataset", "task_type", "context")},
                "prediction": completion[0],
                "instruction": task.instruction,
                "response": task.response,
                "reason": task.reason,
                "output_tokens": completion[2],
                "adheres": verdict.adheres,
                "failed": list(verdict.failed),
                "answer_in_passage": verdict.answer_in_passage,
                "label": verdict.label,
                "judge_answer": opinion and opinion.answer,
                "judge_agreement": opinion and opinion.agreement,
                "judge_chance": opinion and opinion.chance,
                "reference_instruction": row["instruction"],
                "reference_response": row["response"],
                "reference_adheres": reference.adheres,
                "loss": loss,
                "loss_tokens": count,
            }
        )
    return pa.Table.from_pylist(lines, schema=SCORED)


def round_numbers(value: Any) -> Any:
    """Return nested values with every float rounded to six digits."""
    if isinstance(value, dict):
        return {name: round_numbers(inner) for name, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value
