"""The bench of the forecast: its cuts, and how it counts."""

from __future__ import annotations

from pathlib import Path

from benchmarks import forecast
from benchmarks.harness import PASSED
from flows.runs.forecast import Compared
from tests.conftest import ROOT


def test_a_cut_is_drawn_with_its_number(tmp_path: Path) -> None:
    first = forecast._cut(4, tmp_path / "a")
    again = forecast._cut(4, tmp_path / "b")
    other = forecast._cut(7, tmp_path / "c")
    names = [sorted(file.name for file in (tmp_path / name).iterdir()) for name in "abc"]
    assert names[0] == names[1] != names[2]
    assert first["generate"] == again["generate"] and first["evaluate"] == again["evaluate"]
    assert first["evaluate"]["dataset"] == other["evaluate"]["dataset"]
    assert Path(first["evaluate"]["items"]).is_relative_to(ROOT)


def test_it_counts_the_intervals_that_hold() -> None:
    def cut(rows: float, *more: str) -> list[Compared]:
        return [Compared("kept_rows", 10, 20, rows), *(Compared(key, 0, 9, 5) for key in more)]

    others = ("minutes", "peak_memory_mb", "disk_mb")
    tried = [cut(15, *others), cut(20, *others), cut(21, *others[:2])]
    found = {row.peer: row for row in forecast.count(tried)}
    assert found["kept_rows"].ratio == 2 and found["kept_rows"].target == 16
    assert not found["kept_rows"].met and found["minutes"].ratio == 3
    assert found["disk_mb"].ratio is None and found["disk_mb"].gate == "failed: 2 of 3 cuts"
    assert found["minutes"].gate == PASSED and found["minutes"].rounds == 3
    assert [one["within"] for one in found["kept_rows"].extra["cuts"]] == ["yes", "yes", "no"]
