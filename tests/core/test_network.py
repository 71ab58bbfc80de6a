"""Cut off from everything, under ``env -i``: every library is used, and every connection that it
tries is counted by the kernel's own trace.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

_TOOLS = shutil.which("strace") and shutil.which("unshare")
pytestmark = pytest.mark.skipif(not _TOOLS, reason="needs strace and unshare")

#: What each library does when it is used; the name is marked in the trace by access(2) to a file
#: that does not exist: few libraries make that call, while imports look at thousands of files with
#: stat(2), and each call that is traced takes time.
_USES = {
    "control": (
        "import socket\ntry: socket.create_connection(('192.0.2.1', 443), 1)\nexcept OSError: pass"
    ),
    "mlflow": """
import mlflow
mlflow.set_tracking_uri('sqlite:///' + str(folder / 'm.db'))
client = mlflow.MlflowClient()
run = client.create_run(client.create_experiment('x', artifact_location=(folder / 'a').as_uri()))
client.log_metric(run.info.run_id, 'f1', 1.0)
client.set_terminated(run.info.run_id)""",
    "prefect": "import prefect, prefect.flows\nprefect.flow(lambda: 1, name='x')",
    "great_expectations": """
from tasks.core.params import parse_params
from tasks.core.yaml_file import read_yaml
from tasks.validate.expectations import select_checks
from tasks.validate.suites import Suites
Suites(select_checks(parse_params(read_yaml(ROOT / 'params.yaml'), 'x').validate), folder / 'docs')""",
    "transformers": (
        "from tasks.lm.loading import load_model\nfrom tasks.lm.tokenizers import load_tokenizer\n"
        "load_model(model)\nload_tokenizer(model)"
    ),
    "peft": "import peft, bitsandbytes, accelerate",
    "vllm": (
        "import vllm\nfrom vllm.usage.usage_lib import UsageMessage, "
        "is_usage_stats_enabled\nassert not is_usage_stats_enabled()"
    ),
    "datasets": "import datasets, huggingface_hub\ndatasets.Dataset.from_dict({'a': [1]})",
    "dvc": (
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'dvc', 'status'], "
        "cwd=ROOT, check=False, capture_output=True)"
    ),
}


@pytest.fixture(scope="module")
def attempts(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, empty_store: Path
) -> dict[str, list[str]]:
    """Library -> addresses beyond loopback that it tried to reach."""
    folder = tmp_path_factory.mktemp("network")
    shutil.copy(empty_store, folder / "m.db")
    lines = [
        "import gc",
        "gc.set_threshold(10_000, 20, 20)",  # as tests/early, which is not on the path here
        "import tasks, flows, os, pathlib, time",
        (
            f"folder, model, ROOT = pathlib.Path({str(folder)!r}), {str(tiny_model)!r}, "
            f"pathlib.Path({str(ROOT)!r})"
        ),
    ]
    for name, code in _USES.items():
        lines += [f"os.access('/mark/{name}', os.F_OK)", code.strip()]
    lines += [
        "os.access('/mark/end', os.F_OK)",
        "time.sleep(1)",
        "print('used')",
    ]  # telemetry goes out from threads, a little later
    (folder / "uses.py").write_text("\n".join(lines))
    trace = folder / "trace"
    command = [
        "unshare",
        "-rn",
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-e",
        "trace=connect,sendto,?access,?faccessat,?faccessat2",
        "-o",
        str(trace),
    ]
    environment = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [*command, sys.executable, str(folder / "uses.py")],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if "Operation not permitted" in done.stderr and not trace.exists():
        pytest.skip("namespaces are not allowed here")
    assert done.stdout.strip().endswith("used"), done.stderr[-2000:]
    return _by_library(trace.read_text(errors="replace"))


def _by_library(trace: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    library = ""
    for line in trace.splitlines():
        if mark := re.search(r'"/mark/(\w+)"', line):
            library = mark[1]
            found[library] = []
        elif address := re.search(
            r'sin_addr=inet_addr\("([\d.]+)"\)|inet_pton\(AF_INET6, "([0-9a-f:.]+)"', line
        ):
            reached = address[1] or address[2]
            if (
                library
                and not reached.startswith("127.")
                and reached not in ("::1", "0.0.0.0", "::")
            ):
                found[library].append(line[:160])
    return found


@pytest.mark.timeout(600)
def test_an_attempt_would_be_counted(attempts: dict[str, list[str]]) -> None:
    assert len(attempts["control"]) >= 1


@pytest.mark.timeout(600)
@pytest.mark.parametrize("library", [name for name in _USES if name != "control"])
def test_no_library_tries_to_reach_anything(attempts: dict[str, list[str]], library: str) -> None:
    assert attempts[library] == []
    assert attempts["end"] == []
