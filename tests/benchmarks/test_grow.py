"""The bench of a corpus that grows: what it changes between its two runs, and its gate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks import grow
from benchmarks.commands import call
from benchmarks.harness import PASSED, ROOT
from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.overlay import read_layers
from tasks.core.params import parse_params
from tasks.core.parquet import write_table


def test_one_document_changes_one_comes_and_one_goes(tmp_path: Path) -> None:
    corpus = grow._write_corpus(tmp_path / "corpus", 100, texts=4)
    before = {file.name: file.read_bytes() for file in corpus.iterdir()}
    texts = {text for file in before.values() for text in file.split(b"\n# ")}
    assert len(texts) == 398, "one text has no digits"
    removed = grow._move(corpus, texts=4)
    after = {file.name: file.read_bytes() for file in corpus.iterdir()}
    assert len(before) == len(after) == 100
    assert set(before) - set(after) == {removed} and len(set(after) - set(before)) == 1
    assert sum(before[name] != after[name] for name in set(before) & set(after)) == 1


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({}, PASSED),
        ({"again": 40}, "failed: 4.0% of the rows were generated again"),
        ({"document": "gone.md"}, "failed: ingest/passages.parquet has rows of gone.md, which was"),
        ({"continues": False}, "failed: far"),
    ],
)
def test_its_gate(tmp_path: Path, change: dict[str, Any], gate: str) -> None:
    told = {"again": 10, "document": "here.md", "continues": True} | change
    checkout = tmp_path / ".runs" / "grow"
    again = told["again"]
    for folder in (".work/generate", "artifacts/finetune"):
        (checkout / folder).mkdir(parents=True)
    write_json(checkout / ".work/generate/reused.json", {"again": again, "reused": 1000 - again})
    for name in ("ingest/passages.parquet", "generate/predictions.parquet"):
        (checkout / "artifacts" / name).parent.mkdir(parents=True)
        write_table(checkout / "artifacts" / name, pa.table({"document": [told["document"]]}))
    champion = {"continues": told["continues"], "reason": "far"}
    write_json(checkout / "artifacts/finetune/summary.json", {"champion": champion})
    share = grow._shares_again(tmp_path)["generate"]
    assert grow._gate(tmp_path, "gone.md", share, 0.03).startswith(gate)


def test_what_makes_it_quick_are_settings() -> None:
    params = parse_params(*read_layers(ROOT / "params.yaml", settings=grow._QUICK))
    assert params.finetune.max_steps == 4 and params.verify.answers == 1


def test_a_run_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(PipelineError, match="^python.* -c import time; .* not end within 0 s"):
        call(command, tmp_path, most_seconds=0.1)
