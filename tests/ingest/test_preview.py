"""``make ingest``: passages to look at, before a run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.core.files import read_json
from tasks.core.parquet import read_table
from tests.ingest.corner import (
    ROOT,
    SENTENCES,
)


def test_make_ingest_takes_a_name_with_spaces(
    corner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command behind ``make ingest``, through make itself but for the set-up."""
    command = [
        "make",
        "--no-print-directory",
        "-n",
        "ingest",
        "CORPUS=my docs/é",
        "SET=ingest.languages=[en]",
    ]
    recipe = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]
    # From the environment, where make puts it: the shell does not look into it.
    evil = f"CORPUS=`touch {corner / 'ran'}`"
    tried = ["make", "-o", "setup", "ingest", evil, "BIN=/nowhere"]
    assert subprocess.run(tried, cwd=ROOT, capture_output=True, check=False).returncode
    assert not (corner / "ran").exists()
    assert 'scripts/ingest.py --corpus="$CORPUS" ' in recipe
    from scripts import ingest as script

    (corner / "my docs").mkdir()
    (corner / "my docs" / "a.txt").write_text(SENTENCES[0])
    settings = [
        f"generate.generator={corner / 'generator'}",
        "ingest.min_tokens=5",
        "ingest.workers=1",
    ]
    assert script.main(["--corpus", "my docs", "--settings", " ".join(settings)]) == 0
    preview = read_table(corner / "artifacts/preview/passages.parquet")
    assert preview["document"].to_pylist() == ["a.txt"]
    told = read_json(corner / "artifacts/preview/cut.json")
    assert told["corpus"] == str((corner / "my docs").resolve()), "make label looks at it"
    assert not (corner / "artifacts/ingest").exists(), "the pipeline's own artifacts stay"
    assert script.main(["--corpus", ""]) == 2
    monkeypatch.setenv("HOME", str(corner))  # zsh leaves the ~ behind the = to the program
    assert script.main(["--corpus", "~/my docs", "--settings", " ".join(settings)]) == 0
    assert read_json(corner / "artifacts/preview/cut.json") == told


@pytest.mark.parametrize(
    ("arguments", "printed", "flags"),
    [
        ([], "in the evaluation    not checked", [False]),
        (["--evaluation", "items.jsonl"], "in the evaluation    1 passages", [True]),
        (["--profile", "privacy"], "in the evaluation    1 passages", [True]),
        (["--profile", "contracts"], "in the evaluation    not checked", [False]),  # no file yet
    ],
)
def test_a_preview_compares_with_the_items_it_was_given_or_the_profiles(
    corner: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    printed: str,
    flags: list[bool],
) -> None:
    """A copy of the passage is dropped as a duplicate: it is in no count."""
    from scripts import ingest as script

    (corner / "docs").mkdir()
    for name in ("a.txt", "b.txt"):
        (corner / "docs" / name).write_text(SENTENCES[0])
    item = {"id": "1", "context": SENTENCES[0], "question": "Q?", "answers": ["a"], "answer": "yes"}
    for items in (corner / "items.jsonl", corner / "data/privacy/evaluation.jsonl"):
        items.parent.mkdir(parents=True, exist_ok=True)
        items.write_text(json.dumps(item) + "\n")
    shutil.copytree(ROOT / "datasets", corner / "datasets", dirs_exist_ok=True)
    settings = [f"generate.generator={corner / 'generator'}", "ingest.min_tokens=5"]
    settings += ["ingest.workers=1", "ingest.near_duplicates=0.0"]
    assert script.main(["--corpus", "docs", *arguments, "--set", *settings]) == 0
    told = capsys.readouterr()
    assert printed in told.err and "artifacts/preview/report.html" in told.out
    page = (corner / "artifacts/preview/report.html").read_text()
    assert "<nav" not in page, "no other stage follows a look at a corpus"
    rows = read_table(corner / "artifacts/preview/passages.parquet")
    assert rows["in_evaluation"].to_pylist() == flags
