"""Answers in pieces: a model is opened once, and every piece is kept as soon as it is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.parquet import concat
from tasks.core.progress import Progress
from tasks.core.rows import EVALUATIONS
from tasks.core.store import Store
from tasks.lm.engine import OnDone

#: Questions that are answered and kept together: the most that a kill loses. The answers of a piece
#: depend on its own questions alone, as an engine's low bits depend on what it is asked together.
PIECE = 256
#: Makes a progress meter for a total and a unit, as ``Stage.progress`` does.
Meter = Callable[[int, str], Progress]
#: Answers the questions of a slice, one row (rows.EVALUATIONS) each.
Answers = Callable[[slice], Iterable[dict[str, Any]]]
#: Opens a model; it reports the questions that it has answered.
Opened = Callable[[OnDone], AbstractContextManager[Answers]]


def keep_answers(
    journal: Path,
    key: str,
    count: int,
    opened: Opened,
    meter: Meter,
    unit: str,
    others: Path | None = None,
    texts: Sequence[str] = (),
) -> pa.Table:
    """Return the rows of ``count`` questions; what a killed run answered is not asked again.

    Nor is what ``others``, the journal of another stage, has: it is copied. ``texts`` are those
    that the questions are about, one each (:func:`tasks.core.store.keep_only`).
    """
    store = Store(journal, key, keep=6)
    parts = [slice(start, min(start + PIECE, count)) for start in range(0, count, PIECE)]
    pieces = {f"answers-{part.start}-{part.stop}": part for part in parts}
    todo = {piece: part for piece, part in pieces.items() if not store.has(piece)}
    if others:
        found = Store(others, key)
        for piece in [piece for piece in todo if found.has(piece)]:
            store.put(piece, found.get(piece), texts[todo.pop(piece)])
    if todo:
        progress = meter(count, unit)
        progress.skip(count - sum(part.stop - part.start for part in todo.values()))
        with opened(progress.advance) as answers:
            for piece, part in todo.items():
                table = pa.Table.from_pylist(list(answers(part)), schema=EVALUATIONS)
                store.put(piece, table, texts[part])
    return concat((store.get(piece) for piece in pieces), EVALUATIONS)
