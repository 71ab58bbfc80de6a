"""generate: shards cut by the data, nothing generated twice, every prediction kept with its
reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.core.files import read_json, sha256_file
from tasks.core.params import Params
from tasks.core.parquet import read_table, write_table
from tasks.generate import shards
from tasks.generate import stage as module
from tasks.generate.plan import plan
from tests.conftest import Code, assert_pages_are_checked, passage_table
from tests.fakes import FakeEngine


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_params: Any, tiny_model: Path) -> Any:
    """Return a function that runs the stage in a folder of its own with a fake engine, and returns
    (exit status, engine).
    """

    def call(
        folder: str = "a", engine: FakeEngine | None = None, count: int = 10, **generate: Any
    ) -> tuple[int, FakeEngine]:
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        engine = engine or FakeEngine()
        monkeypatch.setattr(shards, "open_engine", lambda *_, **__: engine)
        write_table(Path("passages.parquet"), passage_table(count))
        path = make_params(
            generate={
                "generator": str(tiny_model),
                "shard_rows": 4,
                "task_types": ["exqa", "ynqa"],
                "samples": 1,
                **generate,
            }
        )
        return module.main(
            ["--params", str(path), "--passages", "passages.parquet", "--out", "artifacts/generate"]
        ), engine

    return call


def _rows(folder: str = ".") -> list[dict[str, Any]]:
    return read_table(Path(folder) / "artifacts/generate/predictions.parquet").to_pylist()


def test_every_prediction_is_kept_and_counted(run: Any) -> None:
    assert run()[0] == 0
    rows, summary = _rows(), read_json(Path("artifacts/generate/summary.json"))
    assert_pages_are_checked(Path("artifacts/generate/predictions.parquet"))
    assert len(rows) == summary["rows_in"] == 20
    assert {row["reason"] for row in rows} == {"", "no_pipe", "truncated"}
    assert (
        summary["rows_kept"]
        == sum(row["parsed"] for row in rows)
        == summary["rows_in"] - sum(summary["dropped"].values())
    )
    assert all(bool(row["instruction"]) == row["parsed"] for row in rows)
    assert summary["by_task_type"]["exqa"]["rows"] == summary["by_task_type"]["ynqa"]["rows"] == 10


def test_a_killed_run_repeats_nothing_and_ends_with_the_same_bytes(
    run: Any, tmp_path: Path
) -> None:
    assert run("whole")[0] == 0
    with pytest.raises(KeyboardInterrupt):
        run("killed", FakeEngine(die_after=3))
    status, engine = run("killed")
    assert status == 0 and len(engine.batches) == 2
    assert sha256_file(tmp_path / "whole/artifacts/generate/predictions.parquet") == sha256_file(
        tmp_path / "killed/artifacts/generate/predictions.parquet"
    )


def test_a_damaged_shard_is_done_again(run: Any) -> None:
    run()
    before = sha256_file(Path("artifacts/generate/predictions.parquet"))
    shard = sorted(Path(".work/generate/journal").rglob("shard-*.parquet"))[2]
    shard.write_bytes(shard.read_bytes()[:-40])
    status, engine = run()
    assert status == 0 and len(engine.batches) == 1
    assert sha256_file(Path("artifacts/generate/predictions.parquet")) == before


def test_another_setting_is_another_journal(run: Any) -> None:
    run()
    assert len(run(temperature=0.7)[1].batches) == 5
    assert len(run()[1].batches) == 0, "the first journal is still there"


def test_a_row_depends_on_its_own_key_alone(params: Params) -> None:
    few, many = passage_table(3), passage_table(9)
    settings = params.generate.model_copy(update={"samples": 2})
    seeds = {request.row_id: request.seed for request in plan([many], settings)}
    assert all(seeds[request.row_id] == request.seed for request in plan([few], settings))
    assert len(set(seeds.values())) == len(seeds) == 18


def test_max_passages_is_a_seeded_choice_in_file_order(params: Params) -> None:
    chosen = [
        [
            r.passage["passage_id"]
            for r in plan(
                [passage_table(40)],
                params.generate.model_copy(update={"max_passages": 6, "samples": 1, "seed": s}),
            )
        ]
        for s in (1, 1, 2)
    ]
    assert (
        chosen[0] == chosen[1] == sorted(chosen[0])
        and len(chosen[0]) == 6
        and chosen[0] != chosen[2]
    )


def test_no_passages_is_one_clear_line(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(count=0)[0] == 2
    assert "there are no passages to generate from" in capsys.readouterr().err


def test_a_missing_generator_is_one_clear_line(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(generator="./absent")[0] == 2
    assert "model './absent' is neither a folder here nor a hub name" in capsys.readouterr().err


def test_a_mended_parser_changes_the_rows(
    run: Any, edited_code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of the old parser are not taken from the journal; unrelated code keeps them there."""
    run()
    assert not any(row["response"].endswith(".") for row in _rows())
    edited_code.edit("tasks.lm.prompts", "from __future__", "# A comment.\nfrom __future__")
    edited_code.edit(
        "tasks.validate.labels", "import numpy as np\n", "import numpy as np\n\nUNRELATED = 1\n"
    )
    assert len(run()[1].batches) == 0
    edited = edited_code.edit(
        "tasks.lm.prompts",
        "return Task(instruction, response) if",
        "return Task(instruction, response + '.') if",
    )
    monkeypatch.setattr(shards, "parse_prediction", edited.parse_prediction)
    assert len(run()[1].batches) == 5
    assert {row["response"] for row in _rows() if row["parsed"]} == {"its seal broke."}
