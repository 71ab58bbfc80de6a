"""finetune: adapt the target model to the supervision rows by Q-LoRA (arXiv 2305.14314).

The settings follow arXiv 2402.18334. Instruction rows in, an adapter out; ``provenance.json``
beside the adapter holds all that is needed to identify it and to make it again.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import (
    choose,
    fingerprint,
    sha256_file,
    write_json,
    write_text,
)
from tasks.core.parquet import Batches, column_values, concat, rows_at, take_rows, write_table
from tasks.core.process import rank
from tasks.core.rows import INSTRUCTIONS, TRAINED, TRAINED_FILE
from tasks.core.sections.finetune import Finetune
from tasks.core.stage import Stage, format_reasons, run_stage
from tasks.finetune.continuation import KNOWN, begin, digest_rows, known_after
from tasks.lm.checkpoints import (
    CHECKPOINTS,
    checkpoints_of,
    digest_work,
    forget_removed,
    note_passages,
)
from tasks.lm.examples import name_cut
from tasks.lm.pins import pin
from tasks.lm.preflight import check_run
from tasks.lm.training import Trained
from tasks.lm.training_set import TrainingSet, report_steps
from tasks.tracking.training_run import open_training_run

log = logging.getLogger(__name__)


def finetune(stage: Stage) -> None:
    """Write the adapter (``adapter_model.safetensors``, ``adapter_config.json``),
    ``provenance.json``, ``loss.csv``, ``trained.parquet`` (rows.TRAINED) and ``summary.json``.

    With ``supervise.source`` none there is no adapter: provenance.json says so, and what a training
    would have started from is scored: ``finetune.start``, else the unadapted model.
    """
    params, source = pin(stage.params.finetune), stage.params.supervise.source
    path = stage.path("instructions")
    rows = Batches(path, INSTRUCTIONS)
    digests = concat(map(digest_rows, rows), TRAINED)
    if rank() == 0:
        forget_removed(stage.work / CHECKPOINTS, digest_work(stage.params), passages_of(digests))
    beginning = begin(digests, params, stage.path("start"))
    chosen = choose_rows(path, beginning.places, params)
    training = TrainingSet.of(lambda: rows_at(rows, chosen), params, beginning.start)
    if source == "none":
        return _write_no_adapter(stage, training, path)
    if not training.examples:
        raise PipelineError(
            f"no row of {path} can be trained on ({format_reasons(training.dropped)}): look at "
            "artifacts/supervise, or raise finetune.max_response_tokens"
        )
    trained = _train(stage, training, passages_of(digests.take(chosen)))
    write_text(stage.out / "loss.csv", trained.csv())
    champion = {"champion": beginning.facts} if beginning.facts else {}
    # A row that is left out for its form counts as known, else it would be new in every run.
    seen = np.delete(chosen, training.rows_left_over(trained.steps))
    known = known_after(digests, seen, stage.path("start"), beginning.continues)
    write_table(stage.out / TRAINED_FILE, known)
    facts = training.provenance(trained)
    told = {"supervision": source, "instructions_sha256": sha256_file(path), **champion}
    dropped = training.left_out(trained.steps)
    dropped[name_cut(params)] += len(beginning.places) - len(chosen)
    dropped[KNOWN] = beginning.known
    write_json(stage.out / "provenance.json", facts | told)
    stage.summary(
        len(digests),
        len(digests) - dropped.total(),
        dict(dropped),
        steps=trained.steps,
        response_tokens=trained.tokens,
        tokens=facts["tokens"],
        shortened=training.built.shortened,
        **champion,
    )


def choose_rows(path: Path, places: np.ndarray, params: Finetune) -> np.ndarray:
    """Return the places of the rows to make examples of: all of ``places``, or a seeded choice of
    twice as many as the batches of ``max_steps`` hold, since some may be too long.

    A million rows would be tokenised and held in memory for nothing.
    """
    if params.max_tokens or not params.max_steps:
        return places
    needed = params.max_steps * params.batch_rows / min(1.0, params.epochs)
    most = 2 * math.ceil(needed)
    if len(places) <= most:
        return places
    ids = take_rows(Batches(path, pa.schema([INSTRUCTIONS.field("row_id")])), places)
    keys = column_values(ids, "row_id")
    return np.asarray(places[choose(keys, most, params.seed, "finetune").to_numpy()])


def _write_no_adapter(stage: Stage, training: TrainingSet, path: Path) -> None:
    trained = Trained([], 0, 0)
    write_text(stage.out / "loss.csv", trained.csv())
    settings = training.params.model_dump(mode="json")
    told = {
        "supervision": "none",
        "instructions_sha256": sha256_file(path),
        "adapter": False,
        "key": fingerprint("none", settings, training.start_sha256),
    }
    write_json(stage.out / "provenance.json", training.provenance(trained) | told)
    stage.summary(0, 0, steps=0, response_tokens=0, tokens=0)


def passages_of(digests: pa.Table) -> pa.Array:
    """Return the digests of the rows' passages, each once."""
    return pc.unique(digests["passage_sha256"])


def _train(stage: Stage, training: TrainingSet, passages: pa.Array) -> Trained:
    """Train in the checkpoint folder of this key; MLflow and the progress file show the loss.

    ``passages`` are digests of those that the rows are about.
    """
    take_cards()
    kept = training.params.checkpoints_gb
    with checkpoints_of(stage.work, training.key, kept, stage.afterwards) as checkpoints:
        if rank() > 0:
            return training.train(stage.out, checkpoints)
        note_passages(checkpoints, digest_work(stage.params), passages)
        # As register logs them: MLflow keeps the first value.
        asked = stage.params.finetune.model_dump(mode="json")
        asked["revision"] = training.params.revision
        with open_training_run(stage.params.register.experiment, training.key, asked) as run:
            tell = report_steps(stage.progress(0, "steps"))

            def on_step(step: int, last: int, loss: float) -> None:
                tell(step, last, loss)
                run.metric("train_loss", loss, step)

            return training.train(stage.out, checkpoints, on_step)


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage(
        "finetune",
        finetune,
        ("instructions",),
        argv,
        settings={"start": "finetune.start"},
        check=check_run,
    )
