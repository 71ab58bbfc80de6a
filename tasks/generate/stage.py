"""generate: Bonito, or a chat model with prompts, over passages x task types.

Passages in, predictions out; each prediction is kept, parsable or not. Rows go through the engine
in shards, and a finished shard is a Parquet file in the journal: a killed run keeps its finished
shards, and a run over a changed corpus those of what has not changed. Shards of texts that are no
longer in the corpus are removed. Passages and rows are streamed in batches: of the corpus only the
shards' names are in memory.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.params import Params
from tasks.core.parquet import Batches, passage_texts, write_batches
from tasks.core.progress import Progress
from tasks.core.rows import PASSAGES, PREDICTIONS
from tasks.core.sections.generate import Generate
from tasks.core.stage import Stage, run_stage
from tasks.core.store import Store, keep_only, work_key
from tasks.generate.plan import Request, Shard, count_planned, cut_shards
from tasks.generate.prompted import read_prompts
from tasks.generate.report import PredictionTally
from tasks.generate.shards import (
    BonitoForm,
    Generator,
    GeneratorForm,
    ShardGenerator,
    bound_prompts,
    identify_generator,
    load_weights,
    need_generator_engine,
)
from tasks.lm.models import pinned
from tasks.lm.pins import arithmetic
from tasks.lm.preflight import check_run
from tasks.lm.shards import do_shards, read_shard

log = logging.getLogger(__name__)
#: Settings that say where rows are generated, and which passages they are of, but not what they
#: are: they are no part of a journal's key. A shard's name has its passages' texts.
_WHERE = {"workers", "ray_address", "gpu_memory_utilization", "max_passages"}
#: Columns that say where a passage lies: the journal's shards do without.
_PLACE = ["row_id", "passage_id", "document"]


def generate(stage: Stage) -> None:
    """Write ``predictions.parquet`` (rows.PREDICTIONS), ``samples.md`` and ``summary.json``."""
    params, mix = stage.params.generate, stage.params.supervise.mix
    passages = Batches(stage.path("passages"), PASSAGES)
    (stage.work / "sample.json").unlink(missing_ok=True)
    if not mix.generator:
        log.info("supervise.source is %s: there is nothing to generate", mix)
        # What other settings made goes all the same, where its passages are gone.
        keep_only(stage.work / "journal", (), lambda: passage_texts(passages.path))
        return _write_predictions(stage, (), "")
    total = count_planned(len(passages), params)
    if not total:
        raise PipelineError(
            "there are no passages to generate from: look at artifacts/ingest/rejects.parquet"
        )
    generator = _describe_generator(stage.params)
    journal = Store(stage.work / "journal", _journal_key(generator), keep=3)
    _fill_journal(stage, journal, passages, generator, stage.progress(total, "rows"))
    shards = cut_shards(passages, generator.params)
    read = (_read_shard(journal, shard, generator.params) for shard in shards)
    _write_predictions(stage, read, generator.identity)


def _describe_generator(params: Params) -> Generator:
    settings = params.generate
    form: GeneratorForm = BonitoForm()
    if params.supervise.mix.generator == "prompted":
        prompts = Path(params.supervise.prompts)
        form = read_prompts(prompts, settings.task_types, params.validate.labels)
    if not settings.address:  # one commit for all workers, and for a run that continues
        revision = pinned(settings.generator, settings.revision)
        settings = settings.model_copy(update={"revision": revision})
    return Generator(settings, form, identify_generator(settings))


def _journal_key(generator: Generator) -> str:
    """Return the key of what makes the rows; the passages are in the names of the shards."""
    settings = generator.params.model_dump(mode="json", exclude=_WHERE)
    here = {} if generator.params.address else arithmetic(generator.params.precision)
    return work_key(__name__, settings, generator.identity, generator.form.identity, here)


def _fill_journal(
    stage: Stage, journal: Store, passages: Batches, generator: Generator, progress: Progress
) -> None:
    """Generate the shards that the journal lacks; a row of each is shown."""
    params = generator.params
    rows = Counter[str]()  # a shard that occurs twice is generated once
    for shard in cut_shards(passages, params):
        rows[shard.name] += len(shard.passages) * len(params.task_types) * params.samples
    keep_only(stage.work / "journal", rows, lambda: passage_texts(passages.path))
    names = [name for name in rows if not journal.has(name)]
    progress.skip(rows.total() - sum(rows[name] for name in names))
    if progress.skipped:
        log.info("%d rows are already in the journal", progress.skipped)
    if not names:
        return
    longest = bound_prompts(generator, passages)
    _get_ready(params)
    # The meter stays in this process: workers have none.
    opened = (generator, longest) if params.workers else (generator, longest, progress.foresee)
    work = _cut_missing(passages, names, params)
    parsed: Counter[bool] = Counter()
    tokens, started = 0, time.monotonic()
    for number, table in do_shards("generate", ShardGenerator, opened, work, len(names), params):
        journal.put(names[number], table.drop_columns(_PLACE), table.column("context").to_pylist())
        parsed.update(table.column("parsed").to_pylist())
        tokens += sum(table.column("output_tokens").to_pylist())
        progress.advance(
            rows[names[number]],
            tokens_per_second=round(tokens / (time.monotonic() - started), 1),
            parse_yield=round(parsed[True] / parsed.total(), 3),
        )
        (sample,) = table.slice(len(table) // 2, 1).to_pylist()
        _show_sample(stage.work / "sample.json", sample, progress.done)


def _get_ready(params: Generate) -> None:
    """Take the GPU. For workers, merge the weights: once, not by each of them at the same time."""
    if not params.address:
        take_cards()
    if params.workers:
        if not params.ray_address:  # else other machines have the cards
            need_generator_engine(params)
        load_weights(params)


def _cut_missing(
    passages: Iterable[pa.Table], names: list[str], params: Generate
) -> Iterator[tuple[int, list[Request]]]:
    """Yield the rows of each shard in ``names``, once, with its number there."""
    numbers = {name: number for number, name in enumerate(names)}
    for shard in cut_shards(passages, params):
        number = numbers.pop(shard.name, None)
        if number is not None:
            yield number, shard.requests(params)


def _show_sample(path: Path, sample: dict[str, Any], rows: int) -> None:
    """Log a prediction and leave it in the work folder, for whoever watches the run."""
    fields = {name: sample[name] for name in ("task_type", "context", "prediction", "parsed")}
    write_json(path, fields | {"rows": rows})  # before the line: make plan reads it then
    log.info("sample %s: %s", sample["row_id"], " ".join(str(sample["prediction"]).split())[:200])


def _read_shard(journal: Store, shard: Shard, params: Generate) -> pa.Table:
    """Return a shard's rows, with the places that their passages have in this corpus."""
    table = read_shard(journal, shard.name, "generate")
    requests = shard.requests(params)
    places = {
        "row_id": [request.row_id for request in requests],
        "passage_id": [request.passage["passage_id"] for request in requests],
        "document": [request.passage["document"] for request in requests],
    }
    for name in _PLACE:
        table = table.append_column(PREDICTIONS.field(name), pa.array(places[name], pa.string()))
    return table.select(PREDICTIONS.names)


def _write_predictions(stage: Stage, shards: Iterable[pa.Table], generator: str) -> None:
    """Write the shards as one file, and count their rows on the way."""
    tally = PredictionTally()
    write_batches(
        stage.out / "predictions.parquet", (tally.count(shard) for shard in shards), PREDICTIONS
    )
    tally.summarise(stage, generator)


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage("generate", generate, ("passages",), argv, check=check_run)
