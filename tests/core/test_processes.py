"""Several processes train one model: the real launcher with two CPU processes, a death among them,
and the result of one process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from safetensors.torch import load_file

import bonito.finetune.stage
import tasks.finetune.stage
from bonito.settings import merge_settings
from tasks.core.errors import PipelineError
from tasks.core.parquet import write_table
from tasks.core.process import is_alive, is_launched, peak_memory
from tasks.lm.training import train
from tests.conftest import EARLY, ROOT
from tests.lm.test_training import _EXAMPLES

#: In the training's second process: die as soon as the first checkpoint is whole. It takes the place
#: of tests/early, and does the same.
_DIE = """
import gc, os, pathlib, threading, time
gc.set_threshold(10_000, 20, 20)
if os.environ.get("RANK") == "1" and "tests_die" in os.environ:
    def watch():
        while not list(pathlib.Path(".work").rglob("checkpoint-4/manifest.sha256.json")):
            time.sleep(0.01)
        os._exit(3)
    threading.Thread(target=watch, daemon=True).start()
"""

#: A stage in miniature: rank 0 waits, rank 1 does what the argument says.
_WORKER = """
import os, signal, sys, time
from pathlib import Path
from tasks.core.process import die_with_parent, rank, world_size
die_with_parent()
assert world_size() == 2 and int(os.environ["OMP_NUM_THREADS"]) >= 1
Path(f"{rank()}.pid").write_text(str(os.getpid()))
while not (Path("0.pid").exists() and Path("1.pid").exists()):
    time.sleep(0.01)
what = sys.argv[1]
if what == "wait" or (rank() == 0 and what != "done"):
    time.sleep(300)
if what == "kill" and rank() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(what) if what.isdigit() else 0)
"""

_LAUNCH = """
import json, sys
from pathlib import Path
from tasks.core.errors import PipelineError
from tasks.core.process import launch
found = []
for what in sys.argv[1:]:
    for old in Path().glob("?.pid"):
        old.unlink()
    try:
        found.append(launch("worker", [what], 2))
    except PipelineError as error:
        found.append(str(error))
Path("found.json").write_text(json.dumps(found))
"""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """A user's environment whose accelerate configuration would start seven processes on a TPU."""
    home = folder / "home"
    (home / "accelerate").mkdir(parents=True, exist_ok=True)
    (home / "accelerate/default_config.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: XLA\nnum_processes: "
        "7\ndebug: false\n"
    )
    return (
        os.environ
        | {"HF_HOME": str(home), "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), EARLY])}
        | more
    )


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_launcher_passes_on_the_status_and_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(_WORKER)
    command = [sys.executable, "-c", _LAUNCH]
    done = subprocess.run(
        [*command, "done", "3", "kill"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    fine, failed, killed = json.loads((tmp_path / "found.json").read_text())
    assert (fine, failed) == (0, 3) and "process 1 of 2 was killed by signal 9" in killed
    assert done.stderr == ""
    marks = [tmp_path / "0.pid", tmp_path / "1.pid"]
    assert not any(is_alive(mark.read_text()) for mark in marks), "rank 0, which waits, ends too"
    for mark in marks:
        mark.unlink()
    with subprocess.Popen([*command, "wait"], cwd=tmp_path, env=environment(tmp_path)) as launcher:
        wait_until(lambda: all(mark.exists() and mark.read_text() for mark in marks))
        launcher.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(is_alive(mark.read_text()) for mark in marks))


def make_inputs(folder: Path, model: Path, processes: int) -> list[str]:
    """Rows and parameters of a generator's training in ``folder``: 77 rows in 20 steps, the last
    one short. Returns the stage's arguments.
    """
    rows = [
        {
            "row_id": f"{n:02}",
            "dataset": "pumps",
            "template": "ask",
            "task_type": "exqa",
            "context": f"Pump {n} broke." * (1 + n % 3),
            "instruction": "{{context}}\nWhat broke?",
            "response": f"Pump {n}",
        }
        for n in range(13)
    ]
    folder.mkdir()
    write_table(folder / "rows.parquet", pa.Table.from_pylist(rows))
    settings = [
        f"finetune.model={model}",
        f"finetune.processes={processes}",
        "finetune.mixture={}",
        "finetune.balance=[]",
        "finetune.precision=float32",
        "finetune.quantization=none",
        "finetune.batch_rows=4",
        "finetune.micro_batch_rows=1",
        "finetune.epochs=5.9",
        "finetune.max_steps=0",
        "finetune.checkpoint_steps=4",
        "finetune.max_prompt_tokens=800",
    ]
    (folder / "params.yaml").write_text(yaml.safe_dump(merge_settings("embedded", settings)))
    return ["--params", "params.yaml", "--rows", "rows.parquet", "--out", "artifacts/finetune"]


def losses(folder: Path) -> list[float]:
    return [
        float(line.split(",")[1])
        for line in (folder / "artifacts/finetune/loss.csv").read_text().splitlines()[1:]
    ]


def adapter(folder: Path) -> tuple[str, Any]:
    """The key of the checkpoints, and the last one's float32 weights that start from zero."""
    (checkpoint,) = (folder / ".work/bonito/finetune/checkpoints").glob("*/checkpoint-20")
    return checkpoint.parent.name, {
        name: value
        for name, value in load_file(checkpoint / "adapter_model.safetensors").items()
        if "lora_B" in name
    }


def test_two_processes_train_what_one_does_though_one_of_them_died(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    arguments = make_inputs(alone, tiny_model, 1)
    monkeypatch.chdir(alone)
    assert bonito.finetune.stage.main(arguments) == 0

    arguments = make_inputs(both, tiny_model, 2)
    (both / "sitecustomize.py").write_text(_DIE)
    command = [sys.executable, "-m", "bonito.finetune", *arguments]
    died = subprocess.run(
        command,
        cwd=both,
        env=environment(both, tests_die="1"),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert died.returncode == 3, died.stderr
    assert not [*(both / "artifacts").iterdir()], "nothing half-written"
    done = subprocess.run(
        command,
        cwd=both,
        env=environment(both),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training on 13 rows, continuing from checkpoint-") == 1, done.stderr
    assert sorted(path.name for path in (both / ".work/bonito").iterdir()) == ["finetune"], (
        "what the second process wrote is thrown away"
    )
    assert {path.name for path in (both / "artifacts/finetune").iterdir()} == {
        path.name for path in (alone / "artifacts/finetune").iterdir()
    }

    assert len(losses(both)) == 20 and losses(both) == pytest.approx(losses(alone), rel=1e-3)
    (key_alone, one), (key_both, two) = adapter(alone), adapter(both)
    assert key_alone == key_both
    difference = sum(float((one[name] - two[name]).square().sum()) for name in one) / sum(
        float(value.square().sum()) for value in one.values()
    )
    assert difference**0.5 < 0.01


def test_a_process_that_does_not_lead_writes_nothing(
    tmp_path: Path,
    tiny_model: Path,
    instructions: Path,
    make_params: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = make_params(
        finetune={
            "model": str(tiny_model),
            "max_steps": 2,
            "batch_rows": 4,
            "micro_batch_rows": 2,
            "precision": "float32",
            "processes": 2,
        }
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert is_launched()
    given = ["--instructions", str(instructions), "--start", str(ROOT / "supervision/none")]
    assert (
        tasks.finetune.stage.main(["--params", str(params), *given, "--out", "artifacts/finetune"])
        == 0
    )
    assert capsys.readouterr().err == ""
    written = {
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if path.is_file() and "checkpoints" not in path.parts
    }
    assert written == {"params.yaml", "instructions.parquet"}


def test_a_batch_that_the_processes_cannot_share_is_named(
    params: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = params.finetune.model_copy(update={"batch_rows": 8, "micro_batch_rows": 8})
    with pytest.raises(
        PipelineError,
        match="finetune.micro_batch_rows = 8 times 2 processes must divide finetune.batch_rows = 8",
    ):
        train(_EXAMPLES, settings, 1, tmp_path / "out", tmp_path / "ck")


def test_the_most_memory_is_not_that_of_who_started_the_process() -> None:
    held = b"x" * (400 << 20)
    code = "from tasks.core.process import peak_memory; print(peak_memory())"
    own = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 < float(own.stdout) < len(held) / 2**20 < peak_memory()
    assert peak_memory(2**22 + 1) == 0  # the kernel gives no process this number
