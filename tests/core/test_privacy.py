"""Nothing phones home: every switch is set before any library is imported, also where nothing else
is in the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import pytest

from tasks.core.privacy import CACHES, SILENT
from tests.conftest import EARLY, ROOT


def _python(code: str, stderr: int = subprocess.PIPE) -> str:
    """Run code with an environment that is as good as empty: under pytest or CI some libraries
    switch themselves off.

    HOME is an empty folder, as Prefect makes ~/.prefect when it is imported alone. Returns what is
    printed; with ``stderr=subprocess.STDOUT`` on both streams.
    """
    with tempfile.TemporaryDirectory() as home:
        env = {"PATH": os.defpath, "HOME": home, "OMP_NUM_THREADS": "1", "PYTHONPATH": EARLY}
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            check=True,
        )
    return done.stdout


@pytest.mark.parametrize("package", ["tasks", "flows", "bonito"])
def test_importing_a_package_silences_everything(package: str) -> None:
    module = {"bonito": "bonito.params", "flows": "flows.runs.summary"}.get(package, package)
    environment = json.loads(
        _python(f"import {module}, os, json; print(json.dumps(dict(os.environ)))")
    )
    assert {name: environment.get(name) for name in SILENT} == SILENT


def test_caches_of_libraries_are_in_ours_unless_the_user_has_put_them_elsewhere() -> None:
    code = "import {}, os, json; print(json.dumps(dict(os.environ)))"
    given = {"PATH": os.defpath, "BONITO_CACHE": "/srv/cache", "VLLM_CACHE_ROOT": "/srv/vllm"}
    for package in ("tasks", "flows"):
        command = [sys.executable, "-c", code.format(package)]
        done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, check=True)
        found = json.loads(done.stdout)
        expected = {name: f"/srv/cache/{folder}" for name, folder in CACHES.items()}
        expected["VLLM_CACHE_ROOT"] = "/srv/vllm"
        assert {name: found.get(name) for name in CACHES} == expected


def test_mlflow_vllm_and_hub_take_the_switches() -> None:
    code = """
import tasks
from mlflow.telemetry.utils import is_telemetry_disabled
from huggingface_hub import constants
print(is_telemetry_disabled(), constants.HF_HUB_DISABLE_TELEMETRY)
"""
    assert _python(code).split() == ["True", "True"]


def test_ray_takes_its_switch() -> None:
    code = """
import tasks
from ray._common.usage.usage_lib import usage_stats_enabled
print(usage_stats_enabled())
"""
    assert _python(code).split() == ["False"]
    assert _python(code.replace("import tasks", "")).split() == ["True"], "nothing was switched off"


@pytest.fixture(scope="module")
def imported() -> tuple[str, str]:
    """What a process prints while it imports the stages, and every address beyond this machine that
    it tries to reach then and while it imports the libraries.
    """
    code = """
import socket
asked = []
real = socket.socket.connect
socket.socket.connect = lambda self, address: asked.append(address) or real(self, address)
import tasks.evaluate.stage, tasks.finetune.stage, tasks.generate.stage, tasks.ingest.stage, tasks.register.stage, tasks.validate.stage, tasks.supervise.stage, tasks.baseline.stage
import bitsandbytes, peft
print("the stages are imported", flush=True)
import mlflow, prefect, great_expectations, transformers
print([address for address in asked if not str(address).startswith(("('127.", "/"))])
"""
    printed, mark, rest = _python(code, stderr=subprocess.STDOUT).partition(
        "the stages are imported\n"
    )
    assert mark, printed
    return printed, rest.strip().splitlines()[-1]


def test_importing_the_stages_opens_no_connection(imported: tuple[str, str]) -> None:
    assert imported[1] == "[]"


def test_importing_every_stage_prints_nothing(imported: tuple[str, str]) -> None:
    assert imported[0] == ""
