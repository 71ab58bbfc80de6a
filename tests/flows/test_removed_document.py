"""What keeps the text of a removed document in DVC's cache, and the command that clears it, as
docs/continuing.md says.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.toy import dvc, environment, make_toy, write_stage

_SECRET = "the pump of Mr Nobody failed"
#: An ingest whose output has the documents' texts, as the real one's has.
_INGEST = """
import sys
from pathlib import Path
from tasks.core.files import write_text
from tasks.core.stage import Stage, run_stage

def work(stage: Stage) -> None:
    files = sorted(stage.path("source").glob("*.md"))
    write_text(stage.out / "passages.txt", "".join(file.read_text() for file in files))
    stage.summary(len(files), len(files))

if __name__ == "__main__":
    sys.exit(run_stage("ingest", work, inputs=[], settings={"source": "ingest.corpus"}))
"""


def _holders(root: Path) -> list[str]:
    """Return the files below ``root`` that hold the text."""
    return [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*"))
        if path.is_file() and _SECRET.encode() in path.read_bytes()
    ]


@pytest.mark.timeout(300)
def test_a_removed_document_stays_in_dvcs_cache_until_it_is_collected(tmp_path: Path) -> None:
    root = make_toy(tmp_path / "toy")
    write_stage(root, "ingest", _INGEST)
    corpus = root / "local/documents"
    corpus.mkdir(parents=True)
    (corpus / "kept.md").write_text("the valve holds\n")
    (corpus / "gone.md").write_text(f"{_SECRET}\n")
    params = root / "params.yaml"
    text = params.read_text().replace("data/incidents/documents", "local/documents")
    params.write_text(text)
    commit = ["git", "-C", str(root), "commit", "-qam", "own corpus"]
    subprocess.run(commit, check=True, env=environment(root))
    dvc(root, "repro", "dvc.yaml")
    assert "artifacts/ingest/passages.txt" in _holders(root)
    (corpus / "gone.md").unlink()
    dvc(root, "repro", "dvc.yaml")
    kept = _holders(root)
    assert kept and all(name.startswith(".dvc/cache/files/") for name in kept), kept
    dvc(root, "gc", "--workspace", "--force")
    assert _holders(root) == []
    assert "Running stage" not in dvc(root, "repro", "dvc.yaml").stdout, "today's results stay"
