"""The reader: a model that answers an instruction without seeing the row's response.

It answers in its own words, several times, or it ranks the labels that the instruction offers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from tasks.core.errors import PipelineError
from tasks.core.files import row_seed
from tasks.core.sections.verify import Verify
from tasks.lm.adapters import read_provenance
from tasks.lm.address import AddressEngine
from tasks.lm.engine import Sampling, need_engine, open_engine
from tasks.lm.loading import load_model, need_card
from tasks.lm.memory import free
from tasks.lm.merged import plain_weights
from tasks.lm.models import base_path, count_positions, identify, pinned, resolve
from tasks.lm.prompts import PROMPT_SLACK, Prompter, prompt_form, trained_form
from tasks.lm.tokenizers import load_tokenizer
from tasks.scoring.ranking import rank

Kind = Literal["answers", "labels"]
#: What the reader says of a row: sampled answers, or one summed log-probability per choice.
ANSWERED = pa.schema(
    [
        ("answers", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
    ]
)
_TOP_P = 0.95
_BATCH_ROWS = 16


@dataclass(frozen=True)
class ReaderQuestion:
    """What the reader sees of a row; ``choices`` are the labels to rank, empty for answers.

    The instruction holds the passage. What the reader says follows from it, and not from the row's
    id, which names the passage's place: a passage that was moved is not asked about again.
    """

    row_id: str
    instruction: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """A reader's settings, its prompt form, and what identifies it."""

    params: Verify
    form: str
    quantization: str
    precision: str
    identity: str

    @classmethod
    def of(cls, params: Verify) -> Reader:
        """Look at the model that ``params`` name.

        Raises :class:`PipelineError` where that is neither a folder nor a hub name and there is no
        address.
        """
        if params.address:
            return cls(params, "", "none", "auto", f"{params.reader}@{params.address}")
        try:
            revision = pinned(params.reader, params.revision)
            params = params.model_copy(update={"revision": revision})
            model = resolve(params.reader, params.revision)
            base_path(model.base, model.revision, weights=False)
        except PipelineError as error:
            raise PipelineError(f"verify.reader: {error}") from error
        folder, identity = Path(params.reader), identify(params.reader, params.revision)
        tokenizer = load_tokenizer(params.reader, params.revision)
        if not model.adapter:
            return cls(params, prompt_form(tokenizer, "auto", False), "none", "auto", identity)
        form, made = trained_form(folder, tokenizer, "auto"), read_provenance(folder)
        rounding = made.get("quantization", "none"), made.get("precision", "auto")
        return cls(params, form, *rounding, identity)

    def load(self) -> str:
        """Return the folder of the weights: a plain model's, or that of a merged adapter."""
        params = self.params
        return plain_weights(params.reader, params.revision, self.quantization, self.precision)

    def need_room(self, kind: Kind) -> None:
        """Refuse a reader that the GPU has no room for, before its weights come."""
        params = self.params
        if kind == "labels":
            model = resolve(params.reader, params.revision)
            need_card(model.base, model.revision, "none", self.precision)
        else:
            share = params.gpu_memory_utilization
            need_engine(params.engine, params.reader, params.revision, self.precision, share)

    def prompter(self) -> Prompter | None:
        """Return what turns an instruction into the reader's prompt; None behind an address."""
        if self.params.address:
            return None
        return Prompter(load_tokenizer(self.params.reader, self.params.revision), self.form)


def open_reader(reader: Reader, kind: Kind, longest: int) -> Any:
    """Open what answers: an engine for prompts of up to ``longest`` tokens, or a model to rank."""
    params = reader.params
    if params.address:
        return AddressEngine(params.address, params.reader, "verify.address")
    reader.need_room(kind)
    folder = reader.load()
    if kind == "labels":
        return load_model(folder, precision=reader.precision).eval()
    return open_engine(
        params.engine,
        folder,
        reader.precision,
        longest + params.max_tokens,
        params.gpu_memory_utilization,
    )


class ShardReader:
    """A reader that is open until :meth:`close`, in this process or in a worker."""

    def __init__(self, reader: Reader, kind: Kind, longest: int) -> None:
        self._params, self._kind, self._prompter = reader.params, kind, reader.prompter()
        self._opened = open_reader(reader, kind, longest)

    def __call__(self, shard: Sequence[ReaderQuestion]) -> pa.Table:
        """Return what the reader says of one shard: :data:`ANSWERED`, in the shard's order.

        A shard that is asked again gives the same bytes.
        """
        if self._kind == "labels" and self._prompter:
            return _rank(self._opened, self._prompter, shard)
        params, count = self._params, self._params.answers
        ask = self._prompter.prompt if self._prompter else str
        turns = [(row.instruction, turn) for row in shard for turn in range(count)]
        prompts = [ask(instruction) for instruction, _ in turns]
        seeds = [row_seed(params.seed, *each) for each in turns]
        sampling = Sampling(params.temperature, _TOP_P, params.max_tokens)
        texts = [done.text.strip() for done in self._opened.generate(prompts, sampling, seeds)]
        return _table((texts[start : start + count], []) for start in range(0, len(texts), count))

    def close(self) -> None:
        """Free the model's memory."""
        free(self._opened)


def bound_prompts(reader: Reader, asked: Iterable[ReaderQuestion]) -> int:
    """Return a number of tokens that no prompt of these rows exceeds; 0 behind an address.

    A text has no more tokens than bytes, so the prompts of most rows are not made into tokens here:
    of a million rows that would take minutes at each start. Only those are whose bytes the reader
    may have no room for. A prompt that it has no room for is a :class:`PipelineError`.
    """
    params, prompter = reader.params, reader.prompter()
    if prompter is None:
        return 0
    room = count_positions(params.reader, params.revision) - params.max_tokens
    marks = PROMPT_SLACK + len(prompter.prompt("x"))
    longest = 0
    for row in asked:
        size = marks + len(row.instruction.encode())
        if size > room:
            size = len(prompter.prompt(row.instruction))
        if size > room > 0:
            raise PipelineError(
                f"the prompt of row {row.row_id} has {size} tokens, and {params.reader} has room "
                f"for {room} beside verify.max_tokens = {params.max_tokens}: lower "
                "ingest.passage_tokens, or take another verify.reader"
            )
        longest = max(longest, size)
    return longest


def _rank(model: Any, prompter: Prompter, shard: Sequence[ReaderQuestion]) -> pa.Table:
    scores = rank(
        model,
        [prompter.prompt(row.instruction) for row in shard],
        [[prompter.response(choice) for choice in row.choices] for row in shard],
        _BATCH_ROWS,
        prompter.tokenizer.pad_token_id,
    )
    return _table(([], found) for found in scores)


def _table(rows: Any) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(zip(ANSWERED.names, row, strict=True)) for row in rows], schema=ANSWERED
    )
