"""Which rows generate writes, in which order, and how they are cut into shards.

All of it depends on the passages and the settings alone: a run that is continued, on this machine
or on others, plans the same shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from tasks.core.files import choose, row_seed
from tasks.core.params import Generate


@dataclass(frozen=True)
class Request:
    """A row to generate; all of it follows from passage, task type and number of the sample."""

    row_id: str
    passage: dict[str, Any]
    task_type: str
    sample: int
    seed: int


def count_planned(passages: int, params: Generate) -> int:
    """Return how many rows :func:`plan` yields for that many passages."""
    return min(passages, params.max_passages or passages) * len(params.task_types) * params.samples


def plan(passages: Iterable[pa.Table], params: Generate) -> Iterator[Request]:
    """Yield the rows to generate, ordered by passage, task type and sample.

    ``passages`` are batches of rows.PASSAGES that can be iterated more than once. Where
    ``max_passages`` limits them, the choice is seeded.
    """
    for batch in _choose_passages(passages, params):
        for passage in batch.to_pylist():
            for task_type in params.task_types:
                for sample in range(params.samples):
                    key = (passage["passage_id"], task_type, sample)
                    row_id, seed = "-".join(map(str, key)), row_seed(params.seed, *key)
                    yield Request(row_id, passage, task_type, sample, seed)


def cut_shards(
    passages: Iterable[pa.Table], count: int, todo: set[int], params: Generate
) -> Iterator[tuple[int, list[Request]]]:
    """Yield number and rows of the shards in ``todo``, of ``count`` shards in all."""
    requests = plan(passages, params)
    for number in range(count):
        shard = list(islice(requests, params.shard_rows))
        if number in todo:
            yield number, shard


def digest_passages(passages: Iterable[pa.Table]) -> str:
    """Return one SHA-256 over the passages' ids, which hold their content."""
    digest = hashlib.sha256()
    for batch in passages:
        digest.update("\n".join([*batch["passage_id"].to_pylist(), ""]).encode())
    return digest.hexdigest()


def _choose_passages(passages: Iterable[pa.Table], params: Generate) -> Iterator[pa.Table]:
    if not params.max_passages:
        yield from passages
        return
    ids = (passage_id for batch in passages for passage_id in batch["passage_id"].to_pylist())
    positions = choose(ids, params.max_passages, params.seed, "passage").to_numpy()
    start = 0
    for batch in passages:
        end = start + len(batch)
        yield batch.take(pa.array(positions[(positions >= start) & (positions < end)] - start))
        start = end
