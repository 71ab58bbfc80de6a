"""Files are whole or absent, and the same rows give the same bytes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.core.errors import PipelineError
from tasks.core.files import (
    atomic_path,
    fingerprint,
    read_json,
    row_seed,
    sha256_file,
    sha256_folder,
    staged_folder,
    sweep,
    temporary_files_in,
    write_json,
)
from tests.conftest import ROOT


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": True})
    with pytest.raises(RuntimeError), atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"old": True} and [child.name for child in tmp_path.iterdir()] == [
        "a.json"
    ]


def test_threads_that_write_one_file_do_not_take_each_others_draft(tmp_path: Path) -> None:
    file = tmp_path / "beat.json"
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: write_json(file, number), range(200)))
    assert read_json(file) in range(200) and [*tmp_path.iterdir()] == [file]


def test_a_failed_stage_leaves_no_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        staged_folder(tmp_path / "out", tmp_path / "scratch") as folder,
    ):
        (folder / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_staged_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with staged_folder(tmp_path / "out", tmp_path / "scratch") as folder:
            (folder / name).write_text(name)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "what was there goes"


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk than ``tmp_path``."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no disk of its own here")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


def test_an_output_on_another_disk_is_refused_before_any_work(
    tmp_path: Path, other_disk: Path
) -> None:
    (tmp_path / "artifacts").symlink_to(other_disk)
    with (
        pytest.raises(PipelineError, match=r"artifacts and .*work .* on one disk"),
        staged_folder(tmp_path / "artifacts/ingest", tmp_path / "work/output"),
    ):
        raise AssertionError("the work has begun")
    assert [*other_disk.iterdir()] == [] and [*(tmp_path / "work").iterdir()] == []


def test_so_is_one_behind_another_mount_of_the_same_disk(tmp_path: Path) -> None:
    """The kernel renames within one mount alone."""
    program = (
        "from pathlib import Path\nfrom tasks.core.files import staged_folder\n"
        "with staged_folder(Path('artifacts/ingest'), Path('work/output')): print('begun')\n"
    )
    (tmp_path / "artifacts").mkdir()
    script = 'mount --bind artifacts artifacts && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, sys.executable, program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "PipelineError" not in done.stderr and "begun" not in done.stdout:
        pytest.skip(f"mounting is not allowed here: {done.stderr[-200:]}")
    assert "on one disk" in done.stderr and "begun" not in done.stdout


def test_temporary_files_are_where_the_next_process_finds_them(tmp_path: Path) -> None:
    folder, before = tmp_path / "temporary", tempfile.gettempdir()
    folder.mkdir()
    (folder / "of a killed process").touch()
    with pytest.raises(RuntimeError), temporary_files_in(folder):
        assert list(folder.iterdir()) == []
        assert Path(tempfile.mkdtemp()).parent == folder
        raise RuntimeError
    assert not folder.exists() and tempfile.gettempdir() == before


def test_fingerprints_and_seeds_depend_on_values_and_order_alone() -> None:
    assert fingerprint("a", {"x": 1, "y": 2}) == fingerprint("a", {"y": 2, "x": 1})
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    # Written down so that a change of the rule, which would change every sample, cannot pass
    # unseen.
    assert (
        row_seed(1, "passage", "exqa", 0)
        == row_seed(1, "passage", "exqa", 0)
        != row_seed(2, "passage", "exqa", 0)
    )
    assert 0 <= row_seed(1, "x") < 2**31


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / ".shard.parquet.123.partial").write_text("half")
    (tmp_path / "journal" / "shard.parquet").write_text("whole")
    sweep(tmp_path)
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["shard.parquet"]


def test_digests_see_the_last_byte_and_the_names(tmp_path: Path) -> None:
    """Files are read in blocks of 1 MiB."""
    path = tmp_path / "folder" / "large"
    path.parent.mkdir()
    path.write_bytes(bytes((1 << 20) + 1))
    file, folder = sha256_file(path), sha256_folder(path.parent)
    path.write_bytes(bytes(1 << 20) + b"1")
    assert sha256_file(path) != file and sha256_folder(path.parent) != folder
    folder = sha256_folder(path.parent)
    (path.parent / "README.md").write_text("its card")
    assert sha256_folder(path.parent) == folder, "a card is not the model"
    path.rename(path.with_name("other"))
    assert sha256_folder(path.parent) != folder
