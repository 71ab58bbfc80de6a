"""How much a question is about its passage: the generator's word on it.

The generator has learned which questions people ask about a passage. A question that it finds
hardly more likely with the passage than without fits any passage ("What is the maximum length of
the bellows?"), and then the answer, which a reader finds all the same, answers nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tasks.core.card import take_cards
from tasks.core.data_params import Generate
from tasks.core.stage import Stage
from tasks.core.store import Store, work_key
from tasks.lm.memory import free
from tasks.lm.merged import plain_weights
from tasks.lm.models import identify, load_model, load_tokenizer
from tasks.lm.prompts import PLACEHOLDER, generator_prompt
from tasks.scoring.ranking import rank
from tasks.verify.shards import cut, do_shards

_SCORED = pa.schema([("specificity", pa.float64())])
_BATCH_ROWS = 16


def measure_specificity(stage: Stage, rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return how much likelier each instruction (rows.INSTRUCTIONS) is to the generator with its
    passage than without, in nats a token.

    What a killed run finished is kept.
    """
    params, generate = stage.params.verify, _loaded(stage.params.generate)
    key = work_key(
        __name__, identify(generate.generator, generate.revision), params.shard_rows, _digest(rows)
    )
    journal = Store(stage.work / "specificity", key, keep=3)
    shards = list(enumerate(cut(rows, params.shard_rows)))
    todo = [(number, shard) for number, shard in shards if not journal.has(_name(number))]
    progress = stage.progress(len(rows), "questions")
    progress.skip(len(rows) - sum(len(shard) for _, shard in todo))
    if todo:
        take_cards()
        plain_weights(generate.generator, generate.revision, "none", generate.precision)
        for number, table in do_shards(ShardScorer, (generate,), todo, len(todo), params):
            journal.put(_name(number), table)
            progress.advance(len(table))
    return [score for number, _ in shards for score in journal.get(_name(number))[0].to_pylist()]


class ShardScorer:
    """The generator, open until :meth:`close`, in this process or in a worker."""

    def __init__(self, params: Generate) -> None:
        self._tokenizer = load_tokenizer(params.generator, params.revision)
        weights, revision = plain_weights(
            params.generator, params.revision, "none", params.precision
        )
        self._model = load_model(str(weights), revision, precision=params.precision).eval()

    def __call__(self, shard: Sequence[dict[str, Any]]) -> pa.Table:
        """Return the specificity of a shard's rows."""
        texts = [row["instruction"].replace(row["context"], PLACEHOLDER) for row in shard]
        asked = [self._tokenizer.encode(text, add_special_tokens=False) for text in texts]
        with_passage, without = (
            self._scores(
                [generator_prompt(self._tokenizer, text, row["task_type"]) for text, row in pairs],
                asked,
            )
            for pairs in (
                [(row["context"], row) for row in shard],
                [("", row) for row in shard],
            )
        )
        scores = [
            (near - far) / max(len(tokens), 1)
            for near, far, tokens in zip(with_passage, without, asked, strict=True)
        ]
        return pa.Table.from_pydict({"specificity": scores}, schema=_SCORED)

    def _scores(self, prompts: list[list[int]], asked: list[list[int]]) -> list[float]:
        """Return the log-probability of each text after its prompt."""
        pad = self._tokenizer.pad_token_id
        found = rank(self._model, prompts, [[tokens] for tokens in asked], _BATCH_ROWS, pad)
        return [scores[0] for scores in found]

    def close(self) -> None:
        """Free the model's memory."""
        free(self._model)


def _loaded(params: Generate) -> Generate:
    """Return the generator's settings as this stage loads it: fp8 is for vLLM alone."""
    return params.model_copy(update={"precision": "auto"}) if params.precision == "fp8" else params


def _digest(rows: Sequence[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row["task_type"], row["instruction"], row["context"])).encode())
    return digest.hexdigest()


def _name(number: int) -> str:
    return f"rows-{number:06d}"
