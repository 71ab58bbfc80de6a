"""finetune.start: champion. Training continues from the last champion's adapter, or starts over.

The champion is a folder among the stage's inputs, which ``tasks.tracking.champion_start`` wrote
before the run. It holds the digests of the rows that the champion knows, never their text: an old
row is replayed only if it is still among today's rows, so that nothing of a removed document is
trained on again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.files import choose, fingerprint, read_json
from tasks.core.parquet import GROUP, column_values, read_table
from tasks.core.rows import CHAMPION_FILE, TRAINED, TRAINED_FILE, require
from tasks.core.sections.finetune import Finetune
from tasks.lm.adapters import start_adapter

log = logging.getLogger(__name__)
#: Reason of rows that the champion knows and that are not replayed.
KNOWN = "known_to_champion"


@dataclass(frozen=True)
class Beginning:
    """Where a training begins, and with which rows: their places in the file, ascending."""

    start: Path | None
    places: np.ndarray
    #: Rows that are left out because the champion knows them.
    known: int = 0
    #: What ``provenance.json`` and ``summary.json`` say of it; empty without a champion.
    facts: dict[str, Any] | None = None

    @property
    def continues(self) -> bool:
        """Tell whether the training continues from a champion."""
        return bool(self.facts and self.facts["continues"])


def begin(digests: pa.Table, params: Finetune, folder: Path) -> Beginning:
    """Return how to train on the rows of these digests (rows.TRAINED), starting from ``folder``: an
    adapter, a champion's folder, or a file for a new adapter.
    """
    every = np.arange(len(digests))
    if not (folder / CHAMPION_FILE).is_file() or not len(digests):
        return Beginning(start_adapter(params, folder), every)
    champion = start_adapter(params, folder)
    trained = _read_trained(folder)
    moved = _measure_move(trained["passage_sha256"], digests["passage_sha256"])
    is_known = _is_in(digests["row_sha256"], trained["row_sha256"])
    new = np.flatnonzero(~is_known)
    facts = {**read_json(folder / CHAMPION_FILE), **moved, "new_rows": len(new), "replayed": 0}
    if why := _find_reason(moved, len(new), params):
        log.info("%s: training starts over, from %s", why, params.restart)
        facts |= {"continues": False, "reason": why}
        restart = start_adapter(params, Path(params.restart), "finetune.restart")
        return Beginning(restart, every, facts=facts)
    replayed = _draw_replay(np.flatnonzero(is_known), digests, len(new), params)
    places = np.sort(np.concatenate([new, replayed]))
    why = f"{moved['moved_share']:.1%} of the passages are new or gone"
    facts |= {"continues": True, "reason": why, "replayed": len(replayed)}
    log.info(
        "%s: training continues from version %s, with %d new rows and %d old ones",
        why,
        facts["version"],
        len(new),
        len(replayed),
    )
    learned = pc.unique(_real_rows(trained)["passage_sha256"])
    gone = len(learned) - int(_is_in(learned, digests["passage_sha256"]).sum())
    if gone:
        log.warning(
            "%d passages are gone, and version %s has learned from them, itself or before: an "
            "adapter does not forget (finetune.restart_share: 0 starts over at every change)",
            gone,
            facts["version"],
        )
    return Beginning(champion, places, len(digests) - len(places), facts)


def digest_rows(table: pa.Table) -> pa.Table:
    """Return the digests (rows.TRAINED) of rows.INSTRUCTIONS, row by row.

    They depend on texts alone, not on a document's name or a passage's place.
    """
    rows = table.select(["task_type", "context", "instruction", "response"]).to_pylist()
    columns = {
        "row_sha256": [fingerprint(*row.values()) for row in rows],
        "passage_sha256": [fingerprint(row["context"]) for row in rows],
    }
    return pa.table(columns, TRAINED)


def known_after(digests: pa.Table, chosen: np.ndarray, folder: Path, continues: bool) -> pa.Table:
    """Return the digests (rows.TRAINED) of the rows that the new adapter knows, sorted.

    It knows the ``chosen`` rows (their places in ``digests``). If it ``continues``, it also knows
    all rows that the champion in ``folder`` knew, even those that are gone from the corpus: an
    adapter does not forget. The list grows with every training, until one starts over. The next run
    finds its new rows by it.

    A passage of this run may have no row in the list. It gets an entry with an empty row digest, so
    that the next run does not count it as a new passage.
    """
    known = digests.take(chosen)
    if continues:
        known = pa.concat_tables([known, _real_rows(_read_trained(folder))])
    is_held = _is_in(digests["passage_sha256"], known["passage_sha256"])
    others = pc.unique(digests["passage_sha256"].filter(pa.array(~is_held)))
    empty = pa.table([pa.repeat("", len(others)), others], TRAINED)
    pairs = pa.concat_tables([known, empty]).group_by(TRAINED.names).aggregate([])
    return pairs.sort_by([(name, "ascending") for name in TRAINED.names]).select(TRAINED.names)


def _read_trained(folder: Path) -> pa.Table:
    path = folder / TRAINED_FILE
    return require(read_table(path), TRAINED, path)


def _real_rows(trained: pa.Table) -> pa.Table:
    """Return what was trained on: without the passages that have an empty row."""
    return trained.filter(pc.not_equal(trained["row_sha256"], ""))


def _is_in(values: pa.Array | pa.ChunkedArray, others: pa.ChunkedArray) -> np.ndarray:
    found = pc.is_in(values, value_set=others.combine_chunks())
    return np.asarray(found.to_numpy(zero_copy_only=False), bool)


def _measure_move(before: pa.ChunkedArray, today: pa.ChunkedArray) -> dict[str, Any]:
    """Return how far the passages of the rows moved: new and gone ones among all of both.

    Those ``before`` are of all trainings since the last one that started over.
    """
    old, new = (pa.chunked_array([pc.unique(passages)]) for passages in (before, today))
    both = int(_is_in(new, old).sum())
    moved = {"passages_new": len(new) - both, "passages_gone": len(old) - both}
    share = sum(moved.values()) / max(1, len(old) + len(new) - both)
    return {**moved, "passages": len(new), "moved_share": round(share, 4)}


def _find_reason(moved: dict[str, Any], new: int, params: Finetune) -> str:
    """Return why training starts over; empty where it continues."""
    if moved["moved_share"] > params.restart_share:
        return (
            f"{moved['moved_share']:.1%} of the passages are new or gone, more than "
            f"finetune.restart_share = {params.restart_share:g}"
        )
    return "" if new else "no row is new since the champion"


def _draw_replay(old: np.ndarray, digests: pa.Table, new: int, params: Finetune) -> np.ndarray:
    """Return the places of the ``old`` rows to replay: ``replay_share`` of the rows trained on.

    The choice depends on the rows' texts and the seed, not on their order.
    """
    wanted = min(len(old), round(new * params.replay_share / (1 - params.replay_share)))
    if not wanted:
        return old[:0]
    names = column_values(digests.take(old).to_batches(GROUP), "row_sha256")
    return np.asarray(old[choose(names, wanted, params.seed, "replay").to_numpy()])
