"""``scripts/halves.py``: labelled items cut in two, to train on one half and score the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.halves import cut
from tasks.core.errors import PipelineError

DATASET = Path(__file__).resolve().parents[2] / "datasets" / "privacy.yaml"


def items(path: Path, passages: int) -> Path:
    """Write two questions on each passage."""
    rows = [
        {
            "id": f"q{number}-{question}",
            "context": f"Notice {number}.",
            "question": f"{question}?",
            "answer": "yes",
        }
        for number in range(passages)
        for question in ("First", "Second")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_passage_stays_whole_and_nothing_is_lost(tmp_path: Path) -> None:
    whole = items(tmp_path / "items.jsonl", passages=7)

    written = cut(DATASET, whole, tmp_path / "halves", seed=1)

    first, second = (read(path) for path in written)
    assert [path.name for path in written] == ["privacy-a.jsonl", "privacy-b.jsonl"]
    assert list(written.values()) == [len(first), len(second)] == [6, 8]
    assert not {row["context"] for row in first} & {row["context"] for row in second}
    assert sorted(map(str, first + second)) == sorted(map(str, read(whole)))


def test_the_halves_depend_on_the_items_and_the_seed_alone(tmp_path: Path) -> None:
    whole = items(tmp_path / "items.jsonl", passages=8)
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(reversed(whole.read_text().splitlines(keepends=True))))

    def ids(source: Path, seed: int) -> list[set[str]]:
        written = cut(DATASET, source, tmp_path / "halves", seed)
        return [{row["id"] for row in read(path)} for path in written]

    assert ids(whole, 1) == ids(turned, 1)
    assert ids(whole, 1) != ids(whole, 2)


def test_one_passage_has_no_halves(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no two halves"):
        cut(DATASET, items(tmp_path / "items.jsonl", passages=1), tmp_path / "halves", seed=1)

    assert not (tmp_path / "halves").exists()
