"""Supervision by construction: rows whose labels rules know."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from tasks.core.errors import PipelineError
from tasks.core.rows import PASSAGES
from tasks.supervise.constructed import construct_rows
from tests.claims.test_construct import corpus
from tests.conftest import passage_table


def passages(count: int = 60) -> pa.Table:
    """The passages of the claims' tests, as ingest's table."""
    rows = passage_table(count).to_pylist()
    for row, passage in zip(rows, corpus(), strict=False):
        row["text"] = passage.text
    return pa.Table.from_pylist(rows, schema=PASSAGES)


def test_rows_are_of_the_task_types_asked_for_and_their_labels_are_even() -> None:
    rows, _ = construct_rows(passages(), ("ynqa", "exqa"), seed=1)
    assert len(rows) > 50 and set(rows["task_type"].to_pylist()) == {"ynqa"}
    for row in rows.to_pylist():
        assert row["context"] in row["instruction"]
    largest = Counter(row["response"].lower() for row in rows.to_pylist()).most_common(1)[0][1]
    assert largest <= 0.5 * len(rows)


def test_a_task_type_without_claims_is_one_line() -> None:
    with pytest.raises(PipelineError, match=r"makes rows of nli, te, ynqa; .* names exqa"):
        construct_rows(passages(), ("exqa",), 1)


def test_few_rows_are_told(caplog: pytest.LogCaptureFixture) -> None:
    construct_rows(passages(), ("nli",), 1)
    assert not caplog.records
    rows, _ = construct_rows(passages(12), ("nli",), 1)
    assert 0 < len(rows) < 50 and f"only {len(rows)} rows from 12 passages" in caplog.text
