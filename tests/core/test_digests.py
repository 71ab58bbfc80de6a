"""A large file's digest is made once, and again where the file may be another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.core import digests
from tasks.core.digests import kept_sha256, kept_sha256_folder
from tasks.core.files import read_json, sha256_file, sha256_folder, write_json
from tests.conftest import ROOT

_LARGE = 17 * 2**20


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the kept digests; a file counts as settled at once."""
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_SETTLED", -1)
    return tmp_path / "cache" / "digests"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with two large files and a small one."""
    folder = tmp_path / "model"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"model-{number}.safetensors").write_bytes(bytes([number]) * _LARGE)
    (folder / "config.json").write_text("{}")
    return folder


def _forge(cache: Path) -> None:
    """Keep other digests: who reads the files does not return them."""
    for entry in cache.iterdir():
        write_json(entry, read_json(entry) | {"sha256": "f" * 64})


def test_another_process_does_not_read_a_large_file_again(cache: Path, model: Path) -> None:
    whole = sha256_folder(model)
    assert kept_sha256_folder(model) == whole, "the digest is the same"
    assert len([*cache.iterdir()]) == 2, "the small file is read each time"
    assert kept_sha256_folder(model) == whole
    _forge(cache)
    code = "import sys, pathlib as p; from tasks.core.digests import kept_sha256 as k; "
    code += "print(k(p.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(model / "model-1.safetensors")]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.strip() == "f" * 64
    (model / "config.json").write_text("{ }")
    assert kept_sha256(model / "config.json") == sha256_file(model / "config.json")


@pytest.mark.parametrize("how", ["written", "with its old time", "replaced", "a link elsewhere"])
def test_a_file_that_is_another_is_read(cache: Path, model: Path, how: str) -> None:
    path = model / "model-1.safetensors"
    kept_sha256(path)
    _forge(cache)
    before = path.stat()
    if how in ("written", "with its old time"):
        with path.open("r+b") as file:
            file.write(b"other")
    else:
        path.rename(model / "old")
        (model / "new").write_bytes(b"3" * _LARGE)
        if how == "replaced":
            (model / "new").rename(path)
        else:
            path.symlink_to(model / "new")
    if how != "written":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kept_sha256(path) == sha256_file(path)


def test_what_was_just_written_is_not_kept(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change once more within the same tick of the file system's clock."""
    monkeypatch.setattr(digests, "_SETTLED", 3600 * 10**9)
    path = model / "model-1.safetensors"
    assert kept_sha256(path) == sha256_file(path) and not cache.exists()
    monkeypatch.setattr(digests, "_SETTLED", 10**6)
    time.sleep(0.05)
    assert kept_sha256(path) == sha256_file(path) and len([*cache.iterdir()]) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"sha256": "f"}'])
def test_a_damaged_entry_is_made_again(cache: Path, model: Path, text: str) -> None:
    path = model / "model-1.safetensors"
    digest = kept_sha256(path)
    (entry,) = cache.iterdir()
    entry.write_text(text)
    assert kept_sha256(path) == digest and read_json(entry)["sha256"] == digest
