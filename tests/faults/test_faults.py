"""The short version of ``make soak``: every kind of answer to a fault, once.

The figures of the long ones are in docs/faults.md.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.faults import moments
from tests.faults.catalogue import SHORT, faults
from tests.faults.planted import QUICK, read_planted
from tests.faults.sometimes import BRANCHES
from tests.faults.world import INPUTS, fork, wait

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses fork, /proc and mounts")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> dict[str, dict[str, Any]]:
    """The table, by fault."""
    out = tmp_path_factory.mktemp("soak") / "results.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["FAULT_STORE"] = str(empty_store)
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


def test_the_stages_get_what_the_graph_gives_them() -> None:
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage, given in INPUTS.items():
        options = set(re.findall(r"--(\w+)", graph[stage]["cmd"])) - {"params", "out"}
        assert options <= set(given), stage


def test_every_recovery_branch_is_in_the_code_once() -> None:
    for branch in BRANCHES:
        path = ROOT.joinpath(*branch.module.split(".")).with_suffix(".py")
        compile(branch.insert(path.read_text()), branch.module, "exec")
    assert len({branch.name for branch in BRANCHES}) == len(BRANCHES)


def test_every_planted_fault_has_its_text_and_its_checks() -> None:
    planted, soaked = read_planted(), {fault.name for fault in faults()}
    assert len({fault.name for fault in planted}) == len(planted) >= 60
    assert set(QUICK) <= {fault.name for fault in planted}
    for fault in planted:
        source = (ROOT / fault.file).read_text()
        assert source.count(fault.old) == 1, fault.name
        compile(source.replace(fault.old, fault.new), fault.file, "exec")
        assert fault.checks, fault.name
        for check in fault.checks:
            path, _, test = check.partition("::")
            if check.startswith("soak: "):
                assert check.removeprefix("soak: ").partition(" @ ")[0] in soaked, fault.name
            else:
                assert f"def {test}(" in (ROOT / path).read_text(), fault.name


@pytest.mark.parametrize(("call", "status"), [("write", errno.EIO), ("read", errno.EIO), ("", 0)])
def test_writes_and_first_reads_are_moments(tmp_path: Path, call: str, status: int) -> None:
    """A file that is watched does what Python's does."""

    def act(moment: moments.Moment) -> None:
        if (moment.when, moment.call) == ("before", call):
            raise OSError(errno.EIO, "the disk fails", moment.path)

    def child() -> int:
        moments.watch(act)()
        path = Path("a.txt")
        try:
            path.write_text("\u00e9" * 9000 + "\n")
            with gzip.open("a.gz", "wt") as packed, path.open() as lines:
                packed.writelines(lines)
            with path.open("r+b", buffering=0) as file, path.open("a", buffering=1) as more:
                more.write("b\n")
                file.seek(-2, os.SEEK_END)
                assert file.read() == b"b\n" == path.read_bytes()[-2:]
            unpacked = gzip.decompress(Path("a.gz").read_bytes()).decode()
            assert unpacked + "b\n" == path.read_text()
        except OSError as error:
            return error.errno or 1
        return 0

    assert wait(fork(tmp_path, child, {})) == status, (tmp_path / "log").read_text()


@pytest.mark.timeout(300)
def test_the_eye_sees_a_few_planted_faults() -> None:
    """All of them: ``make soak-eye``."""
    command = [sys.executable, "-m", "tests.faults.planted", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"{len(QUICK)} of {len(QUICK)} planted faults are seen" in done.stdout, (
        done.stdout + done.stderr
    )
