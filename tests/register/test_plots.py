"""The plots of a registered model."""

from __future__ import annotations

from pathlib import Path

from tasks.register.plots import plot_f1


def test_a_score_outside_its_interval_is_drawn(tmp_path: Path) -> None:
    """Of many labels with one item each a resample misses a third, and those that all models get
    wrong do not lower its macro F1: its mean is above the score.
    """
    row = {"f1": 4.2, "f1_low": 4.4, "f1_high": 9.0}
    scores = {
        "dataset": "topics",
        "metric": "macro_f1",
        "items": 12,
        "adapted": {"by_dataset": {"topics": {**row, "by_template": {"plain": row}}}},
    }
    plot_f1(tmp_path / "f1.png", scores)
    assert (tmp_path / "f1.png").stat().st_size
