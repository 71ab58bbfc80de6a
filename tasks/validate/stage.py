"""Stage validate: Great Expectations over what the generator wrote; good rows become instructions,
all others go to quarantine with their reasons.

Two passes over the predictions in bounded batches: the first measures and judges every row, the
second writes it where it belongs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.data_params import Validate
from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.page import BASE, Page, write_page
from tasks.core.parquet import Batches, TableWriter, write_batches
from tasks.core.rows import INSTRUCTIONS, PREDICTIONS, QUARANTINE, WRITTEN
from tasks.core.stage import Stage, run_stage
from tasks.core.task_types import CLASSIFICATION, task_type
from tasks.validate.checks import measure
from tasks.validate.expectations import LABEL_BALANCE, checks
from tasks.validate.report import Samples, write_report
from tasks.validate.suites import Suites
from tasks.validate.texts import Rows, content_keys, filled, unspaced
from tasks.validate.verdicts import MAX_ROWS, Codes, Verdicts

log = logging.getLogger(__name__)
#: Name and address of the pages that the graph leaves beside the report.
_NEIGHBOURS = (
    ("Ingest", "../ingest/report.html"),
    ("Great Expectations", "data_docs/index.html"),
)

#: Batches that Great Expectations judges at once (their measures alone).
_BATCHES_A_CHUNK = 8
_READ = pa.schema(
    [PREDICTIONS.field(name) for name in (*INSTRUCTIONS.names, "prediction", "parsed", "reason")]
)
_OUTPUTS = ("instructions.parquet", "quarantine.parquet", "report.html")


def main(argv: list[str] | None = None) -> int:
    """Run the stage from its command line and return its exit status."""
    return run_stage("validate", validate, ["predictions"], argv)


def validate(stage: Stage) -> None:
    """Judge every prediction, write instructions, quarantine, report and Data Docs, and fail when
    too few rows are good.

    When the yield is under ``validate.min_yield`` there is no output, but the quarantine and the
    report are left in ``stage.work`` to look at.
    """
    params, predictions = stage.params.validate, stage.path("predictions")
    for name in _OUTPUTS:
        (stage.work / name).unlink(missing_ok=True)
    if stage.params.supervise.source not in WRITTEN:
        return nothing_to_judge(stage)
    suites = Suites(checks(params), stage.out / "data_docs")
    verdicts = judge(predictions, suites, params, stage)
    verdicts.settle(params.skip, params.max_label_share, params.max_rows)
    balanced = record_balance(verdicts, suites, params)
    share = usable_share(verdicts)
    good = share >= params.min_yield
    folder = stage.out if good else stage.work
    samples = write_rows(predictions, verdicts, folder)
    links = _NEIGHBOURS if good else ()
    write_report(
        folder / "report.html", verdicts, suites, samples, balanced, share, params.min_yield, links
    )
    if not good:
        raise PipelineError(too_few(verdicts, share, params.min_yield, stage.work))
    suites.write_docs()
    summarise(stage, verdicts, suites, share)


def nothing_to_judge(stage: Stage) -> None:
    """Leave empty files where the supervision source has no generator: its rows come from
    elsewhere.
    """
    source = stage.params.supervise.source
    for name, schema in (
        ("instructions.parquet", INSTRUCTIONS),
        ("quarantine.parquet", QUARANTINE),
    ):
        write_batches(stage.out / name, [], schema)
    page = Page("Validation", f"supervise.source is {source}: no generator wrote rows.")
    write_page(stage.out / "report.html", BASE, page)
    write_json(stage.out / "metrics.json", {"yield": None})
    stage.summary(0, 0, by_task_type={}, labels={}, failures={})


def judge(predictions: Path, suites: Suites, params: Validate, stage: Stage) -> Verdicts:
    """Measure every row and let the suites judge it; return what failed. Nothing is chosen yet."""
    codes = (Codes(), Codes(), Codes())
    progress = stage.progress(count_rows(predictions), "rows")
    measured = (
        measure_batch(batch, start, codes, params) for start, batch in read_batches(predictions)
    )
    seen = np.empty(0, np.uint64)
    pieces = []
    while frames := list(islice(measured, _BATCHES_A_CHUNK)):
        frame = pd.concat(frames)
        frame["earlier_copies"], seen = count_copies(frame, seen)
        frame["failed"] = judge_chunk(frame, suites, codes[0].names)
        pieces.append(
            {
                name: frame[name].to_numpy(copy=True)
                for name in (
                    "task_type",
                    "unparsed",
                    "label",
                    "family",
                    "failed",
                    "content",
                    "order",
                )
            }
        )
        progress.advance(
            len(frame), good=f"{np.mean((frame['failed'] == 0) & (frame['unparsed'] < 0)):.1%}"
        )
    columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return Verdicts(
        [check.name for check in suites.checks],
        *codes,
        **columns,
        surplus=np.zeros(len(columns["failed"]), np.int8),
    )


def measure_batch(
    batch: pa.Table, start: int, codes: tuple[Codes, Codes, Codes], params: Validate
) -> pd.DataFrame:
    """Return a batch's measures without its texts, indexed by position in the file, unparsable rows
    included.
    """
    types, labels, parse_reasons = codes
    texts = {
        name: batch[name].combine_chunks()
        for name in ("task_type", "context", "instruction", "response")
    }
    rows = Rows(**texts, labels=params.labels)
    frame = measure(rows)
    reason = batch["reason"].combine_chunks()
    frame["task_type"] = types.of(rows.task_type)
    frame["unparsed"] = parse_reasons.of(
        pc.if_else(
            batch["parsed"].combine_chunks(),
            None,
            pc.if_else(pc.equal(reason, ""), "unknown", reason),
        )
    )
    frame["label"] = labels.of(rows.label)
    frame["family"] = rows.family
    frame["content"] = content_keys(rows)
    frame["order"] = pd.util.hash_array(
        batch["row_id"].to_numpy().astype(object), hash_key=f"{params.seed:016d}", categorize=False
    )
    # As Arrow's strings: a Python object each, kept for a whole chunk, would keep the memory of all
    # that came and went between them.
    frame["row_id"] = pd.array(batch["row_id"].combine_chunks(), dtype=pd.ArrowDtype(pa.string()))
    frame.index = pd.RangeIndex(start, start + len(frame))
    return frame


def count_copies(frame: pd.DataFrame, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row whether a parsed row of its type had the same texts before (0 or 1), and
    the keys seen so far.
    """
    keys = frame["content"].to_numpy() + frame["task_type"].to_numpy().astype(
        np.uint64
    ) * np.uint64(0x9E3779B97F4A7C15)
    parsed = frame["unparsed"].to_numpy() < 0
    again = np.zeros(len(frame), np.int64)
    again[parsed] = pd.Series(keys[parsed]).duplicated().to_numpy() | np.isin(keys[parsed], seen)
    return again, np.union1d(seen, keys[parsed])


def judge_chunk(frame: pd.DataFrame, suites: Suites, types: list[str]) -> np.ndarray:
    """Return one bit mask a row of the expectations that its task type's suite says it fails."""
    failed = np.zeros(len(frame), np.uint32)
    for number in np.unique(frame["task_type"]):
        rows = frame[(frame["task_type"] == number) & (frame["unparsed"] < 0)]
        failing = suites.failing(types[number], rows) if len(rows) else {}
        for bit, check in enumerate(suites.checks):
            failed[failing.get(check.name, np.empty(0, np.int64)) - frame.index[0]] |= np.uint32(
                1 << bit
            )
    return failed


def record_balance(verdicts: Verdicts, suites: Suites, params: Validate) -> dict[str, bool]:
    """Let Great Expectations record each classification type's label balance; return task type ->
    in balance.
    """
    balanced = {}
    for name in verdicts.types.names if LABEL_BALANCE not in params.skip else ():
        counts = verdicts.count_labels(name) if name in CLASSIFICATION else {}
        if counts:
            balanced[name] = suites.balanced(name, counts, params.max_label_share)
            if not balanced[name]:
                log.warning(
                    (
                        "%s: the labels that were generated cannot be balanced to a share of "
                        "%.0f %%: %s"
                    ),
                    name,
                    100 * params.max_label_share,
                    counts,
                )
    return balanced


def usable_share(verdicts: Verdicts) -> float:
    """Return the yield in 0-1.

    Rows that ``max_rows`` left out count as good: nothing is wrong with them.
    """
    return (int(verdicts.kept().sum()) + verdicts.count_reasons()[MAX_ROWS]) / len(verdicts)


def too_few(verdicts: Verdicts, share: float, floor: float, folder: Path) -> str:
    """Return the one line that tells of a yield under its floor."""
    name, rows = min(verdicts.count_reasons().items(), key=lambda item: (-item[1], item[0]))
    return (
        f"yield {share:.1%} of {len(verdicts)} predictions is under validate.min_yield "
        f"{floor:.1%}; most frequent reason: {name} ({rows} rows); "
        f"look at {folder / 'quarantine.parquet'} and {folder / 'report.html'}, then mend "
        "the generator's settings, or lower the floor"
    )


def write_rows(predictions: Path, verdicts: Verdicts, folder: Path) -> Samples:
    """Write every row to instructions.parquet or quarantine.parquet, in the file's order; return
    the rows that the report shows.
    """
    samples = Samples(verdicts)
    kept = verdicts.kept()
    with (
        TableWriter(folder / "instructions.parquet", INSTRUCTIONS) as good,
        TableWriter(folder / "quarantine.parquet", QUARANTINE) as bad,
    ):
        for start, batch in read_batches(predictions):
            keep = kept[start : start + len(batch)]
            rows = with_passages(batch)
            good.write(rows.filter(pa.array(keep)))
            reasons = [verdicts.reasons(start + place) for place in np.flatnonzero(~keep)]
            bad.write(
                rows.filter(pa.array(~keep)).append_column(
                    QUARANTINE.field("reasons"), pa.array(reasons, QUARANTINE.field("reasons").type)
                )
            )
            samples.take(batch, start)
    return samples


def with_passages(batch: pa.Table) -> pa.Table:
    """Return a batch as INSTRUCTIONS rows, the passage in its place.

    An unparsable row shows the raw prediction as its instruction.
    """
    context = batch["context"].combine_chunks()
    instruction = filled(batch["instruction"].combine_chunks(), context)
    instruction = pc.if_else(
        pc.or_(batch["parsed"].combine_chunks(), pc.not_equal(instruction, "")),
        instruction,
        batch["prediction"].combine_chunks(),
    )
    response = filled(batch["response"].combine_chunks(), context)
    return pa.table(
        {
            **{name: batch[name] for name in INSTRUCTIONS.names},
            "instruction": instruction,
            "response": response,
        },
        INSTRUCTIONS,
    )


def summarise(stage: Stage, verdicts: Verdicts, suites: Suites, share: float) -> None:
    """Write summary.json and log its first lines."""
    kept = verdicts.kept()
    by_type = {}
    for name in verdicts.types.names:
        own = verdicts.of_type(name)
        rows, usable = int(own.sum()), int((own & kept).sum())
        by_type[name] = {
            "predictions": rows,
            "parsed": int((own & (verdicts.unparsed < 0)).sum()),
            "kept": usable,
            "yield": round(usable / rows, 4),
        }
    reasons = verdicts.count_reasons()
    write_json(stage.out / "metrics.json", {"yield": round(share, 4)})
    stage.summary(
        len(verdicts),
        int(kept.sum()),
        dict(verdicts.count_reasons(first_only=True)),
        **{"yield": round(share, 4)},
        by_task_type=by_type,
        labels={
            name: verdicts.count_labels(name)
            for name in verdicts.types.names
            if name in CLASSIFICATION
        },
        failures={
            name: reasons.get(name, 0)
            for name in (*(check.name for check in suites.checks), LABEL_BALANCE)
        },
    )
    log.info(
        "kept %d of %d rows; not kept: %s",
        kept.sum(),
        len(verdicts),
        ", ".join(f"{name} {rows}" for name, rows in reasons.most_common()) or "none",
    )


def count_rows(predictions: Path) -> int:
    """Return the file's rows; none at all is an error."""
    rows = len(Batches(predictions, _READ))
    if not rows:
        raise PipelineError(
            f"{predictions} holds no predictions: run generate again, or look at what ingest kept"
        )
    return rows


def read_batches(predictions: Path) -> Iterator[tuple[int, pa.Table]]:
    """Yield (position of its first row, batch) in the file's order: no nulls, task types in short
    form, placeholders unspaced.
    """
    start = 0
    for batch in Batches(predictions, _READ):
        yield start, cleaned(batch)
        start += len(batch)


def cleaned(table: pa.Table) -> pa.Table:
    """Return a batch without nulls, with task types in short form and every placeholder unspaced.

    An unknown task type is an error.
    """
    columns = {
        name: pc.fill_null(table[name].combine_chunks(), False if name == "parsed" else "")
        for name in table.column_names
    }
    types = columns["task_type"].dictionary_encode()
    columns["task_type"] = pa.array(
        [task_type(name) for name in types.dictionary.to_pylist()], pa.string()
    ).take(types.indices)
    for name in ("instruction", "response"):
        columns[name] = unspaced(columns[name])
    return pa.table(columns, _READ)
