"""Which rows the reader is asked, in which order, and the journal of its answers.

Rows are those that validate kept and, with ``verify.repair``, those that it put into quarantine for
their response alone. A killed run keeps its finished shards. A run over a changed corpus keeps
those of what has not changed and removes the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.card import take_cards
from tasks.core.data_params import CROSS_FIT, NO_READER
from tasks.core.errors import PipelineError
from tasks.core.groups import cut_groups
from tasks.core.labels import normal_labels, offered
from tasks.core.parquet import Batches, concat
from tasks.core.progress import Progress
from tasks.core.rows import INSTRUCTIONS, PREDICTIONS, QUARANTINE
from tasks.core.stage import Stage
from tasks.core.store import Store, keep_only, work_key
from tasks.core.task_types import LABEL_FAMILIES, TASK_TYPES
from tasks.lm.pins import arithmetic
from tasks.verify.cross_fit import half_of
from tasks.verify.judging import nearest_span
from tasks.verify.reader import Kind, Reader, ReaderQuestion, ShardReader, bound_prompts
from tasks.verify.rivals import find_unsure
from tasks.verify.shards import do_shards

#: Faults of a response that leave the instruction good (names of validate's expectations).
REPAIRABLE = frozenset(
    {
        "answer_in_passage",
        "answer_not_in_question",
        "answer_not_passage",
        "answer_not_question",
        "response_length",
    }
)
KINDS: tuple[Kind, ...] = ("answers", "labels")
#: Settings that do not change the reader's answers: they are not part of the journal's key.
_NOT_ASKED = {
    "workers",
    "ray_address",
    "min_agreement",
    "min_grounding",
    "adopt",
    "repair",
    "keep_per_passage",
    "confident_share",
    "gpu_memory_utilization",
    "tests",
    "test_rows",
    "reviews",
    "exclude_wrong",
}


@dataclass(frozen=True)
class Row:
    """A row to judge. ``repairing`` marks one that validate did not keep, and ``nearly`` is the
    span of its passage that its response nearly is, if there is one. ``half`` is the number of its
    reader where there are two. An ``unsure`` one is not asked: the generator was surer of others.
    ``choices`` are the labels that one of a label type offers. A test row has a ``source``, where
    its answer is known from.
    """

    values: dict[str, Any]
    repairing: bool
    nearly: str
    kind: Kind | Literal[""]
    choices: tuple[str, ...]
    half: int = 0
    confidence: float | None = None
    unsure: bool = False
    source: str = ""

    @property
    def label(self) -> str:
        """The response as a label: lower case, without marks around it."""
        return _normal(self.values["response"])

    @property
    def tests_reader(self) -> bool:
        """Whether this row tests the reader."""
        return bool(self.source)

    def asked(self) -> ReaderQuestion:
        """Return what the reader sees."""
        ranked = self.choices if self.kind == "labels" else ()
        return ReaderQuestion(self.values["row_id"], self.values["instruction"], ranked)


#: A row and what the reader says of it (a row of reader.ANSWERED).
Pair = tuple[Row, dict[str, Any] | None]


@dataclass(frozen=True)
class Rows:
    """The rows to judge, streamed from validate's files; they can be iterated more than once."""

    kept: Batches
    quarantine: Batches | None
    by_answer: bool
    by_text: bool
    labels: frozenset[str]
    halves_seed: int | None
    #: The generator's confidence in each of the kept rows, then in those of the quarantine.
    confidences: pa.Array
    #: Tells of each of them whether it is not asked.
    unsure: np.ndarray

    @classmethod
    def of(cls, stage: Stage) -> Rows:
        """Return the rows of the stage's inputs. Where there is no reader, none is unsure."""
        params = stage.params.verify
        kept = Batches(stage.path("instructions"), INSTRUCTIONS)
        repairs = params.repair != "none"
        quarantine = Batches(stage.path("quarantine"), QUARANTINE) if repairs else None
        named = pa.concat_tables(
            _read_columns(batches.path, INSTRUCTIONS, "row_id", "task_type")
            for batches in (kept, quarantine)
            if batches is not None
        )
        ids, kinds = named["row_id"], named["task_type"]
        confidences = read_confidences(stage.path("predictions"), ids)
        share = params.confident_share if is_read(stage) else 1.0
        return cls(
            kept,
            quarantine,
            params.repair == "answer",
            bool(params.address),
            frozenset(_normal(label) for label in stage.params.validate.labels),
            params.seed if params.reader == CROSS_FIT else None,
            confidences,
            find_unsure(ids, kinds, confidences, share, len(ids) - len(kept)),
        )

    def __iter__(self) -> Iterator[Row]:
        place = 0
        for batch in chain(self.kept, self.quarantine or ()):
            confidences = self.confidences[place : place + len(batch)].to_pylist()
            unsure = self.unsure[place : place + len(batch)].tolist()
            place += len(batch)
            told = zip(batch.to_pylist(), confidences, unsure, strict=True)
            for values, confidence, is_unsure in told:
                row = self._repairing(values) if "reasons" in values else self.row(values)
                if row:
                    yield _if_sure(row, confidence, is_unsure)

    def _repairing(self, values: dict[str, Any]) -> Row | None:
        """Return a row of the quarantine; None if it is not to be repaired."""
        reasons = set(values.pop("reasons"))
        if not reasons <= REPAIRABLE or not values["instruction"]:
            return None
        nearly = ""
        if reasons == {"answer_in_passage"}:
            nearly = nearest_span(values["context"], values["response"])
        row = self.row(values, repairing=True, nearly=nearly)
        return row if row.kind and (nearly or self.by_answer) else None

    def row(self, values: dict[str, Any], repairing: bool = False, nearly: str = "") -> Row:
        """Return a row and how it is read; one of a label type is not read where its labels are not
        known. Behind an address it answers in words, which must be one of these labels.
        """
        kind = TASK_TYPES[values["task_type"]].read_as
        half = 0 if self.halves_seed is None else half_of(values, self.halves_seed)
        if kind != "labels":
            return Row(values, repairing, nearly, kind, (), half)
        choices = choices_of(values, self.labels)
        asked: Kind = "answers" if self.by_text else "labels"
        return Row(values, repairing, nearly, asked if len(choices) > 1 else "", choices, half)


def _if_sure(row: Row, confidence: float | None, unsure: bool) -> Row:
    row = replace(row, confidence=confidence)
    return replace(row, kind="", unsure=True) if unsure else row


def is_read(stage: Stage) -> bool:
    """Tell whether a reader reads the rows: there is one, and the generator's rows are used."""
    params = stage.params
    return params.verify.reader != NO_READER and bool(params.supervise.mix.generator)


def read_confidences(predictions: Path, row_ids: pa.ChunkedArray) -> pa.Array:
    """Return the generator's confidence in the rows of these ids, from generate's predictions; null
    where it is not known.
    """
    told = _read_columns(predictions, PREDICTIONS, "row_id", "confidence")
    places = pc.index_in(row_ids, value_set=told["row_id"].combine_chunks())
    return told["confidence"].combine_chunks().take(places.combine_chunks())


def _read_columns(path: Path, schema: pa.Schema, *names: str) -> pa.Table:
    columns = pa.schema([schema.field(name) for name in names])
    return concat(Batches(path, columns), columns)


def choices_of(values: dict[str, Any], custom: frozenset[str]) -> tuple[str, ...]:
    """Return the labels that a row's instruction offers, written as its response is; empty where
    they are not known.
    """
    question = values["instruction"].replace(values["context"], "\n").lower()
    label = _normal(values["response"])
    choices = offered(question, custom) or custom
    families = [family for family in LABEL_FAMILIES if label in family]
    if choices and label not in choices:
        return ()
    inside = [tuple(each for each in family if each in choices) for family in families]
    found = next((family for family in inside if len(family) > 1), ())
    if not found and choices:
        found = tuple(sorted(choices))
    elif not choices:
        usual = TASK_TYPES[values["task_type"]].labels
        family = min(families, key=len, default=())
        found = tuple(each for each in family if each in usual or not usual)
    capital = values["response"][:1].isupper()
    return tuple(each[:1].upper() + each[1:] if capital else each for each in found)


#: How a row is asked, and by which reader.
_Way = tuple[Kind, int]


class Answered:
    """Test rows and rows, each with the reader's answer; it can be iterated more than once."""

    def __init__(
        self, tests: Sequence[Row], rows: Rows, journal: Store, shards: dict[_Way, list[str]]
    ) -> None:
        self._tests, self._rows, self._journal, self._shards = tests, rows, journal, shards

    def tests(self) -> Iterator[Pair]:
        """Yield the test rows with their answers."""
        return islice(self._pairs(), len(self._tests))

    def __iter__(self) -> Iterator[Pair]:
        """Yield the rows; the answer of one that is not read is None."""
        return islice(self._pairs(), len(self._tests), None)

    def _pairs(self) -> Iterator[Pair]:
        answers = {way: self._answers(names) for way, names in self._shards.items()}
        for row in chain(self._tests, self._rows):
            yield row, next(answers[row.kind, row.half]) if row.kind else None

    def _answers(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        for name in names:
            shard = self._journal.get(name)
            if shard is None:
                raise PipelineError(
                    "a shard of verify's journal is gone: did something else clear .work while "
                    "this ran? Run the same command again"
                )
            yield from shard.to_pylist()


def ask(stage: Stage, readers: Sequence[Reader], tests: Sequence[Row], rows: Rows) -> Answered:
    """Ask the reader the test rows and all rows; what the journal has is not asked again.

    Of two ``readers`` each is asked the rows of its half.
    """
    params = stage.params.verify

    def cut(way: _Way) -> Iterator[tuple[str, list[Row]]]:
        own = (row for row in chain(tests, rows) if (row.kind, row.half) == way)
        for name, group in cut_groups(own, params.shard_rows, _document, _content):
            yield f"{way[0]}-{way[1]}-{name}", group

    ways: list[_Way] = [(kind, half) for half in range(len(readers)) for kind in KINDS]
    sizes = {way: {name: _Size.of(group) for name, group in cut(way)} for way in ways}
    settings = params.model_dump(mode="json", exclude=_NOT_ASKED)
    here = {} if params.address else arithmetic(readers[0].precision)
    key = work_key(__name__, settings, *(reader.identity for reader in readers), here)
    journal = Store(stage.work / "journal", key, keep=3)
    keep_only(stage.work / "journal", {name for way in ways for name in sizes[way]})
    total = _Size.sum(size for way in ways for size in sizes[way].values())
    progress = stage.progress(total.rows, "rows", "tests", total.tests)
    for way in ways:
        todo = {name: size for name, size in sizes[way].items() if not journal.has(name)}
        known = _Size.sum(size for name, size in sizes[way].items() if name not in todo)
        progress.skip(known.rows, known.tests)
        if todo:
            _fill(journal, readers[way[1]], way[0], partial(cut, way), todo, progress)
    return Answered(tests, rows, journal, {way: list(sizes[way]) for way in ways})


@dataclass(frozen=True)
class _Size:
    """How many rows of the run and how many test rows a shard has, or several."""

    rows: int
    tests: int

    @classmethod
    def of(cls, group: Sequence[Row]) -> _Size:
        tests = sum(row.tests_reader for row in group)
        return cls(len(group) - tests, tests)

    @classmethod
    def sum(cls, sizes: Iterable[_Size]) -> _Size:
        found = list(sizes)
        return cls(sum(size.rows for size in found), sum(size.tests for size in found))


def _fill(
    journal: Store,
    reader: Reader,
    kind: Kind,
    cut: Callable[[], Iterator[tuple[str, list[Row]]]],
    todo: Mapping[str, _Size],
    progress: Progress,
) -> None:
    """Ask the shards that the journal lacks, here or by Ray workers."""
    params = reader.params
    # The bound counts all rows, also those that are answered already, so that a resumed run opens
    # its engine with the same settings. A model that ranks labels opens no engine.
    asked = (row.asked() for _, group in cut() for row in group)
    longest = bound_prompts(reader, asked) if kind == "answers" else 0
    names = list(todo)
    shards = enumerate([row.asked() for row in group] for name, group in cut() if name in todo)
    if not params.address:
        take_cards()
        if params.workers:
            reader.load()  # merged once, not by every worker at the same time
    for number, table in do_shards(ShardReader, (reader, kind, longest), shards, len(todo), params):
        name = names[number]
        journal.put(name, table)
        progress.advance(todo[name].rows, todo[name].tests)


def _document(row: Row) -> str:
    return str(row.values.get("document", ""))


def _content(row: Row) -> str:
    return repr((row.values["row_id"], row.values["instruction"], row.choices))


def _normal(text: str) -> str:
    return str(normal_labels(pa.array([text]))[0].as_py())
