"""The verdict on every prediction, in about 30 bytes a row: the texts stay in their file.

Rows are dropped for three kinds of reason: the prediction could not be parsed, expectations failed,
or the row is one too many of its kind.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from tasks.core.task_types import CLASSIFICATION
from tasks.validate.expectations import LABEL_BALANCE
from tasks.validate.labels import unbalanced

MAX_ROWS = "max_rows"
UNIQUE = "unique"
#: Why a row that meets every expectation is still not kept; index 0 means that it is kept.
SURPLUS = ("", LABEL_BALANCE, MAX_ROWS)


@dataclass
class Codes:
    """Numbers strings in the order of their first occurrence."""

    names: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, column: pa.Array) -> np.ndarray:
        """Return the numbers of a column's strings; -1 for null."""
        encoded = column.dictionary_encode()
        numbers = [self._number_of(name) for name in encoded.dictionary.to_pylist()]
        codes: np.ndarray = np.array([*numbers, -1], np.int32)[
            encoded.indices.fill_null(len(numbers)).to_numpy()
        ]
        return codes

    def _number_of(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.names)
            self.names.append(name)
        return self._numbers[name]


@dataclass
class Verdicts:
    """One entry a prediction, in the file's order.

    ``failed`` has bit i set where the row failed ``expectations[i]``.
    """

    expectations: list[str]
    types: Codes
    labels: Codes
    parse_reasons: Codes
    #: Numbers of :class:`Codes`; ``unparsed`` and ``label`` are -1 where there is none.
    task_type: np.ndarray
    unparsed: np.ndarray
    label: np.ndarray
    #: The label's family (:func:`tasks.validate.labels.families`).
    family: np.ndarray
    failed: np.ndarray
    #: Key of the row's content (equal texts, equal keys), and a seeded key of its row_id that
    #: orders every choice.
    content: np.ndarray
    order: np.ndarray
    #: Index into :data:`SURPLUS`.
    surplus: np.ndarray

    def __len__(self) -> int:
        """Return the number of predictions."""
        return len(self.failed)

    def kept(self) -> np.ndarray:
        """Return one bool a row: is it an instruction to train on?"""
        return np.equal(self.failed, 0) & (self.unparsed < 0) & (self.surplus == 0)

    def failing(self, expectation: str) -> np.ndarray:
        """Return one bool a row: does it fail this expectation?"""
        return np.not_equal(self.failed & np.uint32(1 << self.expectations.index(expectation)), 0)

    def of_type(self, name: str) -> np.ndarray:
        """Return one bool a row: is it of this task type?"""
        return np.equal(self.task_type, self.types.names.index(name))

    def select_rows(self, skip: tuple[str, ...], max_label_share: float, max_rows: int) -> None:
        """Select among the rows that meet every expectation: no copies, labels balanced within
        their families, at most ``max_rows`` (0: all).
        """
        if UNIQUE not in skip:
            self._drop_copies_across_types()
        if LABEL_BALANCE not in skip:
            for name in sorted(set(self.types.names) & set(CLASSIFICATION)):
                rows = np.flatnonzero(self.kept() & self.of_type(name))
                drop = unbalanced(
                    self.family[rows], self.label[rows], self.order[rows], max_label_share
                )
                self.surplus[rows[drop]] = SURPLUS.index(LABEL_BALANCE)
        rows = np.flatnonzero(self.kept())
        if max_rows and len(rows) > max_rows:
            drop = np.argsort(self.order[rows], kind="stable")[max_rows:]
            self.surplus[rows[drop]] = SURPLUS.index(MAX_ROWS)

    def reasons(self, row: int) -> list[str]:
        """Return every reason why a row is not kept, in the expectations' order."""
        if self.unparsed[row] >= 0:
            return [f"parsed:{self.parse_reasons.names[self.unparsed[row]]}"]
        failed = [name for bit, name in enumerate(self.expectations) if self.failed[row] >> bit & 1]
        return failed + ([SURPLUS[self.surplus[row]]] if self.surplus[row] else [])

    def count_reasons(self, first_only: bool = False) -> Counter[str]:
        """Return reason -> rows: every reason of every row, or the first one of each."""
        counts: Counter[str] = Counter()
        for state, rows in zip(*self._states(), strict=True):
            reasons = self.reasons(int(state))
            counts.update(dict.fromkeys(reasons[:1] if first_only else reasons, int(rows)))
        return counts

    def count_labels(self, task_type: str) -> dict[str, int]:
        """Return label -> kept rows of a classification type, the most frequent first."""
        numbers, counts = np.unique(
            self.label[self.kept() & self.of_type(task_type)], return_counts=True
        )
        named = {
            self.labels.names[number]: int(count)
            for number, count in zip(numbers, counts, strict=True)
            if number >= 0
        }
        return dict(sorted(named.items(), key=lambda item: (-item[1], item[0])))

    def _drop_copies_across_types(self) -> None:
        """Fail ``unique`` for rows with the texts of another type's kept row.

        What the suite is given compares the rows of one type.
        """
        rows = np.flatnonzero(self.kept())
        _, first = np.unique(self.content[rows], return_index=True)
        copies = np.delete(rows, first)
        self.failed[copies] |= np.uint32(1 << self.expectations.index(UNIQUE))

    def _states(self) -> tuple[np.ndarray, np.ndarray]:
        """Return one row for each distinct set of reasons, and how many rows share it."""
        state = (
            (self.unparsed.astype(np.int64) + 1) << 40
            | self.surplus.astype(np.int64) << 36
            | self.failed.astype(np.int64)
        )
        _, first, counts = np.unique(state, return_index=True, return_counts=True)
        return first, counts
