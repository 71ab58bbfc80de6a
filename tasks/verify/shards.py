"""Shards of rows, done in this process one after the other or by Ray workers in any order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
import torch

from tasks.core.card import give_cards_back
from tasks.core.groups import pack
from tasks.core.ray_cluster import Workers
from tasks.core.ray_workers import spread
from tasks.core.sections.verify import Verify
from tasks.lm.memory import freed_after


class ShardWorker(Protocol):
    """A model that is open, and what it says of a shard."""

    def __init__(self, *arguments: Any) -> None: ...

    def __call__(self, shard: Any) -> pa.Table:
        """Return a row for each of the shard's."""
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


def do_shards(
    worker: type[ShardWorker],
    arguments: tuple[Any, ...],
    shards: Iterable[tuple[int, Sequence[Any]]],
    count: int,
    params: Verify,
) -> Iterator[tuple[int, pa.Table]]:
    """Yield number and result of each of ``count`` shards: in order in this process, in any order
    with ``params.workers``. ``arguments`` open the worker. On a GPU, and behind an address, small
    shards are done together (see stage generate).
    """
    if not params.workers:
        together = bool(params.address) or torch.cuda.is_available()
        with freed_after(worker(*arguments)) as do:
            for packed in pack(shards, params.shard_rows if together else 1):
                table = do([row for _, shard in packed for row in shard])
                for number, shard in packed:
                    yield number, table.slice(0, len(shard))
                    table = table.slice(len(shard))
        return
    give_cards_back()  # the workers take them
    yield from spread(
        f"{worker.__module__}:{worker.__name__}",
        arguments,
        shards,
        Workers("verify", min(params.workers, count), params.ray_address, torch.get_num_threads()),
    )
