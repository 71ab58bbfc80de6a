"""generate: Bonito, or a chat model that is asked, over passages x task types. Passages in,
predictions out, each kept whether it can be parsed or not.

Work goes through the engine in shards that are cut by the data alone; a finished shard is a Parquet
file in the journal. A killed run keeps its finished shards, and a shard done again gives the same
bytes: its rows always meet the engine together, each with its own seed. Passages come and rows go
in batches: memory does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import torch

from tasks.core.data_params import Generate
from tasks.core.errors import PipelineError
from tasks.core.files import (
    choose,
    row_seed,
    sha256_folder,
    write_json,
)
from tasks.core.parquet import Batches, write_batches
from tasks.core.progress import Progress
from tasks.core.ray_workers import spread
from tasks.core.rows import PASSAGES, PREDICTIONS, WRITTEN
from tasks.core.stage import Stage, run_stage
from tasks.core.store import Store, work_key
from tasks.generate.prompted import AddressEngine, read_prompts
from tasks.generate.report import Tally
from tasks.lm.engine import Completion, Engine, Sampling, open_engine
from tasks.lm.merged import merged_folder
from tasks.lm.models import base_path, load_tokenizer, resolve
from tasks.lm.prompts import Task, generator_prompt, parse_prediction

log = logging.getLogger(__name__)
#: Settings that say where rows are generated, not which: they are no part of a journal's key.
_WHERE = {"workers", "ray_address"}


@dataclass(frozen=True)
class Request:
    """One row to generate; everything about it follows from the passage, the task type and the
    sample's number.
    """

    row_id: str
    passage: dict[str, Any]
    task_type: str
    sample: int
    seed: int


class Form(Protocol):
    """How a generator is asked, and how its answer is read."""

    @property
    def identity(self) -> str:
        """What tells one form from another."""
        ...

    def prompt(self, tokenizer: Any, context: str, task_type: str) -> Any:
        """Return the prompt's token ids; without a tokenizer, the message as text."""
        ...

    def parse(self, text: str, finished: bool, task_type: str) -> Task:
        """Return instruction and response, or why there are none."""
        ...


class BonitoForm:
    """Bonito's own input and output (:mod:`tasks.lm.prompts`)."""

    identity = "bonito"

    def prompt(self, tokenizer: Any, context: str, task_type: str) -> list[int]:
        """See :class:`Form`."""
        return generator_prompt(tokenizer, context, task_type)

    def parse(self, text: str, finished: bool, task_type: str) -> Task:
        """See :class:`Form`."""
        return parse_prediction(text, finished)


def generate(stage: Stage) -> None:
    """Write ``predictions.parquet`` (rows.PREDICTIONS), ``samples.md`` and ``summary.json``."""
    params, source = stage.params.generate, stage.params.supervise.source
    if source not in WRITTEN:
        log.info("supervise.source is %s: there is nothing to generate", source)
        return _finish(stage, ())
    passages = Batches(stage.path("passages"), PASSAGES)
    total = planned(len(passages), params)
    if not total:
        raise PipelineError(
            "there are no passages to generate from: look at artifacts/ingest/rejects.parquet"
        )
    form: Form = (
        read_prompts(
            Path(stage.params.supervise.prompts), params.task_types, stage.params.validate.labels
        )
        if source == "prompted"
        else BonitoForm()
    )
    if params.address and source != "prompted":
        raise PipelineError(
            "generate.address serves chat models: it goes with supervise.source prompted"
        )
    if params.address and params.workers:
        raise PipelineError(
            "generate.workers open the generator themselves, generate.address has it "
            "opened already: set one of the two"
        )
    identity = generator_identity(params)
    key = work_key(
        __name__,
        params.model_dump(mode="json", exclude=_WHERE),
        identity,
        form.identity,
        _identity_of(passages),
    )
    journal = Store(stage.work / "journal", key, keep=3)
    shards = -(-total // params.shard_rows)
    for rows, shown in _run(
        passages, shards, journal, params, identity, form, stage.progress(total, "rows")
    ):
        log.info("sample %s: %s", shown["row_id"], " ".join(str(shown["prediction"]).split())[:200])
        write_json(
            stage.work / "sample.json",
            {key: shown[key] for key in ("task_type", "context", "prediction", "parsed")}
            | {"rows": rows},
        )
    _finish(stage, (_read_shard(journal, number) for number in range(shards)))


def planned(passages: int, params: Generate) -> int:
    """Return how many rows :func:`plan` yields for so many passages."""
    return min(passages, params.max_passages or passages) * len(params.task_types) * params.samples


def plan(passages: Iterable[pa.Table], params: Generate) -> Iterator[Request]:
    """Yield the rows to generate, ordered by passage, task type and sample; a seeded choice where
    ``max_passages`` limits them.

    ``passages`` are batches of rows.PASSAGES that can be gone through more than once.
    """
    for batch in _chosen(passages, params):
        for row in batch.to_pylist():
            for kind in params.task_types:
                for sample in range(params.samples):
                    yield Request(
                        f"{row['passage_id']}-{kind}-{sample}",
                        row,
                        kind,
                        sample,
                        row_seed(params.seed, row["passage_id"], kind, sample),
                    )


def _chosen(passages: Iterable[pa.Table], params: Generate) -> Iterator[pa.Table]:
    if not params.max_passages:
        yield from passages
        return
    places = choose(
        (key for batch in passages for key in batch["passage_id"].to_pylist()),
        params.max_passages,
        params.seed,
        "passage",
    ).to_numpy()
    start = 0
    for batch in passages:
        own = places[(places >= start) & (places < start + len(batch))] - start
        yield batch.take(pa.array(own))
        start += len(batch)


def _identity_of(passages: Iterable[pa.Table]) -> str:
    digest = hashlib.sha256()
    for batch in passages:
        digest.update("\n".join([*batch["passage_id"].to_pylist(), ""]).encode())
    return digest.hexdigest()


def generator_identity(params: Generate) -> str:
    """Return what tells this generator from any other: the adapter's content hash, or the hub name
    and revision.
    """
    folder = Path(params.generator)
    if folder.is_dir() and not params.address:
        return f"sha256:{sha256_folder(folder)}"
    return f"{params.generator}@{params.address or params.revision}"


def _run(
    passages: Iterable[pa.Table],
    shards: int,
    journal: Store,
    params: Generate,
    identity: str,
    form: Form,
    progress: Progress,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Do the shards the journal lacks; yield (rows so far, a live sample) after each."""
    todo = {number for number in range(shards) if not journal.has(_shard_name(number))}
    # Every shard but the last is full.
    progress.skip(
        sum(
            min(params.shard_rows, progress.total - number * params.shard_rows)
            for number in range(shards)
            if number not in todo
        )
    )
    if progress.skipped:
        log.info("%d rows are already in the journal", progress.skipped)
    if not todo:
        return
    tokenizer = None if params.address else load_tokenizer(params.generator, params.revision)
    longest = max(
        len(_prompt(form, tokenizer, request))
        for request in plan(passages, params)
        if request.sample == 0
    )  # samples share their prompt
    counts: Counter[bool] = Counter()
    tokens, started = 0, time.monotonic()
    for number, table in _tables(
        _cut(passages, shards, todo, params), len(todo), params, longest, identity, form
    ):
        journal.put(_shard_name(number), table)
        counts.update(table.column("parsed").to_pylist())
        tokens += sum(table.column("output_tokens").to_pylist())
        progress.advance(
            len(table),
            tokens_per_second=round(tokens / (time.monotonic() - started), 1),
            parse_yield=round(counts[True] / counts.total(), 3),
        )
        yield progress.done, table.slice(len(table) // 2, 1).to_pylist()[0]


def _cut(
    passages: Iterable[pa.Table], shards: int, todo: set[int], params: Generate
) -> Iterator[tuple[int, list[Request]]]:
    """Yield the shards to do, with their numbers; how they are cut depends on the data alone."""
    requests = plan(passages, params)
    for number in range(shards):
        shard = list(islice(requests, params.shard_rows))
        if number in todo:
            yield number, shard


def _tables(
    shards: Iterator[tuple[int, list[Request]]],
    count: int,
    params: Generate,
    longest: int,
    identity: str,
    form: Form,
) -> Iterator[tuple[int, pa.Table]]:
    """Yield every shard's rows as they are done: in this process one shard after the other, with
    ``workers`` in any order.
    """
    given = (params, longest, identity, form)
    if not params.workers:
        work = shard_worker(*given)
        yield from ((number, work(shard)) for number, shard in shards)
        return
    _weights(params)  # merged once, not by every worker at the same time
    # The workers compute with as many threads as this process would: sums that other threads share
    # out may round otherwise.
    yield from spread(
        "tasks.generate.stage:shard_worker",
        given,
        shards,
        min(params.workers, count),
        params.ray_address,
        torch.get_num_threads(),
    )


def shard_worker(
    params: Generate, longest: int, identity: str, form: Form
) -> Callable[[list[Request]], pa.Table]:
    """Open the engine, for prompts of up to ``longest`` tokens; return what does one shard after
    the other with it.
    """
    tokenizer = None if params.address else load_tokenizer(params.generator, params.revision)
    engine: Any = (
        AddressEngine(params.address, params.generator)
        if params.address
        else _open(params, longest + params.max_tokens)
    )
    return lambda shard: generate_shard(shard, engine, tokenizer, params, identity, form)


def generate_shard(
    shard: list[Request], engine: Any, tokenizer: Any, params: Generate, identity: str, form: Form
) -> pa.Table:
    """Send one shard's rows to the engine together and return them as rows.PREDICTIONS, in the
    shard's order.
    """
    prompts = [_prompt(form, tokenizer, request) for request in shard]
    sampling = Sampling(params.temperature, params.top_p, params.max_tokens)
    completions = engine.generate(prompts, sampling, [request.seed for request in shard])
    rows = [
        _row(request, len(prompt) if tokenizer else 0, done, params, identity, form)
        for request, prompt, done in zip(shard, prompts, completions, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


def _row(
    request: Request,
    prompt_tokens: int,
    completion: Completion,
    params: Generate,
    identity: str,
    form: Form,
) -> dict[str, Any]:
    task = form.parse(completion.text, completion.finished, request.task_type)
    return {
        "row_id": request.row_id,
        "passage_id": request.passage["passage_id"],
        "document": request.passage["document"],
        "task_type": request.task_type,
        "sample": request.sample,
        "seed": request.seed,
        "context": request.passage["text"],
        "prediction": completion.text,
        "parsed": not task.reason,
        "reason": task.reason,
        "instruction": task.instruction,
        "response": task.response,
        "prompt_tokens": prompt_tokens,
        "output_tokens": completion.tokens,
        "generator": params.generator,
        "revision": identity,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_tokens,
    }


def _prompt(form: Form, tokenizer: Any, request: Request) -> Any:
    return form.prompt(tokenizer, request.passage["text"], request.task_type)


def _open(params: Generate, longest: int) -> Engine:
    """Start the engine on the generator."""
    return open_engine(params.engine, *_weights(params), params.precision, longest)


def _weights(params: Generate) -> tuple[Path | str, str]:
    """Return what the engine loads, and its revision: a plain model as it is, an adapter merged
    into its base first.
    """
    model = resolve(params.generator, params.revision)
    if model.adapter:
        return merged_folder(
            model.base, model.revision, model.adapter, "none", params.precision
        ), "main"
    return base_path(model.base), model.revision


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


def _finish(stage: Stage, shards: Iterable[pa.Table]) -> None:
    """Write what the shards hold together, and count it on its way."""
    tally = Tally()
    write_batches(
        stage.out / "predictions.parquet", (tally.counted(shard) for shard in shards), PREDICTIONS
    )
    tally.summarise(stage)


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage("generate", generate, ("passages",), argv)
