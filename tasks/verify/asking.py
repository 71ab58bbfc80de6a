"""In which order the reader is asked, and the journal of its answers.

A killed run keeps its finished shards. A run over a changed corpus keeps those of what has not
changed and removes those of texts that are gone; shards of earlier settings stay within a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

from tasks.core.card import take_cards
from tasks.core.groups import cut_groups
from tasks.core.parquet import passage_texts
from tasks.core.progress import Progress
from tasks.core.stage import Stage
from tasks.core.store import Store, keep_only, work_key
from tasks.lm.pins import arithmetic
from tasks.lm.shards import do_shards, read_shard
from tasks.verify.reader import Kind, Reader, ReaderQuestion, ShardReader, bound_prompts
from tasks.verify.rows import Row, Rows

_KINDS: tuple[Kind, ...] = ("answers", "labels")
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

#: A row and what the reader says of it (a row of reader.ANSWERED).
Pair = tuple[Row, dict[str, Any] | None]
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
            yield from read_shard(self._journal, name, "verify").to_pylist()


def ask(stage: Stage, readers: Sequence[Reader], tests: Sequence[Row], rows: Rows) -> Answered:
    """Ask the reader the test rows and all rows; what the journal has is not asked again.

    Of two ``readers`` each is asked the rows of its half.
    """
    params = stage.params.verify

    def cut(way: _Way) -> Iterator[tuple[str, list[Row]]]:
        own = (row for row in chain(tests, rows) if (row.kind, row.half) == way)
        for name, group in cut_groups(own, params.shard_rows, _document, _content):
            yield f"{way[0]}-{way[1]}-{name}", group

    ways: list[_Way] = [(kind, half) for half in range(len(readers)) for kind in _KINDS]
    shards: dict[_Way, list[str]] = {way: [] for way in ways}
    # Of each shard the rows of the run and the test rows: two equal ones have one name.
    sizes: dict[str, tuple[int, int]] = {}
    for way in ways:
        for name, group in cut(way):
            shards[way].append(name)
            of_tests = sum(row.tests_reader for row in group)
            sizes[name] = _add(sizes.get(name, (0, 0)), (len(group) - of_tests, of_tests))
    settings = params.model_dump(mode="json", exclude=_NOT_ASKED)
    here = {} if params.address else arithmetic(readers[0].precision)
    key = work_key(__name__, settings, *(reader.identity for reader in readers), here)
    journal = Store(stage.work / "journal", key, keep=3)
    forget_removed(stage, tests, sizes)
    total, total_tests = _add(*sizes.values())
    progress = stage.progress(total, "rows", "tests", total_tests)
    todo = {name: size for name, size in sizes.items() if not journal.has(name)}
    progress.skip(*_add(*(size for name, size in sizes.items() if name not in todo)))
    for way in ways:
        mine = {name: todo[name] for name in shards[way] if name in todo}
        if mine:
            _fill(journal, readers[way[1]], way[0], partial(cut, way), mine, progress)
    return Answered(tests, rows, journal, shards)


def _add(*sizes: tuple[int, int]) -> tuple[int, int]:
    return sum(rows for rows, _ in sizes), sum(tests for _, tests in sizes)


def forget_removed(stage: Stage, tests: Sequence[Row] = (), named: Container[str] = ()) -> None:
    """Remove the answers about passages that are gone, but for the shards ``named``.

    ``tests`` are rows of today, which may be about other texts than the corpus.
    """
    asked = [row.values["context"] for row in tests]
    corpus = passage_texts(stage.path("passages"))
    keep_only(stage.work / "journal", named, lambda: chain(asked, corpus))


def _fill(
    journal: Store,
    reader: Reader,
    kind: Kind,
    cut: Callable[[], Iterator[tuple[str, list[Row]]]],
    todo: Mapping[str, tuple[int, int]],
    progress: Progress,
) -> None:
    """Ask the shards that the journal lacks, here or by Ray workers; ``todo`` has their rows and
    test rows.
    """
    params = reader.params
    # The bound counts all rows, also those that are answered already, so that a resumed run opens
    # its engine with the same settings. A model that ranks labels opens no engine.
    asked = (row.asked() for _, group in cut() for row in group)
    longest = bound_prompts(reader, asked) if kind == "answers" else 0
    names, left = list(todo), set(todo)
    texts: dict[str, set[str]] = {}

    def take() -> Iterator[list[ReaderQuestion]]:
        for name, group in cut():
            if name in left:
                left.remove(name)
                texts[name] = {row.values["context"] for row in group}
                yield [row.asked() for row in group]

    if not params.address:
        take_cards()
        if params.workers:
            reader.load()  # merged once, not by every worker at the same time
    opened, shards = (reader, kind, longest), enumerate(take())
    for number, table in do_shards("verify", ShardReader, opened, shards, len(todo), params):
        name = names[number]
        journal.put(name, table, texts.pop(name))
        progress.advance(*todo[name])


def _document(row: Row) -> str:
    return str(row.values.get("document", ""))


def _content(row: Row) -> str:
    return repr((row.values["instruction"], row.choices))
