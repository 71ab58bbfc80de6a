"""Every prediction measured, and judged by the suites: the first pass over the file."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.sections.validate import Validate
from tasks.core.stage import Stage
from tasks.validate.checks import measure
from tasks.validate.predictions import count_rows, read_batches
from tasks.validate.suites import Suites
from tasks.validate.texts import RowTexts, content_keys
from tasks.validate.verdicts import Codes, Verdicts

#: Batches that Great Expectations judges at once (their measures alone). More of them would save
#: a validation, a tenth of a second, now and then, and cost memory.
_BATCHES_A_CHUNK = 5
#: Measures of a row that :class:`Verdicts` keeps.
_KEPT = ("task_type", "unparsed", "label", "family", "failed", "content", "order")


def judge(predictions: Path, suites: Suites, params: Validate, stage: Stage) -> Verdicts:
    """Measure every row and let the suites judge it; return what failed. No row is selected yet."""
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
        pieces.append({name: frame[name].to_numpy(copy=True) for name in _KEPT})
        good = np.mean((frame["failed"] == 0) & (frame["unparsed"] < 0))
        progress.advance(len(frame), good=f"{good:.1%}")
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
    names = ("task_type", "context", "instruction", "response")
    rows = RowTexts(**{name: batch[name].combine_chunks() for name in names}, labels=params.labels)
    frame = measure(rows)
    frame["task_type"] = types.number(rows.task_type)
    parsed, reason = batch["parsed"].combine_chunks(), batch["reason"].combine_chunks()
    reason = pc.if_else(pc.equal(reason, ""), "unknown", reason)
    frame["unparsed"] = parse_reasons.number(pc.if_else(parsed, None, reason))
    frame["label"] = labels.number(rows.label)
    frame["family"] = rows.family
    frame["content"] = content_keys(rows)
    frame["order"] = pd.util.hash_array(
        batch["row_id"].to_numpy().astype(object), hash_key=f"{params.seed:016d}", categorize=False
    )
    # Arrow strings: Python objects that live as long as a chunk would fragment the heap.
    frame["row_id"] = pd.array(batch["row_id"].combine_chunks(), dtype=pd.ArrowDtype(pa.string()))
    frame.index = pd.RangeIndex(start, start + len(frame))
    return frame


def count_copies(frame: pd.DataFrame, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 for each row whose texts an earlier parsed row of its type has, else 0; and the keys
    seen so far.
    """
    types = frame["task_type"].to_numpy().astype(np.uint64)
    parsed = frame["unparsed"].to_numpy() < 0
    keys = (frame["content"].to_numpy() + types * np.uint64(0x9E3779B97F4A7C15))[parsed]
    copies = np.zeros(len(frame), np.int64)
    copies[parsed] = pd.Series(keys).duplicated().to_numpy() | np.isin(keys, seen)
    return copies, np.union1d(seen, keys)


def judge_chunk(frame: pd.DataFrame, suites: Suites, types: list[str]) -> np.ndarray:
    """Return one bit mask a row: the expectations that it fails. Unparsable rows fail none."""
    failed = np.zeros(len(frame), np.uint32)
    rows = frame[frame["unparsed"] < 0]
    if len(rows):
        names = pd.Categorical.from_codes(rows["task_type"].to_numpy(), pd.Index(types))
        failing = suites.failing(rows.assign(task_type=names))
        for bit, check in enumerate(suites.checks):
            failed[failing[check.name] - frame.index[0]] |= np.uint32(1 << bit)
    return failed
