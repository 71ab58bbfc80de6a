"""Which rows generate writes, in which order, and how they are cut into shards.

A shard is a group of passages of one file, and depends on their texts alone: where they lie in the
file or the corpus changes neither the shard nor the seeds of its rows. A run over a changed corpus
therefore finds the shards of unchanged passages again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks.core.files import choose, fingerprint, row_seed
from tasks.core.groups import cut_groups
from tasks.core.parquet import column_values, take_rows
from tasks.core.sections.generate import Generate


@dataclass(frozen=True)
class Request:
    """A row to generate.

    ``seed`` follows from the passage's text, the task type and the number of the sample; ``row_id``
    also names the passage's place.
    """

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
    for passage in _chosen(passages, params):
        yield from _requests(passage, params)


@dataclass(frozen=True)
class Shard:
    """Passages that are generated together, and stored under ``name``, which holds their texts'
    fingerprint: two equal shards have one name.
    """

    name: str
    passages: list[dict[str, Any]]

    def requests(self, params: Generate) -> list[Request]:
        """Return the shard's rows, in the order of :func:`plan`."""
        return [request for passage in self.passages for request in _requests(passage, params)]


def cut_shards(passages: Iterable[pa.Table], params: Generate) -> Iterator[Shard]:
    """Yield the shards of all passages in order, each of at most ``shard_rows`` rows or one
    passage.

    Each is named by its passages' texts (:func:`tasks.core.groups.cut_groups`).
    """
    most = max(1, params.shard_rows // (len(params.task_types) * params.samples))
    groups = cut_groups(
        _chosen(passages, params),
        most,
        document=lambda passage: str(passage["document"]),
        content=lambda passage: str(passage["text"]),
    )
    for name, group in groups:
        yield Shard(f"shard-{name}", group)


def _requests(passage: dict[str, Any], params: Generate) -> Iterator[Request]:
    text_hash = fingerprint(passage["text"])
    for task_type in params.task_types:
        for sample in range(params.samples):
            row_id = f"{passage['passage_id']}-{task_type}-{sample}"
            seed = row_seed(params.seed, text_hash, task_type, sample)
            yield Request(row_id, passage, task_type, sample, seed)


def _chosen(passages: Iterable[pa.Table], params: Generate) -> Iterator[dict[str, Any]]:
    if params.max_passages:
        ids = column_values(passages, "passage_id")
        places = choose(ids, params.max_passages, params.seed, "passage").to_numpy()
        passages = take_rows(passages, places)
    for batch in passages:
        yield from batch.to_pylist()
