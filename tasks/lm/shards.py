"""Shards of rows, done by a model in this process one after the other, or by Ray workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import torch

from tasks.core.card import give_cards_back
from tasks.core.errors import PipelineError
from tasks.core.groups import pack
from tasks.core.ray_cluster import Workers
from tasks.core.ray_workers import spread
from tasks.core.sections.generate import Generate
from tasks.core.sections.verify import Verify
from tasks.core.store import Store
from tasks.lm.memory import freed_after


def do_shards(
    stage: str,
    worker: type[Any],
    arguments: tuple[Any, ...],
    shards: Iterable[tuple[int, Sequence[Any]]],
    count: int,
    params: Generate | Verify,
) -> Iterator[tuple[int, pa.Table]]:
    """Yield number and result of each of ``count`` shards: in order in this process, in any order
    with ``params.workers``.

    ``worker`` is a class: made with ``arguments`` it opens a model, called with a shard it returns
    a table of as many rows, and ``close`` frees the model.

    On a CPU a row's text depends a little on what is asked beside it, so each shard goes alone and
    gives the same bytes in any corpus. A GPU would be idle, and a server makes its own batches:
    there small shards go together.
    """
    if params.workers:
        give_cards_back()  # the workers take them
        # As many threads as this process would use: sums over others may round otherwise.
        threads = torch.get_num_threads()
        number = min(params.workers, count)
        workers = Workers(stage, number, params.ray_address, threads)
        yield from spread(f"{worker.__module__}:{worker.__name__}", arguments, shards, workers)
        return
    together = bool(params.address) or torch.cuda.is_available()
    with freed_after(worker(*arguments)) as do:
        for packed in pack(shards, params.shard_rows if together else 1):
            table = do([row for _, shard in packed for row in shard])
            for number, shard in packed:
                yield number, table.slice(0, len(shard))
                table = table.slice(len(shard))


def read_shard(journal: Store, name: str, stage: str) -> pa.Table:
    """Return a shard of the stage's journal; raise :class:`PipelineError` where it is gone."""
    table = journal.get(name)
    if table is None:
        raise PipelineError(
            f"{name} of {stage}'s journal is gone: did something else clear .work while this ran? "
            "Run the same command again"
        )
    return table
