"""Answers are kept piece by piece: a kill loses the piece that was being answered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.baseline import stage as baseline
from tasks.core.params import Params
from tasks.core.parquet import read_table, write_table
from tasks.core.progress import Progress
from tasks.core.rows import ADAPTER_FILES, EVALUATIONS
from tasks.scoring import pieces, predict
from tasks.scoring.pieces import Answers, keep_answers
from tasks.scoring.questions import Questions
from tasks.scoring.scoreable import Scoreable
from tests.conftest import instruction_table
from tests.registered import NONE


class Model:
    """Answers questions by their number, and dies before question ``dies_at``."""

    def __init__(self, journal: Path) -> None:
        self.journal, self.asked, self.opened = journal, list[int](), 0
        self.dies_at: int | None = None
        self.meters: list[Progress] = []

    @contextlib.contextmanager
    def open(self, on_done: Any) -> Iterator[Answers]:
        self.opened += 1

        def answers(part: slice) -> Iterator[dict[str, Any]]:
            for number in range(part.start, part.stop):
                if number == self.dies_at:
                    raise KeyboardInterrupt
                self.asked.append(number)
                on_done(1)
                yield {
                    **{name: "x" for name in ("model", "dataset", "template", "prompt")},
                    "item_id": str(number),
                    "prediction": f"answer {number}",
                    "golds": ["a"],
                    "choices": [],
                    "scores": [],
                    "f1": 0.5,
                }

        yield answers

    def run(self, count: int = 10, others: Path | None = None) -> pa.Table:
        def meter(total: int, unit: str) -> Progress:
            self.meters.append(Progress(self.journal / "progress.json", "baseline", total, unit))
            return self.meters[-1]

        asked = (count, self.open, meter, "rows", others)
        return keep_answers(self.journal, "key", *asked)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(pieces, "PIECE", 4)
    return Model(tmp_path)


def test_a_killed_run_asks_again_only_what_was_being_answered(model: Model, tmp_path: Path) -> None:
    model.dies_at = 6
    with pytest.raises(KeyboardInterrupt):
        model.run()
    model.dies_at, model.asked = None, []
    table = model.run()
    assert model.asked == [4, 5, 6, 7, 8, 9]
    assert (model.meters[-1].skipped, model.meters[-1].done) == (4, 10)
    assert table.column("item_id").to_pylist() == [str(number) for number in range(10)]
    whole = Model(tmp_path / "whole")
    assert whole.run().equals(table) and whole.asked == list(range(10))


def test_a_kill_costs_a_few_hundred_questions_at_most(tmp_path: Path) -> None:
    """Of a 7B model a piece takes minutes on a small card."""
    model = Model(tmp_path)
    model.dies_at = 700
    with pytest.raises(KeyboardInterrupt):
        model.run(701)
    model.dies_at, model.asked = None, []
    assert len(model.run(701)) == 701
    assert model.asked == list(range(512, 701))


def test_what_is_answered_opens_no_model(model: Model) -> None:
    assert model.run().equals(model.run())
    assert model.opened == 1 and len(model.meters) == 1


def test_what_another_stage_has_answered_is_copied(model: Model, tmp_path: Path) -> None:
    asked = model.run()
    other = Model(tmp_path / "other")
    assert other.run(others=tmp_path).equals(asked) and not other.opened
    assert other.run().equals(asked), "it is in the journal of its own"
    (piece,) = tmp_path.glob("key/answers-4-8.parquet")
    piece.write_bytes(b"damaged")
    third = Model(tmp_path / "third")
    assert third.run(others=tmp_path).equals(asked) and third.asked == [4, 5, 6, 7]


def test_no_questions_are_no_rows(model: Model) -> None:
    assert len(model.run(0)) == 0 and model.opened == 0


@pytest.mark.parametrize("kind", ["incidents", "privacy"])
def test_pieces_change_no_answer(
    finetuned: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = finetuned(kind)
    answers = []
    for piece in (256, 5):
        monkeypatch.setattr(pieces, "PIECE", piece)
        command = ["--params", str(params), "--items", "items.jsonl", "--general", str(NONE)]
        assert baseline.main([*command, "--out", f"{piece}/baseline"]) == 0
        rows = read_table(Path(f"{piece}/baseline/predictions.parquet")).to_pylist()
        scores = [score for row in rows for score in row.pop("scores")]
        answers.append((rows, scores))
    assert answers[0][0] == answers[1][0] and len(answers[0][0]) == 12
    assert answers[0][1] == pytest.approx(answers[1][1], abs=1e-4)
    kept = {path.stem for path in Path(".work/baseline/journal").glob("*/*.parquet")}
    assert kept == {f"answers-{part}" for part in ("0-12", "0-5", "5-10", "10-12")}


def test_answers_belong_to_the_adapters_bytes(tmp_path: Path) -> None:
    """Training again changes an adapter though its path stays. Another name for it, or more files
    in its folder, change nothing.
    """
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    weights, config = (adapter / name for name in ADAPTER_FILES)
    weights.write_text("one")
    config.write_text("{}")
    model = Scoreable("adapted", "base", "main", "nf4", "float32", adapter, "chat")
    first = model.key()
    (adapter / "loss.csv").write_text("step,loss")
    assert first == model.key() == replace(model, name="start").key()
    assert first != replace(model, precision="bfloat16").key()
    weights.write_text("two")
    assert first != model.key()


def test_answers_are_kept_when_the_engine_gets_less_memory(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "rows.parquet", instruction_table(2))
    questions = Questions.held_out(tmp_path / "rows.parquet")
    model = Scoreable("zero_shot", "base", "main", "nf4", "float32", None, "chat")
    keys: list[str] = []

    def keep(journal: Path, key: str, *_: object) -> pa.Table:
        keys.append(key)
        return EVALUATIONS.empty_table()

    monkeypatch.setattr(predict, "keep_answers", keep)
    for change in ({}, {"gpu_memory_utilization": 0.5}, {"max_new_tokens": 3}):
        asked = params.evaluate.model_copy(update=change)
        predict.answer(model, questions, asked, tmp_path, lambda *_: None)  # type: ignore[arg-type]
    assert keys[0] == keys[1] != keys[2]
