"""Generation spread over a real Ray cluster: two nodes with a processor each, on loopback.

The rows do not tell that it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.core import ray_cluster, ray_workers
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, sha256_file
from tasks.core.parquet import write_table
from tasks.core.ray_cluster import Workers
from tasks.generate import stage as generate
from tests.conftest import ROOT, passage_table
from tests.flows.test_flows import await_no_process_in

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes. All its files are in a new folder."""
    folder = ray_cluster.make_folder()
    node = {
        "num_cpus": 1,
        "num_gpus": 0,
        "object_store_memory": 80 * 2**20,
        "include_dashboard": False,
    }
    with pytest.MonkeyPatch.context() as patch:
        # Not temp_dir: Cluster writes ray_current_cluster to Ray's default folder all the same,
        # and fails where that folder is not there. This variable moves the default folder.
        patch.setenv("RAY_TMPDIR", str(folder))
        ray_cluster.import_ray(Workers("generate", 1, "", 1))  # on loopback
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args=node)
        try:
            nodes.add_node(**node)
            yield nodes.address
        finally:
            nodes.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _inet_sockets(family: list[psutil.Process]) -> list[Any]:
    """Return the TCP and UDP sockets of those of these processes that are there."""
    sockets = []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets += process.net_connections("inet")
    return sockets


def _assert_on_loopback(family: list[psutil.Process]) -> None:
    """No server of these processes listens on, and none of them is connected to, another
    machine.
    """
    sockets = _inet_sockets(family)
    listening = {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}
    reached = {socket.raddr.ip for socket in sockets if socket.raddr}
    assert listening and reached and listening | reached <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_the_cluster_of_these_tests_is_on_loopback_and_in_its_folder(cluster: str) -> None:
    assert cluster.startswith("127.0.0.1:")
    _assert_on_loopback(psutil.Process().children(recursive=True))
    written = Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster")
    assert written.read_text() == cluster


def _spread(address: str, folder: Path, jobs: list[str], workers: int = 2) -> dict[int, str]:
    return dict(
        ray_workers.spread(
            "tests.toy_worker:worker",
            (str(folder),),
            enumerate(jobs),
            Workers("generate", workers, address, 3),
        )
    )


def _processes(folder: Path, job: str = "*") -> list[str]:
    return [mark.read_text() for mark in sorted(folder.glob(f"{job}.*"))]


def test_two_workers_share_the_jobs_and_a_death_costs_its_own_job_only(
    cluster: str, tmp_path: Path
) -> None:
    """With one worker more than there are processors: nobody waits for it."""
    found = _spread(cluster, tmp_path, ["slow", "slow", "die once", "a", "b"], workers=3)
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert found[3] == f"a done with 3 threads in {Path.cwd()}" and found[2].startswith(
        "die once done"
    )
    assert len(set(_processes(tmp_path, "slow"))) == 2, "one worker did all"
    assert len(set(_processes(tmp_path, "die once"))) == 2 and len(_processes(tmp_path)) == 6


def test_the_workers_end_with_the_work(cluster: str, tmp_path: Path) -> None:
    """With them their GPUs are free for what the stage does next."""
    _spread(cluster, tmp_path, ["slow", "slow"])
    deadline = time.monotonic() + 60
    while left := [number for number in _processes(tmp_path) if psutil.pid_exists(int(number))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_a_job_that_kills_every_worker_ends_in_one_line(cluster: str, tmp_path: Path) -> None:
    with pytest.raises(
        PipelineError, match=r"shard 1 ended its worker 3 times, .*take fewer workers"
    ):
        _spread(cluster, tmp_path, ["a", "die always"], workers=1)
    assert len(_processes(tmp_path, "die always")) == ray_workers.TRIES


def test_what_a_worker_refuses_is_its_own_line(cluster: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as refused:
        _spread(cluster, tmp_path, ["refuse"], workers=1)
    assert str(refused.value) == "the generator has no tokenizer: take another"


@pytest.fixture
def run(tmp_path: Path, make_params: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the stage in ``tmp_path`` with the tiny model, and returns (exit
    status, SHA-256 of its rows).
    """
    monkeypatch.chdir(tmp_path)
    write_table(Path("passages.parquet"), passage_table(10))

    def call(**settings: Any) -> tuple[int, str]:
        own = {
            "generator": str(tiny_model),
            "engine": "transformers",
            "shard_rows": 4,
            "samples": 1,
            "max_tokens": 8,
            "task_types": ["exqa", "ynqa"],
        }
        path = make_params(generate={**own, **settings})
        status = generate.main(
            ["--params", str(path), "--passages", "passages.parquet", "--out", "artifacts/generate"]
        )
        rows = Path("artifacts/generate/predictions.parquet")
        return status, sha256_file(rows) if rows.exists() else ""

    return call


def _shards() -> list[Path]:
    return sorted(Path(".work/generate/journal").rglob("shard-*.parquet"))


def test_workers_go_on_where_a_dead_run_stopped_and_give_the_same_bytes(
    run: Any, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, alone = run()
    shards = _shards()
    assert status == 0 and len(shards) >= 5
    kept = {path: path.stat().st_mtime_ns for path in shards[1:2]}
    for path in shards:
        if path not in kept:
            path.unlink()
    shutil.rmtree("artifacts")
    with monkeypatch.context() as patch:
        patch.setattr(
            "tasks.generate.shards.open_engine", None
        )  # of this process: the workers open their own
        assert run(workers=2, ray_address=cluster) == (0, alone)
    assert _shards() == shards, "another journal, as if other rows were asked for"
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert read_json(Path("artifacts/generate/summary.json"))["rows_in"] == 20
    # With all shards there no cluster is asked for.
    assert run(workers=3, ray_address="127.0.0.1:1") == (0, alone)


def test_workers_and_an_address_exclude_each_other(
    run: Any, make_params: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_params(
        generate={"workers": 2, "address": "http://127.0.0.1:9/v1"},
        supervise={"source": "prompted", "prompts": str(ROOT / "supervision/prompts")},
    )
    assert (
        generate.main(["--params", str(path), "--passages", "passages.parquet", "--out", "out"])
        == 2
    )
    assert "generate.workers open the model themselves" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, address: str) -> None:
    with pytest.raises(
        PipelineError,
        match=f"no Ray cluster answers at generate.ray_address = '{address}' .*refused",
    ):
        _spread(address, tmp_path, ["a"])


def test_without_ray_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PipelineError, match="workers of generate need Ray, .* pip install ray"):
        _spread("", tmp_path, ["a"])


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose name is short enough for Ray's sockets, as the place of temporary files."""
    folder = next(place for place in map(Path, (f"/tmp/{n}" for n in range(99))) if _is_new(place))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def _is_new(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_cluster_of_its_own_is_on_loopback_and_dies_with_the_stage(
    tmp_path: Path,
    short: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Also where Ray was imported before the cluster was asked for, HOME is empty and so is
    /tmp.
    """
    home = tmp_path / "home"
    home.mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import ray; from "
        "tasks.core.ray_cluster import Workers; from tasks.core.ray_workers import spread\n"
    )
    code += (
        f"list(spread('tests.toy_worker:worker', ({str(tmp_path)!r},), [(0, 'hang')], "
        "Workers('generate', 1, '', 1)))"
    )
    env = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9", "TMPDIR": str(short), "HOME": str(home)}
    for of_the_fixture in ("RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_TMPDIR"):
        env.pop(of_the_fixture, None)
    stage = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env)
    request.addfinalizer(stage.kill)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("hang.*")):
        assert stage.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    family = psutil.Process(stage.pid).children(recursive=True)
    assert {process.nice() for process in family} == {psutil.Process().nice()}, (
        "work that waits for everyone else's"
    )
    _assert_on_loopback([psutil.Process(stage.pid), *family])
    assert not list(home.iterdir()), "Ray wrote into HOME"
    stage.kill()
    stage.wait()
    deadline = time.monotonic() + 30
    while left := [process for process in family if _lives(process)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    await_no_process_in(tmp_path)
    (left,) = short.iterdir()
    ray_cluster.make_folder()
    assert not left.exists(), "what a killed stage left stays for ever"
