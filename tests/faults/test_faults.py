"""The short version of ``make soak``: every kind of answer to a fault, once.

The figures of the long one are in docs/operations.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.faults.catalogue import SHORT, faults

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses fork, /proc and mounts")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The table, by fault."""
    out = tmp_path_factory.mktemp("soak") / "results.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "tests.faults", "--short", "--out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert out.exists(), done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(Path(out).read_text())
    return {row["fault"]: row for row in found}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", SHORT)
def test_what_is_promised_is_kept(rows: dict[str, dict[str, Any]], fault: str) -> None:
    row = rows[fault]
    if str(row.get("note", "")).startswith("not run"):
        pytest.skip(row["note"])
    assert row["trials"] > 0
    assert row["kept"] == row["trials"], row["note"]


def test_the_short_version_names_faults_that_exist() -> None:
    assert set(SHORT) <= {fault.name for fault in faults()}
