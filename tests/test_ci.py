"""``.ci/bare`` gives a command an empty machine; ``.ci/leftovers.py`` names what it leaves
there. ``.ci/check_gain.py`` judges a run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONGEST, ROOT


def _leftovers(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ".ci/leftovers.py", str(folder), "make run"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_bare_machine_has_an_empty_home_and_temporary_folder_and_ends_as_the_command() -> None:
    code = 'touch "${TMPDIR:-/tmp}/mark"; ls -A "$BARE" "$HOME"; echo "$BARE"; exit 7'
    command = ["bash", ".ci/bare", "bash", "-c", code]
    env = {**os.environ, "BONITO_CACHE": "/srv/cache", "XDG_CACHE_HOME": "/srv/cache"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    *listed, place = done.stdout.split()
    # A checkout in a temporary folder stays visible.
    own = [
        folder.name
        for folder in (ROOT, *ROOT.parents)
        if str(folder.parent) in ("/tmp", "/var/tmp")
    ]
    assert [name for name in listed if name not in own] == [
        f"{place}:",
        "home",
        "mark",
        f"{place}/home:",
    ]
    assert not Path("/tmp/mark").exists()


def test_the_cache_folder_may_stay(tmp_path: Path) -> None:
    (tmp_path / "home/.cache/bonito-pipeline/vllm").mkdir(parents=True)
    (tmp_path / "pytest-of-me/pytest-0").mkdir(parents=True)
    assert _leftovers(tmp_path).returncode == 0


@pytest.mark.parametrize("name", ["ray", "home/.ray", "home/.cache/vllm"])
def test_whatever_else_is_left_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "inner").mkdir(parents=True)
    done = _leftovers(tmp_path)
    assert done.returncode == 1
    assert f"error: 'make run' left in {tmp_path}, outside the checkout: {name} (" in done.stderr


_GAIN = {"zero_shot": 5.0, "f1": 34.0}


@pytest.mark.parametrize(
    ("metrics", "status", "said"),
    [
        (_GAIN, 0, "F1 5.0 zero-shot, 34.0 adapted: +29.0"),
        (
            _GAIN | {"zero_shot": 34.0},
            1,
            "adaptation did not help: F1 34.0 zero-shot, 34.0 adapted",
        ),
        (_GAIN | {"start": 33.4, "gain_over_start_high": 3.4}, 0, "33.4 the start alone: +0.6"),
        (_GAIN | {"start": 34.5, "gain_over_start_high": 0.0}, 0, "34.5 the start alone: -0.5"),
        (
            _GAIN | {"start": 39.0, "gain_over_start_high": -0.1},
            1,
            "adaptation did harm: F1 39.0 of the",
        ),
    ],
)
def test_a_run_must_gain_and_not_fall_clearly_below_its_start(
    tmp_path: Path, metrics: dict[str, float], status: int, said: str
) -> None:
    """Most starts are far above the unadapted model: a training that spoils one still gains."""
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    command = [sys.executable, ".ci/check_gain.py", str(tmp_path / "metrics.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stdout + done.stderr) == (status, True), done


def test_the_files_that_go_out_first_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []
