"""After documents changed, came, went or moved, the reader is asked about what is new alone, and
the rows are those of a run from nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.core.files import fingerprint, sha256_folder
from tasks.core.parquet import read_table
from tasks.lm.engine import Completion
from tests.verify.conftest import RuleReader, make_row

_Corpus = dict[str, list[int]]
#: A document is one shard.
_ONE = {"shard_rows": 64}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that a reader was asked whose answers hang on their seeds and on what is asked
    with them, as those of vLLM on a CPU do.
    """
    prompts: list[str] = []

    def generate(self: RuleReader, batch: Any, _: Any, seeds: Sequence[int]) -> list[Completion]:
        texts = [self.tokenizer.decode(prompt) for prompt in batch]
        prompts.extend(texts)
        together = fingerprint(*texts)
        return [
            Completion("noon", 1, True)
            if int(fingerprint(together, seed)[:4], 16) % 5 == 0
            else self.answer(text)
            for text, seed in zip(texts, seeds, strict=True)
        ]

    monkeypatch.setattr(RuleReader, "generate", generate)
    return prompts


def _rows(corpus: _Corpus) -> list[dict[str, Any]]:
    """Rows on pumps of these numbers, whose ids tell their place, as generate's do."""
    return [
        make_row(number) | {"document": document, "row_id": f"{document}-{place}"}
        for document, numbers in sorted(corpus.items())
        for place, number in enumerate(numbers)
    ]


def _documents(count: int, rows: int) -> _Corpus:
    return {f"{n:03}.md": [n * rows + place for place in range(rows)] for n in range(count)}


def _assert_as_from_nothing(run: Any, corpus: _Corpus, **settings: Any) -> None:
    shutil.rmtree(".work")
    assert run(_rows(corpus), out="fresh", **settings) == 0
    assert sha256_folder(Path("artifacts/verify")) == sha256_folder(Path("fresh"))


def test_of_100_documents_one_changed_one_added_one_removed(run: Any, asked: list[str]) -> None:
    corpus = _documents(100, 4)
    assert run(_rows(corpus), **_ONE) == 0 and len(asked) == 400 * 2, "two answers to each"
    corpus["050.md"][1] = 1000
    corpus["0505.md"] = [2000, 2001, 2002, 2003]
    gone = corpus.pop("020.md")
    asked.clear()
    assert run(_rows(corpus), **_ONE) == 0
    assert 0 < len(asked) <= 2 * 12, "3 % of the rows"
    assert not any(f"P-{number}?" in text for text in asked for number in gone)
    kept = list(Path(".work/verify/journal").rglob("*.parquet"))
    assert len(kept) == len(corpus), "nothing is left of the removed document"
    _assert_as_from_nothing(run, corpus, **_ONE)


def test_what_was_moved_or_copied_is_not_asked_again(run: Any, asked: list[str]) -> None:
    corpus = _documents(5, 4)
    assert run(_rows(corpus)) == 0
    asked.clear()
    moved = {f"moved/{name}": numbers for name, numbers in corpus.items()}
    moved["copy.md"] = corpus["001.md"]
    assert run(_rows(moved)) == 0 and not asked
    kept = read_table(Path("artifacts/verify/instructions.parquet"))
    dropped = read_table(Path("artifacts/verify/quarantine.parquet"))
    assert len(kept) + len(dropped) == 24
    _assert_as_from_nothing(run, moved)
    assert len(asked) == 20 * 2, "a copy is asked once"


def test_a_row_more_in_a_table_moves_few_shards(run: Any, asked: list[str]) -> None:
    """The rows behind it have other names: each is of the document of its line."""

    def table(numbers: Sequence[int]) -> _Corpus:
        return {f"rows.jsonl#{line:04}": [number] for line, number in enumerate(numbers)}

    numbers = list(range(200))
    assert run(_rows(table(numbers))) == 0
    asked.clear()
    numbers.insert(100, 1000)
    assert run(_rows(table(numbers))) == 0
    assert 0 < len(asked) <= 2 * 4 * 8, "four shards"
    _assert_as_from_nothing(run, table(numbers))


def test_where_the_surest_rows_are_asked_the_rows_are_those_of_a_run_from_nothing(
    run: Any, asked: list[str]
) -> None:
    """Which rows they are depends on all: a document that changes may turn rows of another."""

    def told(corpus: _Corpus) -> dict[str, Any]:
        rows = _rows(corpus)
        sure = {
            row["row_id"]: -int(fingerprint(row["instruction"])[:4], 16) / 65536 for row in rows
        }
        return {"rows": rows, "confidences": sure, "confident_share": 0.6, **_ONE}

    corpus = _documents(40, 4)
    assert run(**told(corpus)) == 0 and len(asked) == 96 * 2
    corpus["010.md"][1] = 1000
    corpus["0105.md"] = [2000, 2001, 2002, 2003]
    del corpus["030.md"]
    asked.clear()
    assert run(**told(corpus)) == 0
    assert 0 < len(asked) < 2 * 48, "most were not asked"
    shutil.rmtree(".work")
    assert run(**told(corpus), out="fresh") == 0
    assert sha256_folder(Path("artifacts/verify")) == sha256_folder(Path("fresh"))
