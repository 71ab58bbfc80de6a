"""The working folder of the tests of the stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ingest.corner import DATASET, item, save_tokenizer, write_params


@pytest.fixture
def corner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with parameters, a word-level tokenizer, an evaluation set and an empty
    corpus.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    save_tokenizer(tmp_path / "generator")
    (tmp_path / "dataset.yaml").write_text(DATASET)
    (tmp_path / "items.jsonl").write_text(
        item("No document of this corpus has these words in this order.")
    )
    write_params(tmp_path)
    return tmp_path
