"""finetune.start: champion. Training continues from the last champion's adapter, or starts over.

The champion is a folder among the stage's inputs, which ``tasks.tracking.champion_start`` wrote
before the run. It holds the digests of the rows that the champion knows, never their text: an old
row is replayed only if it is still among today's rows, so that nothing of a removed document is
trained on again.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.errors import PipelineError
from tasks.core.files import choose, fingerprint, read_json
from tasks.core.model_params import Finetune
from tasks.core.parquet import read_table
from tasks.core.rows import CHAMPION_FILE, TRAINED, TRAINED_FILE, require
from tasks.lm.adapters import start_adapter

log = logging.getLogger(__name__)
#: Reason of rows that the champion knows and that are not replayed.
KNOWN = "known_to_champion"


@dataclass(frozen=True)
class Beginning:
    """Where a training begins, and with which rows (rows.INSTRUCTIONS)."""

    start: Path | None
    rows: pa.Table
    #: Rows that are left out because the champion knows them.
    known: int = 0
    #: What ``provenance.json`` and ``summary.json`` say of it; empty without a champion.
    facts: dict[str, Any] | None = None

    @property
    def continues(self) -> bool:
        """Tell whether the training continues from a champion."""
        return bool(self.facts and self.facts["continues"])


def begin(table: pa.Table, params: Finetune, folder: Path) -> Beginning:
    """Return how to train on ``table``, starting from ``folder``: an adapter, a champion's folder,
    or a file for a new adapter.
    """
    if not (folder / CHAMPION_FILE).is_file() or not len(table):
        return Beginning(start_adapter(params, folder), table)
    champion = start_adapter(params, folder)
    path = folder / TRAINED_FILE
    trained = require(read_table(path), TRAINED, path)
    known = set(trained["row_sha256"].to_pylist())
    digests = digest_rows(table)
    passages = set(digests["passage_sha256"].to_pylist())
    moved = _measure_move(set(trained["passage_sha256"].to_pylist()), passages)
    names = digests["row_sha256"].to_pylist()
    new = [place for place, name in enumerate(names) if name not in known]
    facts = {**read_json(folder / CHAMPION_FILE), **moved, "new_rows": len(new), "replayed": 0}
    if why := _find_reason(moved, len(new), params):
        log.info("%s: training starts over, from %s", why, params.restart)
        facts |= {"continues": False, "reason": why}
        return Beginning(restart_adapter(params), table, facts=facts)
    old = [place for place, name in enumerate(names) if name in known]
    replayed = _draw_replay(old, names, len(new), params)
    rows = table.take(pa.array(sorted(new + replayed), pa.int64()))
    why = f"{moved['moved_share']:.1%} of the passages are new or gone"
    facts |= {"continues": True, "reason": why, "replayed": len(replayed)}
    log.info(
        "%s: training continues from version %s, with %d new rows and %d old ones",
        why,
        facts["version"],
        len(new),
        len(replayed),
    )
    gone = {row["passage_sha256"] for row in trained.to_pylist() if row["row_sha256"]} - passages
    if gone:
        log.warning(
            "%d passages are gone, and version %s has learned from them, itself or before: an "
            "adapter does not forget (finetune.restart_share: 0 starts over at every change)",
            len(gone),
            facts["version"],
        )
    return Beginning(champion, rows, len(table) - len(rows), facts)


def restart_adapter(params: Finetune) -> Path | None:
    """Return the adapter that a training from nothing starts from; None for a new one."""
    path = Path(params.restart)
    if not path.exists():
        raise PipelineError(f"finetune.restart = {path} does not exist")
    try:
        return start_adapter(params, path)
    except PipelineError as error:
        raise PipelineError(str(error).replace("finetune.start", "finetune.restart")) from error


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


def known_after(table: pa.Table, chosen: pa.Table, folder: Path, continues: bool) -> pa.Table:
    """Return the digests, sorted, of the rows that the new adapter knows: the ``chosen`` ones, and
    where it continues, all that the champion knew, also those that are gone. So it goes on until
    a training starts over. A passage of ``table`` without such a row stands there too, with an
    empty row: it is no new passage in the next run.
    """
    known = digest_rows(chosen).to_pylist()
    if continues:
        path = folder / TRAINED_FILE
        known += require(read_table(path), TRAINED, path).to_pylist()
    pairs = {(row["row_sha256"], row["passage_sha256"]) for row in known if row["row_sha256"]}
    held = {passage for _, passage in pairs}
    passages = set(digest_rows(table)["passage_sha256"].to_pylist())
    pairs |= {("", passage) for passage in passages - held}
    columns = list(zip(*sorted(pairs), strict=True)) or [(), ()]
    return pa.table(dict(zip(TRAINED.names, map(list, columns), strict=True)), TRAINED)


def _measure_move(old: set[str], new: set[str]) -> dict[str, Any]:
    """Return how far the passages of the rows moved: new and gone ones among all of both.

    ``old`` are those of all trainings since the last one that started over.
    """
    moved = Counter(passages_new=len(new - old), passages_gone=len(old - new))
    share = moved.total() / max(1, len(old | new))
    return {**moved, "passages": len(new), "moved_share": round(share, 4)}


def _find_reason(moved: dict[str, Any], new: int, params: Finetune) -> str:
    """Return why training starts over; empty where it continues."""
    if moved["moved_share"] > params.restart_share:
        return (
            f"{moved['moved_share']:.1%} of the passages are new or gone, more than "
            f"finetune.restart_share = {params.restart_share:g}"
        )
    return "" if new else "no row is new since the champion"


def _draw_replay(old: list[int], names: list[str], new: int, params: Finetune) -> list[int]:
    """Return the places of the old rows to replay: ``replay_share`` of the rows trained on.

    The choice depends on the rows' texts and the seed, not on their order.
    """
    wanted = min(len(old), round(new * params.replay_share / (1 - params.replay_share)))
    if not wanted:
        return []
    chosen = choose([names[place] for place in old], wanted, params.seed, "replay")
    return [old[place] for place in chosen.to_pylist()]
