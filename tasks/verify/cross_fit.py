"""Two readers that the rows themselves teach: ``verify.reader: cross-fit``.

The passages are cut into two halves. The rows of each half train a reader, which judges the rows of
the other: none has seen what it judges (Source2Synth, arXiv 2409.08239). No other model is needed,
and none knows the corpus' own terms better. What both halves get wrong in the same way is kept.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.core.card import take_cards
from tasks.core.data_params import CROSS_FIT
from tasks.core.errors import PipelineError
from tasks.core.files import row_seed, sha256_folder, write_json
from tasks.core.model_params import Finetune
from tasks.core.stage import Stage
from tasks.core.store import is_whole, keyed_folder, seal_folder
from tasks.lm.adapters import start_adapter
from tasks.lm.examples import build_examples
from tasks.lm.memory import free
from tasks.lm.models import load_tokenizer
from tasks.lm.pins import pin
from tasks.lm.prompts import Prompter, choose_form
from tasks.lm.training import train, training_key
from tasks.verify.reader import Reader

log = logging.getLogger(__name__)
#: Fewer rows teach a reader nothing.
_LEAST_ROWS = 8


def half_of(values: dict[str, Any], seed: int) -> int:
    """Return the half (0 or 1) of a row's passage; a test row without one has its own."""
    return row_seed(seed, "half", values.get("passage_id") or values["row_id"]) % 2


def fit_readers(stage: Stage, rows: Iterable[dict[str, Any]]) -> tuple[Reader, Reader]:
    """Return the readers of both halves: the first was trained on the rows of the second.

    ``rows`` are those that validate kept. A training that died goes on, and a finished one is not
    made again.
    """
    params = stage.params.verify
    if params.fit is None or params.address:
        raise PipelineError(
            f"verify.reader {CROSS_FIT} trains its readers here: give verify.fit, a section as "
            "finetune, and no verify.address (docs/verify.md)"
        )
    try:
        settings = pin(params.fit)
        start = start_adapter(settings, Path(settings.start))
    except PipelineError as error:
        raise PipelineError(f"verify.fit: {error}") from error
    halves: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for row in rows:
        halves[half_of(row, params.seed)].append(row)
    if min(map(len, halves)) < _LEAST_ROWS:
        raise PipelineError(
            f"verify.reader cross-fit: the halves have {len(halves[0])} and {len(halves[1])} rows, "
            f"and a reader needs {_LEAST_ROWS}: generate more, or name another reader"
        )
    first, second = (_fit(stage, settings, start, half) for half in reversed(halves))
    return _reader(stage, first), _reader(stage, second)


def _reader(stage: Stage, folder: Path) -> Reader:
    return Reader.of(stage.params.verify.model_copy(update={"reader": str(folder)}))


def _fit(stage: Stage, settings: Finetune, start: Path | None, rows: list[dict[str, Any]]) -> Path:
    """Return the folder of the adapter that these rows teach."""
    tokenizer = load_tokenizer(settings.model, settings.revision)
    prompter = Prompter(tokenizer, choose_form(tokenizer, settings, rows, start))
    examples, dropped = build_examples(rows, prompter, settings)
    if not examples:
        raise PipelineError(
            f"verify.reader cross-fit: no row of a half can be trained on ({dict(dropped)}): "
            "raise verify.fit.max_response_tokens"
        )
    key = training_key(settings, examples, sha256_folder(start) if start else "")
    folder = keyed_folder(stage.work / "cross_fit", key, keep=4)
    adapter = folder / "adapter"
    if is_whole(adapter):
        return adapter
    progress = stage.progress(0, "steps")

    def on_step(step: int, last: int, loss: float) -> None:
        progress.step(step, last, loss=round(loss, 4))

    take_cards()
    checkpoints = folder / "checkpoints"
    train(examples, settings, tokenizer.pad_token_id, adapter, checkpoints, on_step, start)
    free(None)  # the next training, or the engine, needs the room
    facts = {
        "base": settings.model,
        "revision": settings.revision,
        "quantization": settings.quantization,
        "precision": settings.precision,
        "prompt": prompter.form,
        "rows": len(examples),
        "key": key,
        "settings": settings.model_dump(mode="json"),
    }
    write_json(adapter / "provenance.json", facts)
    seal_folder(adapter)
    shutil.rmtree(checkpoints)
    log.info("a reader is trained on %d rows of one half", len(examples))
    return adapter
