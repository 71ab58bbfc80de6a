"""The reader: a model that answers an instruction without seeing the row's response.

It answers in its own words, several times, or it ranks the labels that the instruction offers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from tasks.core.data_params import Verify
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, row_seed, sha256_folder
from tasks.lm.address import AddressEngine
from tasks.lm.engine import Sampling, open_engine
from tasks.lm.merged import merged_folder
from tasks.lm.models import base_path, load_model, load_tokenizer, resolve
from tasks.lm.prompts import Prompter, prompt_form
from tasks.scoring.ranking import rank

Kind = Literal["answers", "labels"]
#: The reader's word on a row: sampled answers, or one summed log-probability a choice.
ANSWERED = pa.schema(
    [
        ("row_id", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
    ]
)
_TOP_P = 0.95
_BATCH_ROWS = 16


@dataclass(frozen=True)
class Asked:
    """What the reader gets of a row; ``choices`` are the labels to rank, empty for answers."""

    row_id: str
    instruction: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """A reader's settings, its prompt form, and what tells it from any other reader."""

    params: Verify
    form: str
    quantization: str
    precision: str
    identity: str

    @classmethod
    def of(cls, params: Verify) -> Reader:
        """Look at the model that ``params`` name.

        Raises :class:`PipelineError` where it is neither an address's, a folder nor a hub name.
        """
        if params.address:
            if params.workers:
                raise PipelineError(
                    "verify.workers open the reader themselves, verify.address has it opened "
                    "already: set one of the two"
                )
            return cls(params, "", "none", "auto", f"{params.reader}@{params.address}")
        try:
            model = resolve(params.reader, params.revision)
            base_path(model.base)
        except PipelineError as error:
            raise PipelineError(f"verify.reader: {error}") from error
        folder = Path(params.reader)
        identity = (
            f"sha256:{sha256_folder(folder)}" if folder.is_dir() else f"{folder}@{params.revision}"
        )
        tokenizer = load_tokenizer(params.reader, params.revision)
        known = folder / "provenance.json"
        if model.adapter and known.is_file():
            made = read_json(known)
            return cls(params, made["prompt"], made["quantization"], made["precision"], identity)
        form = prompt_form(tokenizer, "auto", adapted=model.adapter is not None)
        return cls(params, form, "none", "auto", identity)

    def load(self) -> tuple[Path | str, str]:
        """Return the weights to load and their revision: a plain model, or a merged adapter."""
        model = resolve(self.params.reader, self.params.revision)
        if not model.adapter and self.quantization == "none":
            return base_path(model.base), model.revision
        merged = merged_folder(
            model.base, model.revision, model.adapter, self.quantization, self.precision
        )
        return merged, "main"

    def prompter(self) -> Prompter:
        """Return what turns an instruction into the reader's prompt."""
        return Prompter(load_tokenizer(self.params.reader, self.params.revision), self.form)


def shard_worker(reader: Reader, kind: Kind, longest: int) -> Callable[[Sequence[Asked]], pa.Table]:
    """Open the reader for prompts of up to ``longest`` tokens; return what answers one shard.

    The result has the columns of :data:`ANSWERED`, in the shard's order. A shard that is asked
    again gives the same bytes.
    """
    if kind == "labels":
        return _ranker(reader)
    params = reader.params
    sampling = Sampling(params.temperature, _TOP_P, params.max_tokens)
    if params.address:
        engine: Any = AddressEngine(params.address, params.reader, "verify.address")
        return lambda shard: _sample(shard, engine, lambda text: text, sampling, params)
    weights, revision = reader.load()
    engine = open_engine(
        params.engine, weights, revision, reader.precision, longest + params.max_tokens
    )
    return lambda shard: _sample(shard, engine, reader.prompter().prompt, sampling, params)


def longest_prompt(reader: Reader, asked: Iterable[Asked]) -> int:
    """Return the tokens of the longest prompt; 0 behind an address."""
    if reader.params.address:
        return 0
    prompter = reader.prompter()
    return max(len(prompter.prompt(row.instruction)) for row in asked)


def _sample(
    shard: Sequence[Asked],
    engine: Any,
    prompt: Callable[[str], Any],
    sampling: Sampling,
    params: Verify,
) -> pa.Table:
    count = params.answers
    prompts = [prompt(row.instruction) for row in shard for _ in range(count)]
    seeds = [row_seed(params.seed, row.row_id, turn) for row in shard for turn in range(count)]
    texts = [done.text.strip() for done in engine.generate(prompts, sampling, seeds)]
    return _table(
        (row.row_id, texts[place * count : (place + 1) * count], [])
        for place, row in enumerate(shard)
    )


def _ranker(reader: Reader) -> Callable[[Sequence[Asked]], pa.Table]:
    weights, revision = reader.load()
    model, prompter = load_model(str(weights), revision).eval(), reader.prompter()

    def answer(shard: Sequence[Asked]) -> pa.Table:
        scores = rank(
            model,
            [prompter.prompt(row.instruction) for row in shard],
            [[prompter.response(choice) for choice in row.choices] for row in shard],
            _BATCH_ROWS,
            prompter.tokenizer.pad_token_id,
        )
        return _table((row.row_id, [], found) for row, found in zip(shard, scores, strict=True))

    return answer


def _table(rows: Any) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(zip(ANSWERED.names, row, strict=True)) for row in rows], schema=ANSWERED
    )
