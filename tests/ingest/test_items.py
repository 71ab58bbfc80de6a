"""The labelled items that a corpus is compared with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ingest.corner import (
    SENTENCES,
    item,
    read_rows,
    read_summary,
    run_ingest,
    write_params,
)


def test_evaluation_overlap_is_always_counted_and_dropped_on_request(corner: Path) -> None:
    (corner / "corpus" / "a.txt").write_text("Some words that come before. " + SENTENCES[0])
    (corner / "corpus" / "b.txt").write_text(SENTENCES[1])
    (corner / "items.jsonl").write_text(item(SENTENCES[0].replace("Pump", "PUMP")))
    assert run_ingest() == 0
    assert read_summary()["in_evaluation"] == 1
    assert [row["in_evaluation"] for row in read_rows("passages")] == [True, False]
    write_params(corner, drop_evaluation_overlap=True)
    assert run_ingest() == 0
    assert read_summary()["in_evaluation"] == 1
    assert read_summary()["dropped"] == {"in_evaluation": 1}
    assert [row["document"] for row in read_rows("passages")] == ["b.txt"]


def test_a_passage_that_an_item_holds_out_is_never_kept_however_it_is_cut(corner: Path) -> None:
    (corner / "corpus" / "a.txt").write_text("Some words that come before. " + SENTENCES[0])
    (corner / "corpus" / "b.txt").write_text(SENTENCES[1])
    (corner / "corpus" / "c.txt").write_text(SENTENCES[2])
    held = json.loads(item(SENTENCES[0])) | {"held_out": {"document": "a.txt"}}
    other = json.loads(item(SENTENCES[1])) | {"id": "other", "held_out": None}
    (corner / "items.jsonl").write_text(json.dumps(held) + "\n" + json.dumps(other) + "\n")
    assert run_ingest() == 0
    assert read_summary()["dropped"] == {"held_out": 1} and read_summary()["in_evaluation"] == 2
    assert [row["document"] for row in read_rows("passages")] == ["b.txt", "c.txt"]
    (reject,) = read_rows("rejects")
    assert reject["reason"] == "held_out" and "an item holds out" in reject["detail"]
    assert "holds it out of the corpus" in Path("artifacts/ingest/report.html").read_text()


def test_no_labelled_items_are_needed(corner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corner / "corpus" / "a.txt").write_text(SENTENCES[0])
    (corner / "items.jsonl").unlink()
    (corner / "dataset.yaml").unlink()
    assert run_ingest(evaluation="") == 0
    assert [row["in_evaluation"] for row in read_rows("passages")] == [False]
    write_params(corner, drop_evaluation_overlap=True)
    assert run_ingest(evaluation="") == 2
    assert "no items to compare with" in capsys.readouterr().err


def test_a_label_that_no_item_has_is_named(
    corner: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corner / "corpus" / "a.txt").write_text(SENTENCES[0])
    (corner / "dataset.yaml").write_text(
        "{name: pumps, task_type: nli, context: passage, label: answer, "
        "labels: [Nothing, never, 'no'], templates: [{name: a, "
        "instruction: '{{ context }} {{ question }}', choices: [a, b, c]}]}"
    )
    assert run_ingest() == 0
    assert "no item has the label never, no of pumps" in capsys.readouterr().err


def test_a_corpus_that_holds_the_items_says_so(corner: Path) -> None:
    context, question = "The pump failed at noon because its seal broke.", "Why did the pump fail?"
    row = {"id": "1", "passage": context, "question": question, "answer": "its seal broke"}
    (corner / "items.jsonl").write_text(json.dumps(row) + "\n")
    (corner / "corpus" / "a.txt").write_text(context)
    assert run_ingest() == 0 and read_summary()["leaked_items"] == 0
    (corner / "corpus" / "items.csv").write_text(f'text\n"{context} {question} its seal broke"\n')
    assert run_ingest() == 0 and read_summary()["leaked_items"] == 1
