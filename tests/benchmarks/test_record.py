"""The measurements that are committed, and the table that is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.harness import PASSED
from benchmarks.record import RECORDS, read_records, record, with_table
from benchmarks.rows import ResultRow
from tasks.core.errors import PipelineError

_README = "# Benchmarks\n<!-- table of results.json -->\nold\n<!-- end of the table -->\nMore.\n"


def _row(bench: str, ratio: float | None, gate: str = PASSED, **facts: object) -> ResultRow:
    given = {"unit": "rows/s", "target": 1.25, "low": 1.2, "high": 1.4, "rounds": 3} | facts
    return ResultRow(bench=bench, peer="peer", gate=gate, ratio=ratio, machine="a toy", **given)  # type: ignore[arg-type]


def test_the_committed_table_is_that_of_the_committed_rows() -> None:
    text = (RECORDS / "README.md").read_text("utf-8")
    assert with_table(text, read_records()) == text, "make bench BENCH=... RECORD=1 writes both"


def test_rows_are_kept_with_their_commit_and_replaced_by_bench(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(_README, "utf-8")
    record([_row("a", 1.3), _row("b", 1.1, better="less", unit="seconds")], ["a", "b"], tmp_path)
    record([_row("a", None, "failed: why")], ["a"], tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [(row["bench"], row["ratio"], row["gate"]) for row in rows] == [
        ("a", None, "failed: why"),
        ("b", 1.1, PASSED),
    ]
    assert all(row["commit"] and row["machine"] == "a toy" for row in rows)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert text.startswith("# Benchmarks\n") and text.endswith("\nMore.\n") and "old" not in text
    lines = [line for line in text.splitlines() if "peer" in line]
    assert "failed: why" in lines[0] and "1.25" in lines[0]
    assert "1.10 s (1.20 to 1.40)" in lines[1] and "at most 1.25: met" in lines[1]


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(PipelineError, match="has no lines"):
        with_table("# Benchmarks\n", [])


def test_quick_figures_are_not_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--size", "quick", "--record", "--only", "noop"]) == 2
    assert "are not recorded" in capsys.readouterr().err


def test_the_list_says_in_whole_sentences_what_each_bench_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["--list"]) == 0
    told = capsys.readouterr().out.splitlines()[::2]
    assert [line.partition(":")[0] for line in told] == list(command.BENCHES)
    assert all(line.endswith(".") for line in told)
