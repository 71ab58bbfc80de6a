"""A generator, and how it writes a shard of rows: prompts in, parsed predictions out."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.errors import PipelineError
from tasks.core.files import row_seed
from tasks.core.rows import PREDICTIONS
from tasks.core.sections.generate import Generate
from tasks.core.spans import is_sound
from tasks.generate.plan import Request, plan
from tasks.lm.address import AddressEngine
from tasks.lm.engine import Completion, OnDone, Sampling, need_engine, open_engine
from tasks.lm.memory import free
from tasks.lm.merged import plain_weights
from tasks.lm.models import count_positions, identify
from tasks.lm.prompts import (
    PROMPT_SLACK,
    Task,
    count_instruction,
    fill,
    generator_prompt,
    parse_prediction,
)
from tasks.lm.tokenizers import load_tokenizer

log = logging.getLogger(__name__)


class GeneratorForm(Protocol):
    """How a generator is prompted, and how its text is parsed."""

    @property
    def identity(self) -> str:
        """Distinguishes one form from another."""
        ...

    def prompt(self, tokenizer: Any, context: str, task_type: str) -> Any:
        """Return the prompt's token ids; without a tokenizer, the message as text."""
        ...

    def copies(self, task_type: str) -> int:
        """Return how often a prompt holds its passage."""
        ...

    def parse(self, text: str, finished: bool, task_type: str) -> Task:
        """Return instruction and response, or why there are none."""
        ...


class BonitoForm:
    """Bonito's own input and output (:mod:`tasks.lm.prompts`)."""

    identity = "bonito"

    def prompt(self, tokenizer: Any, context: str, task_type: str) -> list[int]:
        """See :class:`GeneratorForm`."""
        return generator_prompt(tokenizer, context, task_type)

    def copies(self, task_type: str) -> int:
        """See :class:`GeneratorForm`."""
        return 1

    def parse(self, text: str, finished: bool, task_type: str) -> Task:
        """See :class:`GeneratorForm`."""
        return parse_prediction(text, finished)


@dataclass(frozen=True)
class Generator:
    """What writes the rows: settings, form, and the identity that goes into every row."""

    params: Generate
    form: GeneratorForm
    identity: str

    def load_tokenizer(self) -> Any:
        """Return the tokenizer; None for a model behind an address, which takes text."""
        if self.params.address:
            return None
        return load_tokenizer(self.params.generator, self.params.revision)

    def prompt(self, tokenizer: Any, request: Request) -> Any:
        """Return a row's prompt as token ids; without a tokenizer, as text."""
        return self.form.prompt(tokenizer, request.passage["text"], request.task_type)


def identify_generator(params: Generate) -> str:
    """Return what distinguishes this generator from any other."""
    if params.address:
        return f"{params.generator}@{params.address}"
    return identify(params.generator, params.revision)


def bound_prompts(generator: Generator, passages: Iterable[pa.Table]) -> int:
    """Return a number of tokens that no prompt exceeds; 0 for a model behind an address.

    A text has no more tokens than bytes, so the engine starts without making token ids of the whole
    corpus: each shard makes its own. Only where the generator has no room for that many are the
    prompts measured. One that it has no room for is a :class:`PipelineError`.
    """
    params, form = generator.params, generator.form
    if params.address:
        return 0
    tokenizer = generator.load_tokenizer()
    size = max(pc.max(pc.binary_length(batch["text"])).as_py() or 0 for batch in passages)
    bound = PROMPT_SLACK + max(
        len(form.prompt(tokenizer, "", kind)) + form.copies(kind) * size
        for kind in params.task_types
    )
    room = count_positions(params.generator, params.revision) - _most_tokens(params, params.retries)
    if bound <= room:
        return bound
    longest = _measure_longest_prompt(generator, tokenizer, passages)
    if longest > room > 0:
        raise PipelineError(
            f"a prompt has {longest} tokens, and {params.generator} has room for {room} beside "
            f"generate.max_tokens = {params.max_tokens}: lower ingest.passage_tokens"
        )
    return longest


def _measure_longest_prompt(
    generator: Generator, tokenizer: Any, passages: Iterable[pa.Table]
) -> int:
    return max(
        len(generator.prompt(tokenizer, request))
        for request in plan(passages, generator.params)
        if request.sample == 0  # samples share their prompt
    )


def open_shard_engine(generator: Generator, longest: int) -> Any:
    """Open what the generator answers through, for prompts of up to ``longest`` tokens."""
    params = generator.params
    if params.address:
        return AddressEngine(params.address, params.generator, "generate.address")
    return open_generator_engine(params, longest + _most_tokens(params, params.retries))


class ShardGenerator:
    """A generator that is open until :meth:`close`, in this process or in a worker.

    ``on_done`` is called with 0 as soon as it is open, and then as :func:`generate_shard` says.
    """

    def __init__(self, generator: Generator, longest: int, on_done: OnDone | None = None) -> None:
        self._generator, self._on_done = generator, on_done
        self._tokenizer = generator.load_tokenizer()
        self._engine = open_shard_engine(generator, longest)
        log.info("the generator is loaded, rows come %d at a time", generator.params.shard_rows)
        if on_done:
            on_done(0)  # the clock of the rows starts here: make plan reads it

    def __call__(self, shard: list[Request]) -> pa.Table:
        """Return a shard's rows."""
        return generate_shard(shard, self._engine, self._tokenizer, self._generator, self._on_done)

    def close(self) -> None:
        """Free the engine's memory."""
        free(self._engine)


def open_generator_engine(params: Generate, longest: int) -> Any:
    """Start the engine on the generator, for ``longest`` tokens of prompt and prediction."""
    need_generator_engine(params)
    folder = load_weights(params)
    return open_engine(
        params.engine, folder, params.precision, longest, params.gpu_memory_utilization
    )


def need_generator_engine(params: Generate) -> None:
    """Refuse a generator that this machine has no room for, before its weights come."""
    share = params.gpu_memory_utilization
    need_engine(params.engine, params.generator, params.revision, params.precision, share)


def load_weights(params: Generate) -> str:
    """Return the folder that the engine loads."""
    return plain_weights(params.generator, params.revision, "none", params.precision)


def generate_shard(
    shard: list[Request],
    engine: Any,
    tokenizer: Any,
    generator: Generator,
    on_done: OnDone | None = None,
) -> pa.Table:
    """Send one shard's rows to the engine together; return rows.PREDICTIONS in the shard's order.

    ``on_done`` is called with how many more rows have been sampled once.

    A shard that is generated again gives the same bytes where its rows meet the engine together and
    alone, each with its own seed: vLLM's rows depend on what else is in their batch. On a GPU, and
    behind an address, small shards are asked together (docs/continuing.md).
    """
    prompts = [generator.prompt(tokenizer, request) for request in shard]
    rows = _sample(shard, prompts, engine, tokenizer, generator, 0, on_done)
    for attempt in range(1, generator.params.retries + 1):
        places = [place for place, row in enumerate(rows) if has_no_answer(row)]
        if not places:
            break
        asked = [shard[place] for place in places]
        again = _sample(
            asked, [prompts[place] for place in places], engine, tokenizer, generator, attempt
        )
        for place, row in zip(places, again, strict=True):
            if not has_no_answer(row):
                rows[place] = row
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


def has_no_answer(row: dict[str, Any]) -> bool:
    """Tell whether a row (rows.PREDICTIONS) has no response to keep: it was cut off, cannot be
    parsed, is the passage itself or, in extraction, no span of it or one that the question has.
    """
    context, response = row["context"], fill(row["response"], row["context"])
    return not row["parsed"] or (
        response.strip() == context.strip()
        or not is_sound(row["task_type"], fill(row["instruction"], context), context, response)
    )


def _sample(
    shard: list[Request],
    prompts: list[Any],
    engine: Any,
    tokenizer: Any,
    generator: Generator,
    attempt: int,
    on_done: OnDone | None = None,
) -> list[dict[str, Any]]:
    """Send rows to the engine; a later attempt has other seeds, and room for what was cut off."""
    params = generator.params
    most = _most_tokens(params, attempt)
    sampling = Sampling(params.temperature, params.top_p, most, logprobs=True)
    seeds = [_seed(request, attempt) for request in shard]
    completions = engine.generate(prompts, sampling, seeds, on_done)
    return [
        _make_row(request, len(prompt) if tokenizer else 0, completion, generator)
        | {
            "attempt": attempt,
            "seed": seed,
            "max_tokens": most,
            "confidence": measure_confidence(completion, tokenizer),
        }
        for request, prompt, completion, seed in zip(
            shard, prompts, completions, seeds, strict=True
        )
    ]


def measure_confidence(completion: Completion, tokenizer: Any) -> float | None:
    """Return how sure Bonito was of its task: the mean log-probability (nats) of the instruction's
    tokens plus that of the response's. None where the engine or the text does not tell.

    Each part counts alike, so a long question does not hide a guessed answer.
    """
    if not completion.scored:
        return None
    pieces = tokenizer.batch_decode([[token] for token, _ in completion.scored])
    first = count_instruction(pieces)
    chances = [chance for _, chance in completion.scored]
    parts = chances[:first], chances[first:]
    return sum(map(fmean, parts)) if all(parts) else None


def _most_tokens(params: Generate, attempt: int) -> int:
    return params.max_tokens * (2 if attempt else 1)


def _seed(request: Request, attempt: int) -> int:
    return row_seed(request.seed, "again", attempt) if attempt else request.seed


def _make_row(
    request: Request, prompt_tokens: int, completion: Completion, generator: Generator
) -> dict[str, Any]:
    task = generator.form.parse(completion.text, completion.finished, request.task_type)
    return {
        "row_id": request.row_id,
        "passage_id": request.passage["passage_id"],
        "document": request.passage["document"],
        "task_type": request.task_type,
        "sample": request.sample,
        "context": request.passage["text"],
        "prediction": completion.text,
        "parsed": not task.reason,
        "reason": task.reason,
        "instruction": task.instruction,
        "response": task.response,
        "prompt_tokens": prompt_tokens,
        "output_tokens": completion.tokens,
        "generator": generator.params.generator,
        "revision": generator.identity,
        "temperature": generator.params.temperature,
        "top_p": generator.params.top_p,
    }
