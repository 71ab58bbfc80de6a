"""Which files the stage reads again: new, changed and unfinished ones, with the same bytes however
the work was shared or interrupted.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from tasks.ingest import stage as ingest
from tasks.ingest.sources import LocalCorpus
from tests.ingest.corner import (
    ROOT,
    SENTENCES,
    read_rows,
    read_summary,
    run_ingest,
    write_params,
)
from tests.ingest.hostile_files import replace_rtf_parser


def test_a_new_version_of_a_library_that_reads_reads_again() -> None:
    modules = set()
    languages = ROOT / "tasks" / "core" / "languages.py"
    for path in (*(ROOT / "tasks" / "ingest").rglob("*.py"), languages):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                modules.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Import):
                modules.update(alias.name.partition(".")[0] for alias in node.names)
    named = packages_distributions()
    libraries = {library for module in modules for library in named.get(module, ())}
    fetching = {"aiohttp", "datasets", "fsspec", "yarl"}
    # Their values are the same in all versions: sums, and hashes.
    same = {"numpy", "xxhash"}
    assert libraries - fetching - same == {*ingest._LIBRARIES}


def test_a_file_that_takes_too_long_in_all_is_tried_again_by_the_next_run(
    corner: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (f"{sentence} {number}." for number in range(300) for sentence in SENTENCES[:20])
    (corner / "corpus" / "a.txt").write_text("\n\n".join(lines))
    write_params(corner, file_total_seconds=0.0001)
    assert run_ingest() == 2
    assert "a.txt: timeout, more than 0.0001 s in all: the rest was not read" in (
        capsys.readouterr().err
    )
    write_params(corner, file_total_seconds=0)
    assert run_ingest() == 0
    assert len(read_rows("passages")) > 100
    assert "timeout" not in {row["reason"] for row in read_rows("rejects")}


def test_the_same_bytes_with_one_worker_or_four_or_on_a_cluster(corner: Path) -> None:
    """One file cannot be read: its reason is the same, too."""
    (corner / "corpus" / "broken.pdf").write_bytes(b"%PDF-1.4\nnothing")
    for number in range(12):
        (corner / "corpus" / f"{number}.txt").write_text(
            "\n\n".join(SENTENCES[number : number + 20])
        )
    found = []
    for workers in ({"workers": 1}, {"workers": 4}, {"ray_workers": 2}):
        write_params(corner, **workers)
        (corner / ".work" / "ingest" / "journal.sqlite").unlink(missing_ok=True)
        assert run_ingest() == 0
        assert read_summary()["unread"] and not list((corner / ".work").glob("ingest/unpacked"))
        found.append(
            [
                (corner / "artifacts" / "ingest" / name).read_bytes()
                for name in ("passages.parquet", "rejects.parquet", "summary.json", "report.html")
            ]
        )
    assert found[0] == found[1] == found[2]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each run reads."""
    counts: list[int] = []
    original = ingest.read_files

    def count(jobs: Any, *rest: Any) -> Any:
        taken = list(jobs)
        counts.append(len(taken))
        return original(taken, *rest)

    monkeypatch.setattr(ingest, "read_files", count)
    return counts


def test_only_new_files_are_read_again(corner: Path, read: list[int]) -> None:
    for number in range(5):
        (corner / "corpus" / f"{number}.txt").write_text(SENTENCES[number])
    assert run_ingest() == 0 == run_ingest()
    (corner / "corpus" / "5.txt").write_text(SENTENCES[5])
    (corner / "corpus" / "0.txt").write_text(SENTENCES[50])
    assert run_ingest() == 0
    write_params(corner, min_tokens=6)
    assert run_ingest() == 0
    assert read == [5, 0, 2, 6]
    assert len(read_rows("passages")) == 6


@pytest.mark.parametrize(("fault", "files"), [("os.abort()", [2, 1]), ("raise ValueError", [2, 0])])
def test_a_file_that_cost_its_process_is_read_again_a_damaged_one_is_not(
    corner: Path, monkeypatch: pytest.MonkeyPatch, read: list[int], fault: str, files: list[int]
) -> None:
    code = f"import os\ndef rtf_to_text(*a, **k): {fault}"
    replace_rtf_parser(corner, monkeypatch, code)
    (corner / "corpus" / "bad.rtf").write_bytes(rb"{\rtf1 x}")
    (corner / "corpus" / "good.txt").write_text(SENTENCES[0])
    assert run_ingest() == 0 == run_ingest()
    assert read == files


def test_a_killed_run_continues_and_gives_the_same_bytes(corner: Path) -> None:
    for number in range(150):
        (corner / "corpus" / f"{number:03}.md").write_text(
            "\n\n".join(f"{number} {sentence}" for sentence in SENTENCES)
        )
    assert run_ingest() == 0
    whole = (corner / "artifacts" / "ingest" / "passages.parquet").read_bytes()
    journal = corner / ".work" / "ingest" / "journal.sqlite"
    for leftover in journal.parent.glob("journal.sqlite*"):
        leftover.unlink()
    command = [
        sys.executable,
        "-m",
        "tasks.ingest",
        "--params",
        "params.yaml",
        "--corpus",
        "corpus",
        "--items",
        "items.jsonl",
        "--out",
        "artifacts/again",
    ]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None and _done(journal) < 20:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 20 <= _done(journal) < 150
    assert not (corner / "artifacts" / "again").exists()
    assert run_ingest() == 0
    assert (corner / "artifacts" / "ingest" / "passages.parquet").read_bytes() == whole


def _done(journal: Path) -> int:
    import sqlite3

    try:
        base = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return 0
    try:
        return int(base.execute("SELECT count(*) FROM done").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        base.close()


def test_a_file_that_changes_while_it_is_read_is_read_again(
    corner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = corner / "one.txt"
    file.write_text(SENTENCES[0])
    original = LocalCorpus.fetch

    def fetch(self: LocalCorpus, place: str) -> Path:
        file.write_text(SENTENCES[1])
        return original(self, place)

    with monkeypatch.context() as patch:
        patch.setattr(LocalCorpus, "fetch", fetch)
        assert run_ingest(str(file), evaluation="") == 0
    file.write_text(SENTENCES[0])
    assert run_ingest(str(file), evaluation="") == 0
    assert [row["text"] for row in read_rows("passages")] == [SENTENCES[0]]


def test_a_file_that_grows_beyond_its_limit_while_it_is_read_costs_itself(
    corner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(corner, max_file_mb=1)
    for number, name in enumerate(("one", "two")):
        (corner / "corpus" / f"{name}.txt").write_text(SENTENCES[number])
    original = LocalCorpus.fetch

    def fetch(self: LocalCorpus, place: str) -> Path:
        found = original(self, place)
        if place.endswith("one.txt"):
            Path(place).write_text(SENTENCES[0] * (2**21 // len(SENTENCES[0])))
        return found

    monkeypatch.setattr(LocalCorpus, "fetch", fetch)
    assert run_ingest(evaluation="") == 0
    assert SENTENCES[1] in {row["text"] for row in read_rows("passages")}


def test_what_changes_during_the_stage_is_read_by_the_next_run(
    corner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC hashes the corpus when the stage has ended, and would take the new text for read."""
    (corner / "corpus" / "a.txt").write_text("The pump failed at noon because its seal broke.")
    read = ingest._read_new

    def read_and_write(*arguments: Any) -> None:
        read(*arguments)
        (corner / "corpus" / "a.txt").write_text("The valve was replaced in the evening of May 3.")

    assert run_ingest() == 0 and read_summary()["unsettled"] == 0
    monkeypatch.setattr(ingest, "_read_new", read_and_write)
    assert run_ingest() == 0 and read_summary()["unsettled"] == 1
    monkeypatch.setattr(ingest, "_read_new", read)
    assert run_ingest() == 0 and read_summary()["unsettled"] == 0
    assert "valve" in read_rows("passages")[0]["text"]
