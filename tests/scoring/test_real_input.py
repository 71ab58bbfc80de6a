"""``scripts/real_input.py``: samples of published datasets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts import real_input

_ROW = {"id": "1", "context": "a", "question": "b?"}


@pytest.mark.parametrize(
    ("dataset", "row", "said"),
    [
        ("vitaminc", _ROW, "no 'evidence'"),
        ("pubmedqa", _ROW, "no 'pubid'"),
        ("privacyqa", _ROW, "no 'text'"),
        ("pubmedqa", {**_ROW, "pubid": 1}, "string indices must be integers"),
        ("squadshifts-nyt", {**_ROW, "context": ["a"]}, "unhashable type: 'list'"),
    ],
)
def test_a_file_of_another_dataset_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    dataset: str,
    row: dict[str, object],
    said: str,
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    asked = ["real_input", dataset, "--items", str(file), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", asked)
    assert real_input.main() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{file} is not {dataset} as published: {said}" in error
    assert not (tmp_path / "out").exists()
