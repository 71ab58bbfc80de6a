"""The rows to judge: those that validate kept and, with ``verify.repair``, those that it put into
quarantine for their response alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.labels import normal_labels, offered
from tasks.core.parquet import Batches, concat
from tasks.core.rows import INSTRUCTIONS, PREDICTIONS, QUARANTINE
from tasks.core.sections.verify import CROSS_FIT, NO_READER
from tasks.core.stage import Stage
from tasks.core.task_types import LABEL_FAMILIES, TASK_TYPES
from tasks.verify.cross_fit import half_of
from tasks.verify.judging import nearest_span
from tasks.verify.reader import Kind, ReaderQuestion
from tasks.verify.rivals import find_unsure

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
    instruction, context = values["instruction"], values["context"]
    # A test row may be without a passage.
    question = (instruction.replace(context, "\n") if context else instruction).lower()
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


def _normal(text: str) -> str:
    return str(normal_labels(pa.array([text]))[0].as_py())
