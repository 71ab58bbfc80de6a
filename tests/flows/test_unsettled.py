"""What ingest could not read is tried again, though nothing that DVC looks at changed."""

from __future__ import annotations

from pathlib import Path

from flows.runs.dvc_graph import Node, list_behind
from flows.runs.dvc_repro import reproduce
from flows.runs.look import look
from flows.runs.unsettled import explain_unsettled
from flows.runs.worktree import Run
from tasks.core.files import read_json, write_json
from tests.toy import dvc, environment

_GRAPH = """
stages:
  ingest:
    cmd: python ingest.py
    deps: [ingest.py]
    outs: [artifacts/ingest]
"""
#: The first run leaves two files unread, the second one, and the third none.
_STAGE = """
import json
from pathlib import Path
runs = Path("runs")
number = int(runs.read_text()) + 1 if runs.is_file() else 1
runs.write_text(str(number))
out = Path("artifacts/ingest")
out.mkdir(parents=True)
(out / "summary.json").write_text(json.dumps({"unsettled": 3 - number, "rows": 7}))
"""


def test_ingest_runs_again_until_it_has_read_all(tmp_path: Path) -> None:
    silent = {"DVC_NO_ANALYTICS": "1"}  # no .dvc/config switches it off here
    dvc(tmp_path, "init", "--no-scm", "--quiet", **silent)
    (tmp_path / "dvc.yaml").write_text(_GRAPH)
    (tmp_path / "ingest.py").write_text(_STAGE)
    lines: list[str] = []
    known = environment(tmp_path) | silent
    told = [
        reproduce(tmp_path, "ingest", lines.append, lambda: None, known).status for _ in range(4)
    ]
    assert told == ["ran", "ran", "ran", "unchanged"]
    assert (tmp_path / "runs").read_text() == "3"
    assert [line for line in lines if "again" in line] == [
        f"ingest runs again: {count} files that it did not read may be read now" for count in (2, 1)
    ]


def test_what_reads_ingest_is_asked_again_too() -> None:
    after = {"ingest": (), "generate": ("ingest",), "baseline": (), "evaluate": ("generate",)}
    nodes = [Node(name, "", others, (), (), ()) for name, others in after.items()]
    assert list_behind(nodes, "ingest") == {"ingest", "generate", "evaluate"}


def test_a_look_sees_files_that_may_be_read_now(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.md").write_text("one")
    run = Run("mine", tmp_path, tmp_path, {"ingest": {"corpus": "corpus"}})
    first = look(run)
    write_json(first.state, {"settings": first.settings, "files": first.files})
    assert not look(run).changed and explain_unsettled(tmp_path) == ""
    summary = tmp_path / "artifacts" / "ingest" / "summary.json"
    summary.parent.mkdir(parents=True)
    write_json(summary, {"unsettled": 1})
    assert look(run).changed and look(run).describe().endswith(
        "1 files that it did not read may be read now"
    )
    write_json(summary, read_json(summary) | {"unsettled": 0})
    assert not look(run).changed
