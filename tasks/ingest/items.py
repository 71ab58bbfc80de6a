"""The labelled items that the corpus is compared with."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.stage import Stage
from tasks.ingest.cleaning import Leaks
from tasks.scoring.datasets import (
    Item,
    asked_columns,
    find_misplaced,
    find_missing_labels,
    has_items,
    load_dataset,
    load_items,
)

log = logging.getLogger(__name__)


def read_items(stage: Stage) -> tuple[list[Item], Leaks]:
    """Return the labelled items and what finds them in the corpus. They are read as evaluate reads
    them, so that a bad item is an error before any work is done.
    """
    if "items" in stage.inputs and has_items(stage.path("items")):
        dataset = load_dataset(Path(stage.params.evaluate.dataset))
        items = load_items(dataset, stage.path("items"))
        if misplaced := find_misplaced(dataset, items):
            log.warning(
                "%d of %d items have no answer that is in their passage: %s",
                len(misplaced),
                len(items),
                ", ".join(misplaced[:5]) + (" ..." if len(misplaced) > 5 else ""),
            )
        if missing := find_missing_labels(dataset, items):
            log.warning("no item has the label %s of %s", ", ".join(missing), dataset.name)
        columns = asked_columns(dataset)
        return items, Leaks(
            (item.id, _longest_text(item, columns), item.context, item.golds) for item in items
        )
    if stage.params.ingest.drop_evaluation_overlap:
        raise PipelineError(
            "ingest.drop_evaluation_overlap is set, and there are no items to compare "
            "with: name them with --items"
        )
    return [], Leaks([])


def _longest_text(item: Item, columns: Iterable[str]) -> str:
    """Return what tells an item from others: the longest text beside its passage."""
    values = (item.columns.get(name) for name in columns)
    return max((value for value in values if isinstance(value, str)), key=len, default="")
