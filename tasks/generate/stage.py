"""generate: Bonito, or a chat model with prompts, over passages x task types.

Passages in, predictions out; each prediction is kept, parsable or not. Rows go through the engine
in shards, and a finished shard is a Parquet file in the journal: a killed run keeps its finished
shards. Passages and rows are streamed in batches: memory does not grow with the corpus.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from tasks.core.card import give_cards_back, take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.params import Params
from tasks.core.parquet import Batches, write_batches
from tasks.core.progress import Progress
from tasks.core.ray_workers import spread
from tasks.core.rows import PASSAGES, PREDICTIONS
from tasks.core.stage import Stage, run_stage
from tasks.core.store import Store, work_key
from tasks.generate.plan import Request, count_planned, cut_shards, digest_passages
from tasks.generate.prompted import read_prompts
from tasks.generate.report import PredictionTally
from tasks.generate.shards import (
    BonitoForm,
    Generator,
    GeneratorForm,
    generate_shard,
    identify_generator,
    load_weights,
    measure_longest_prompt,
    open_shard_engine,
)
from tasks.lm.memory import freed_after
from tasks.lm.models import pinned

log = logging.getLogger(__name__)
#: Settings that say where rows are generated, not which: they are no part of a journal's key.
_WHERE = {"workers", "ray_address"}


def generate(stage: Stage) -> None:
    """Write ``predictions.parquet`` (rows.PREDICTIONS), ``samples.md`` and ``summary.json``."""
    params, mix = stage.params.generate, stage.params.supervise.mix
    if not mix.generator:
        log.info("supervise.source is %s: there is nothing to generate", mix)
        return _write_predictions(stage, ())
    passages = Batches(stage.path("passages"), PASSAGES)
    total = count_planned(len(passages), params)
    if not total:
        raise PipelineError(
            "there are no passages to generate from: look at artifacts/ingest/rejects.parquet"
        )
    generator = _describe_generator(stage.params)
    shards = -(-total // params.shard_rows)
    journal = Store(stage.work / "journal", _journal_key(generator, passages), keep=3)
    for sample, rows in _fill_journal(
        journal, shards, passages, generator, stage.progress(total, "rows")
    ):
        _show_sample(stage.work / "sample.json", sample, rows)
    _write_predictions(stage, (_read_shard(journal, number) for number in range(shards)))


def _describe_generator(params: Params) -> Generator:
    settings = params.generate
    form: GeneratorForm = BonitoForm()
    if params.supervise.mix.generator == "prompted":
        prompts = Path(params.supervise.prompts)
        form = read_prompts(prompts, settings.task_types, params.validate.labels)
    elif settings.address:
        raise PipelineError(
            "generate.address serves chat models: it goes with supervise.source prompted"
        )
    if settings.address and settings.workers:
        raise PipelineError(
            "generate.workers open the generator themselves, generate.address has it "
            "opened already: set one of the two"
        )
    if not settings.address:  # one commit for all workers, and for a run that continues
        revision = pinned(settings.generator, settings.revision)
        settings = settings.model_copy(update={"revision": revision})
    return Generator(settings, form, identify_generator(settings))


def _journal_key(generator: Generator, passages: Iterable[pa.Table]) -> str:
    settings = generator.params.model_dump(mode="json", exclude=_WHERE)
    digest = digest_passages(passages)
    return work_key(__name__, settings, generator.identity, generator.form.identity, digest)


def _fill_journal(
    journal: Store,
    shards: int,
    passages: Iterable[pa.Table],
    generator: Generator,
    progress: Progress,
) -> Iterator[tuple[dict[str, Any], int]]:
    """Generate the shards that the journal lacks; yield (a sample row, rows so far) after each."""
    todo = {number for number in range(shards) if not journal.has(_shard_name(number))}
    _skip_finished(progress, set(range(shards)) - todo, generator.params.shard_rows)
    if not todo:
        return
    longest = measure_longest_prompt(generator, passages)
    work = cut_shards(passages, shards, todo, generator.params)
    parsed: Counter[bool] = Counter()
    tokens, started = 0, time.monotonic()
    for number, table in _generate_shards(work, len(todo), generator, longest):
        journal.put(_shard_name(number), table)
        parsed.update(table.column("parsed").to_pylist())
        tokens += sum(table.column("output_tokens").to_pylist())
        progress.advance(
            len(table),
            tokens_per_second=round(tokens / (time.monotonic() - started), 1),
            parse_yield=round(parsed[True] / parsed.total(), 3),
        )
        yield table.slice(len(table) // 2, 1).to_pylist()[0], progress.done


def _skip_finished(progress: Progress, finished: set[int], shard_rows: int) -> None:
    # Every shard but the last is full.
    progress.skip(sum(min(shard_rows, progress.total - number * shard_rows) for number in finished))
    if progress.skipped:
        log.info("%d rows are already in the journal", progress.skipped)


def _generate_shards(
    shards: Iterator[tuple[int, list[Request]]], count: int, generator: Generator, longest: int
) -> Iterator[tuple[int, pa.Table]]:
    """Yield number and rows of every shard: in order in this process, in any order with
    ``workers``.
    """
    params = generator.params
    if not params.address:
        take_cards()
    if not params.workers:
        tokenizer = generator.load_tokenizer()
        with freed_after(open_shard_engine(generator, longest)) as engine:
            log.info("the generator is loaded, rows come %d at a time", params.shard_rows)
            for number, shard in shards:
                yield number, generate_shard(shard, engine, tokenizer, generator)
        return
    load_weights(params)  # merged once, not by every worker at the same time
    give_cards_back()
    yield from spread(
        "tasks.generate.shards:shard_worker",
        (generator, longest),
        shards,
        min(params.workers, count),
        params.ray_address,
        # As many threads as this process would use: sums over other threads may round otherwise.
        torch.get_num_threads(),
    )


def _show_sample(path: Path, sample: dict[str, Any], rows: int) -> None:
    """Log a prediction and leave it in the work folder, for whoever watches the run."""
    log.info("sample %s: %s", sample["row_id"], " ".join(str(sample["prediction"]).split())[:200])
    fields = {name: sample[name] for name in ("task_type", "context", "prediction", "parsed")}
    write_json(path, fields | {"rows": rows})


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}"


def _read_shard(journal: Store, number: int) -> pa.Table:
    shard = journal.get(_shard_name(number))
    if shard is None:
        raise PipelineError(
            f"{_shard_name(number)} of generate's journal is gone: did something else clear .work "
            "while this ran? Run the same command again"
        )
    return shard


def _write_predictions(stage: Stage, shards: Iterable[pa.Table]) -> None:
    """Write the shards as one file, and count their rows on the way."""
    tally = PredictionTally()
    write_batches(
        stage.out / "predictions.parquet", (tally.count(shard) for shard in shards), PREDICTIONS
    )
    tally.summarise(stage)


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage("generate", generate, ("passages",), argv)
