"""Two readers trained on the rows themselves: ``verify.reader: cross-fit``.

The passages are cut into two halves. The rows of each half train a reader, which judges the rows of
the other: neither has seen what it judges (Source2Synth, arXiv 2409.08239). No other model is
needed, and both know the corpus's own terms. An error that both halves make in the same way is not
found.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, row_seed, write_json
from tasks.core.sections.finetune import Finetune
from tasks.core.stage import Stage, format_reasons
from tasks.core.store import is_whole, keyed_folder, seal_folder
from tasks.lm.adapters import start_adapter
from tasks.lm.checkpoints import (
    CHECKPOINTS,
    FINISHED,
    digest_work,
    forget_removed,
    note_passages,
)
from tasks.lm.memory import free
from tasks.lm.pins import pin
from tasks.lm.training_set import TrainingSet, report_steps
from tasks.verify.reader import Reader

log = logging.getLogger(__name__)
#: The folder of the readers that were trained.
_READERS = "cross_fit"
#: Fewest rows of a half: from fewer a reader learns nothing.
_LEAST_ROWS = 8


def half_of(values: dict[str, Any], seed: int) -> int:
    """Return the half (0 or 1) of a row's passage; that of a test row without one depends on its
    id.
    """
    return row_seed(seed, "half", values.get("passage_id") or values["row_id"]) % 2


def fit_readers(
    stage: Stage, read: Callable[[], Iterable[dict[str, Any]]]
) -> tuple[Reader, Reader]:
    """Return the readers of both halves: the first was trained on the rows of the second.

    ``read`` reads the rows that validate kept, each time again. A training that died continues,
    and a finished one is not made again.
    """
    params = stage.params.verify
    assert params.fit is not None  # noqa: S101 - for the type checker: load_params refuses it
    try:
        settings = pin(params.fit)
    except PipelineError as error:
        raise PipelineError(f"verify.fit: {error}") from error
    start = start_adapter(settings, Path(settings.start), "verify.fit.start")
    sizes = Counter(half_of(row, params.seed) for row in read())
    if min(sizes[0], sizes[1]) < _LEAST_ROWS:
        raise PipelineError(
            f"verify.reader cross-fit: the halves have {sizes[0]} and {sizes[1]} rows, "
            f"and a reader needs {_LEAST_ROWS}: generate more, or name another reader"
        )

    forget_readers(stage, (row["context"] for row in read()))

    def fit(half: int) -> Path:
        def read_half() -> Iterable[dict[str, Any]]:
            return (row for row in read() if half_of(row, params.seed) == half)

        return _fit(stage, settings, start, read_half)

    first, second = fit(1), fit(0)
    return _reader(stage, first), _reader(stage, second)


def forget_readers(stage: Stage, texts: Iterable[str]) -> None:
    """Remove the readers that learned from a passage that is not among ``texts``.

    A run with another reader has to call it too: it trains none, and would keep them.
    """
    forget_removed(stage.work / _READERS, digest_work(stage.params), _digest(texts))


def _digest(texts: Iterable[str]) -> pa.Array:
    return pa.array(sorted(set(map(fingerprint, texts))), pa.string())


def _reader(stage: Stage, folder: Path) -> Reader:
    return Reader.of(stage.params.verify.model_copy(update={"reader": str(folder)}))


def _fit(
    stage: Stage,
    settings: Finetune,
    start: Path | None,
    read: Callable[[], Iterable[dict[str, Any]]],
) -> Path:
    """Return the folder of the adapter that is trained on these rows."""
    training = TrainingSet.of(read, settings, start)
    if not training.examples:
        raise PipelineError(
            "verify.reader cross-fit: no row of a half can be trained on "
            f"({format_reasons(training.dropped)}): raise verify.fit.max_response_tokens"
        )
    folder = keyed_folder(stage.work / _READERS, training.key, keep=4)
    adapter = folder / "adapter"
    if is_whole(adapter):
        (folder / FINISHED).touch()  # a kill may have come before it
        return adapter
    note_passages(folder, digest_work(stage.params), _digest(row["context"] for row in read()))
    on_step = report_steps(stage.progress(0, "steps"))
    take_cards()
    checkpoints = folder / CHECKPOINTS
    trained = training.train(adapter, checkpoints, on_step)
    free(None)  # the next training, or the engine, needs the memory
    write_json(adapter / "provenance.json", training.provenance(trained))
    seal_folder(adapter)
    shutil.rmtree(checkpoints)
    (folder / FINISHED).touch()
    log.info("a reader is trained on %d rows of one half", len(training.examples))
    return adapter
