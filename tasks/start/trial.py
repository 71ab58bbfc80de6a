"""The trial that a forecast is made from: a part of the corpus goes through the stages in small."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from tasks.claims.construct import SHARES
from tasks.core.errors import PipelineError
from tasks.core.files import choose, read_if_there, read_json, row_seed
from tasks.core.overlay import overlay
from tasks.core.params import Params
from tasks.core.parquet import read_table, write_table
from tasks.core.rows import INSTRUCTIONS
from tasks.core.sections.finetune import CHAMPION
from tasks.core.setting_paths import NOTHING
from tasks.core.stage import WORK
from tasks.scoring.datasets import has_items
from tasks.start.apart import Measured, Tell, run_apart, write_params
from tasks.start.forecast import chance_to_judge
from tasks.start.launch import Early

#: Passages of the trial at most, and rows that it generates and asks at a time.
PASSAGES, SHARD = 32, 16
#: Seconds of generating after which a trial has enough, and passages that it needs all the same.
SECONDS, _LEAST = 24.0, 4
#: Seconds of the whole plan after which its reader is stopped, and seconds that it is asked for all
#: the same: meant for a plan of 90 s on two cores that multiply bfloat16.
UNTIL, _ASKED = 62.0, 8.0
#: Rows that test the reader in each task type: with fewer than 20 verify judges nothing.
TESTS = 24
#: Stages that load their libraries while the generator's engine starts, in this order.
EARLY = ("verify", "finetune", "validate", "generate")
#: Rows at a time on a GPU: it writes this many together in about the time that one row takes.
_GPU_ROWS = 256
#: A yield that one good row has; without any validate ends with an error.
_ANY = 1e-9
#: Passages that rules make claims of, in some seconds, and items that the unadapted model is asked.
_CLAIM_PASSAGES, _ITEMS = 1000, 8


@dataclass(frozen=True)
class Trial:
    """What the trial gave: rows kept of each passage, and what each stage took."""

    #: Those that were generated from: fewer than were drawn where it took too long.
    passages: int
    #: Task type -> rows kept of each passage of the trial; a share of a row where the reader was
    #: stopped, so that nobody knows whether it judges the rows.
    kept: dict[str, list[float]]
    #: Stage -> what it took.
    measured: dict[str, Measured]
    predictions: int = 0
    validated: int = 0
    output_tokens: int = 0
    #: Task type -> how likely (0-1) the run's reader judges its rows, where the trial's did not.
    doubts: Mapping[str, float] = field(default_factory=dict)
    #: Tokens of prompts and responses in a step of the training; 0: none was tried.
    step_tokens: float = 0.0


def try_generated(
    params: Params,
    values: Mapping[str, Any],
    found: pa.Table,
    folder: Path,
    tell: Tell,
    early: Early,
    began: float,
) -> Trial:
    """Try what a generator writes: some passages of ``found`` (rows.PASSAGES) go through generate,
    validate, verify and a training step. ``began`` is when the plan did (monotonic seconds).
    """
    count, together = PASSAGES, SHARD
    a_passage = params.generate.samples * len(params.generate.task_types)
    if torch.cuda.is_available():
        together = _GPU_ROWS
        count = max(PASSAGES, together // a_passage)
    passages = _draw(found, count, params, folder)
    smaller: dict[str, dict[str, Any]] = {
        "generate": {"max_passages": 0, "shard_rows": together, "workers": 0},
        "validate": {"min_yield": _ANY, "max_rows": 0},
        "verify": {
            "shard_rows": together,
            "workers": 0,
            "test_rows": min(TESTS, params.verify.test_rows),
        },
        "finetune": _few_steps(params),
    }
    write_params(overlay(dict(values), smaller), folder)
    generated, passages = generate_in_time(passages, a_passage, folder, tell, early)
    measured = {"generate": generated}
    written = read_json(folder / "generate/summary.json")
    predictions = {"predictions": folder / "generate/predictions.parquet"}
    validated = _run_or_none("validate", folder, predictions, measured, tell, early)
    rows, doubts = validated, dict[str, float]()
    share = 1.0
    if len(validated):
        inputs = {
            name: folder / f"validate/{name}.parquet" for name in ("instructions", "quarantine")
        }
        # All the passages that were drawn: rules make tests of the reader from them.
        inputs |= predictions | {"passages": folder / "passages.parquet"}

        def enough(asked: float) -> bool:
            return asked >= _ASKED and time.monotonic() - began >= UNTIL

        rows = _run_or_none("verify", folder, inputs, measured, tell, early, enough)
        doubts = _read_doubts(folder, params.verify.test_rows)
        if "verify" in measured and measured["verify"].stopped:
            # What it is asked of each type; whether it judges is as likely as not.
            rows, share = validated, params.verify.confident_share
            doubts = dict.fromkeys(params.generate.task_types, 0.5)
        shown = rows if len(rows) >= params.finetune.batch_rows else validated
        write_table(folder / "training.parquet", shown.select(INSTRUCTIONS.names))
        training = {"instructions": folder / "training.parquet"}
        measured["finetune"] = run_apart("finetune", folder, training, tell=tell, early=early)
    return Trial(
        len(passages),
        _kept(params.generate.task_types, passages, rows, share),
        measured,
        written["rows_in"],
        len(validated),
        written["output_tokens"],
        doubts,
        tokens_a_step(folder),
    )


def _read_doubts(folder: Path, test_rows: int) -> dict[str, float]:
    """Return :attr:`Trial.doubts` from verify's tests of its reader; ``test_rows``: the run's."""
    summary = read_if_there(folder / "verify/summary.json") or {"reader": {}}
    return {
        kind: chance_to_judge(test["right"], test["rows"], test["chance"], test_rows)
        for kind, test in summary["reader"].items()
        if not test["passed"]
    }


def generate_in_time(
    passages: pa.Table, a_passage: int, folder: Path, tell: Tell, early: Early | None = None
) -> tuple[Measured, pa.Table]:
    """Generate from ``passages`` (rows.PASSAGES), ``a_passage`` rows of each, for :data:`SECONDS`
    or until it is done; return what it took, and the passages whose rows are finished, four or
    more.

    The time begins when the engine is there. A stage that is stopped has its finished shards in the
    journal, from which it is run again: nothing is generated then.
    """
    asked = {"passages": folder / "asked.parquet"}
    least, whole = _LEAST * a_passage, len(passages) * a_passage

    def enough(worked: float) -> bool:
        return worked >= SECONDS and least <= _finished(folder) < whole

    write_table(asked["passages"], passages)
    measured = run_apart("generate", folder, asked, tell=tell, enough=enough)
    if measured.stopped:
        passages = passages.slice(0, _finished(folder) // a_passage)
        write_table(asked["passages"], passages)
        run_apart("generate", folder, asked, early=early)
    return measured, passages


def _finished(folder: Path) -> int:
    """Return the rows of the finished shards: generate tells them with a sample of each."""
    sample = read_if_there(folder / WORK / "generate" / "sample.json")
    return int(sample["rows"]) if sample else 0


def try_constructed(
    params: Params,
    values: Mapping[str, Any],
    found: pa.Table,
    folder: Path,
    tell: Tell,
) -> Trial:
    """Try claims made by rules: up to a thousand passages of ``found`` (rows.PASSAGES) go through
    supervise and a training step, and the unadapted model answers some of the items, if any.
    """
    passages = _draw(found, _CLAIM_PASSAGES, params, folder)
    smaller: dict[str, dict[str, Any]] = {
        "generate": {"max_passages": 0},
        "supervise": {"max_rows": 0},
        "finetune": _few_steps(params),
        "evaluate": {"max_items": _ITEMS},
    }
    write_params(overlay(dict(values), smaller), folder)
    write_table(folder / "none.parquet", INSTRUCTIONS.empty_table())
    inputs = {"passages": folder / "passages.parquet", "instructions": folder / "none.parquet"}
    measured = {"supervise": run_apart("supervise", folder, inputs, tell=tell)}
    training = {"instructions": folder / "supervise/instructions.parquet"}
    measured["finetune"] = run_apart("finetune", folder, training, tell=tell)
    if has_items(Path(params.evaluate.items)):
        # The unadapted model alone: the pace of one is that of the others.
        alone = {"finetune": {**smaller["finetune"], "start": NOTHING}}
        write_params(overlay(dict(values), smaller | alone), folder)
        measured["baseline"] = run_apart("baseline", folder, {}, tell=tell)
    kinds = [kind for kind in params.generate.task_types if kind in SHARES]
    rows = read_table(training["instructions"])
    kept = _kept(kinds, passages, rows)
    return Trial(len(passages), kept, measured, step_tokens=tokens_a_step(folder))


def tokens_a_step(folder: Path) -> float:
    """Return :attr:`Trial.step_tokens` from the summary of finetune."""
    trained = read_if_there(folder / "finetune/summary.json") or {"tokens": 0, "steps": 1}
    return float(trained["tokens"] / trained["steps"])


def _draw(found: pa.Table, count: int, params: Params, folder: Path) -> pa.Table:
    """Write the passages of the trial, at most ``count`` of those that the run would take, to
    ``folder``; return them.

    The seed shuffles the documents: a trial that is stopped has a fair sample.
    """
    count, seed = min(count, params.generate.max_passages or count), params.generate.seed
    passages = found.take(choose(found["passage_id"].to_pylist(), count, seed, "passage"))
    names = zip(passages["document"].to_pylist(), passages["passage_id"].to_pylist(), strict=True)
    ranks = [
        (row_seed(seed, "document", file), row_seed(seed, "place", own)) for file, own in names
    ]
    passages = passages.take(sorted(range(len(ranks)), key=ranks.__getitem__))
    write_table(folder / "passages.parquet", passages)
    return passages


def _few_steps(params: Params) -> dict[str, Any]:
    # A GPU's first step is slower than the others.
    steps: dict[str, Any] = {"max_steps": 2 if torch.cuda.is_available() else 1, "processes": 1}
    if params.finetune.start == CHAMPION:  # a step from another start costs as much
        steps["start"] = params.finetune.restart
    return steps


def _run_or_none(
    stage: str,
    folder: Path,
    inputs: dict[str, Path],
    measured: dict[str, Measured],
    tell: Tell,
    early: Early,
    enough: Callable[[float], bool] | None = None,
) -> pa.Table:
    """Return the rows that the stage keeps: none where it ends with an error because of that, or
    was stopped because it had done ``enough``.
    """
    try:
        found = run_apart(stage, folder, inputs, tell=tell, enough=enough, early=early)
    except PipelineError as error:
        if not str(error).startswith(("validate: yield ", "verify: none of ")):
            raise
        return INSTRUCTIONS.empty_table()
    measured[stage] = found
    if found.stopped:
        return INSTRUCTIONS.empty_table()
    return read_table(folder / stage / "instructions.parquet")


def _kept(
    kinds: Sequence[str], passages: pa.Table, rows: pa.Table, share: float = 1.0
) -> dict[str, list[float]]:
    pairs = zip(rows["task_type"].to_pylist(), rows["passage_id"].to_pylist(), strict=True)
    counts = Counter(pairs)
    ids = passages["passage_id"].to_pylist()
    return {kind: [share * counts[kind, name] for name in ids] for kind in kinds}
