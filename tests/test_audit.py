"""``make audit``: pins against an advisory database on this machine, or against the service."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tasks.core.errors import PipelineError
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts/audit.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _record(name: str, *events: dict[str, str], package: str = "pump", **more: Any) -> Any:
    """Return an advisory as OSV exports it."""
    affected = {
        "package": {"ecosystem": "PyPI", "name": package},
        "ranges": [{"type": "ECOSYSTEM", "events": list(events)}],
        "versions": [],
    }
    return {"id": name, "modified": "2020-05-01T00:00:00Z", "affected": [affected], **more}


def _zip(folder: Path, *records: Any) -> Path:
    path = folder / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for record in records:
            archive.writestr(f"{record['id']}.json", json.dumps(record))
    return path


def _run(database: Path | str, pins: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/audit.py", str(pins)],
        cwd=ROOT,
        env={**os.environ, "ADVISORIES": str(database)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    """Pins as uv writes them: markers, a build of PyTorch's, a name in another spelling."""
    path = tmp_path / "pins.txt"
    path.write_text(
        "# compiled\nPump_Kit==1.10.0 ; (python_full_version < '3.13')\n    # via x\n"
        "torch==2.13.0+cpu\nvalve==2.0rc1\n"
    )
    return path


_FIXED_LATER = ({"introduced": "0"}, {"fixed": "1.10.1"})


@pytest.mark.parametrize(
    ("events", "version", "hit"),
    [
        (_FIXED_LATER, "1.10.0", True),
        (_FIXED_LATER, "1.9", True),
        (_FIXED_LATER, "1.10.1", False),
        (_FIXED_LATER, "1.10.1rc1", True),
        (_FIXED_LATER, "1.10.1.post1", False),
        (({"introduced": "1.2"}, {"fixed": "1.10"}), "1.9.9", True),
        (({"introduced": "1.2"}, {"fixed": "1.10"}), "1.1", False),
        (({"introduced": "0"}, {"last_affected": "1.9"}), "1.9", True),
        (({"introduced": "0"}, {"last_affected": "1.9"}), "1.10", False),
        (({"introduced": "0"},), "99", True),
        (
            ({"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}, {"fixed": "2.1"}),
            "2.0",
            True,
        ),
        (
            ({"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}, {"fixed": "2.1"}),
            "1.5",
            False,
        ),
        (({"introduced": "0"}, {"fixed": "no version"}), "1.5", True),
        (({"introduced": "0"}, {"last_affected": "2.6.0-NA"}), "2.13.0", False),
        (({"introduced": "0"}, {"last_affected": "2.6.0-NA"}), "2.6.0", True),
    ],
)
def test_versions_compare_by_pep_440(
    audit: ModuleType, events: tuple[dict[str, str], ...], version: str, hit: bool
) -> None:
    found = list(audit.match_pins(_record("V-1", *events), {"pump": {version}}))
    assert [one.version for one in found] == [version] * hit


def test_a_version_may_be_listed_and_a_withdrawn_advisory_counts_for_nothing(
    audit: ModuleType,
) -> None:
    record = _record("V-1")
    record["affected"][0] |= {"ranges": [], "versions": ["1.0", "1.1.0"]}
    assert list(audit.match_pins(record, {"pump": {"1.1"}}))
    assert not list(audit.match_pins(record, {"pump": {"1.2"}}))
    assert not list(audit.match_pins(record | {"withdrawn": "2020-01-01"}, {"pump": {"1.1"}}))
    record["affected"][0]["package"]["ecosystem"] = "npm"
    assert not list(audit.match_pins(record, {"pump": {"1.1"}}))


def test_findings_are_listed_with_what_mends_them(tmp_path: Path, pins: Path) -> None:
    database = _zip(
        tmp_path,
        _record("PYSEC-1", *_FIXED_LATER, package="pump-kit", aliases=["CVE-1"]),
        _record("GHSA-1", *_FIXED_LATER, package="Pump.Kit", aliases=["CVE-1"]),
        _record("PYSEC-2", {"introduced": "0"}, package="torch"),
        _record("PYSEC-3", {"introduced": "0"}, {"fixed": "1.0"}, package="valve"),
        _record("PYSEC-4", {"introduced": "0"}, package="not-ours"),
    )
    done = _run(database, pins)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        f"5 advisories of {database}, the newest of 2020-05-01",
        "GHSA-1 (CVE-1, PYSEC-1): pump-kit 1.10.0, fixed in 1.10.1; NOT ACCEPTED",
        "PYSEC-2: torch 2.13.0, no fixed version is known; NOT ACCEPTED",
        "3 of 3 pins looked up, 2 vulnerabilities known",
    ]
    assert "days old: fetch a new one" in done.stderr


def test_a_checkout_of_yaml_files_is_a_database_too(tmp_path: Path, pins: Path) -> None:
    folder = tmp_path / "advisory-database/vulns/valve"
    folder.mkdir(parents=True)
    (folder / "PYSEC-9.yaml").write_text(
        yaml.safe_dump(_record("PYSEC-9", {"introduced": "0"}, {"fixed": "2.0"}, package="valve"))
    )
    done = _run(tmp_path / "advisory-database", pins)
    assert done.returncode == 1
    assert "PYSEC-9: valve 2.0rc1, fixed in 2.0; NOT ACCEPTED" in done.stdout


_PYPA = """\
id: PYSEC-2024-7
modified: 2024-03-01T10:00:00.123456Z
published: 2024-02-29T00:00:00Z
details: It leaks.
affected:
- package:
    name: Pump-Kit
    ecosystem: PyPI
    purl: pkg:pypi/pump-kit
  ranges:
  - type: GIT
    repo: https://example.org/pump-kit
    events:
    - introduced: "0"
    - fixed: 0123456789abcdef0123456789abcdef01234567
  - type: ECOSYSTEM
    events:
    - introduced: "1.9"
    - last_affected: 1.10
  versions:
  - 1.9.0
aliases:
- CVE-2024-7
withdrawn: null
"""


def test_a_record_as_pypa_writes_it(audit: ModuleType, tmp_path: Path) -> None:
    """1.10 is a version and no number, and the digests of a repository are none at all."""
    (tmp_path / "one.yaml").write_text(_PYPA)
    (record,) = audit.read_advisories(tmp_path)
    pins = {"pump-kit": {"1.8", "1.9", "1.10", "1.10.post1", "1.11", "1.10rc1"}}
    found = list(audit.match_pins(record, pins))
    assert [one.version for one in found] == ["1.9", "1.10rc1", "1.10"]
    assert found[0].names == {"PYSEC-2024-7", "CVE-2024-7"} and not found[0].fixed
    record["withdrawn"] = "2024-04-01T00:00:00Z"
    assert not list(audit.match_pins(record, pins))


def test_an_archive_of_pypas_repository_is_a_database_too(tmp_path: Path, pins: Path) -> None:
    """Beside ``vulns`` it has files that are no advisories."""
    database = tmp_path / "advisory-database-main.zip"
    record = _record("PYSEC-9", {"introduced": "0"}, package="valve")
    with zipfile.ZipFile(database, "w") as archive:
        archive.writestr("main/.github/workflows/check.yaml", "on: push\n")
        archive.writestr("main/mkdocs.yaml", "site_name: x\n")
        archive.writestr("main/vulns/valve/PYSEC-9.yaml", yaml.safe_dump(record))
    done = _run(database, pins)
    assert done.returncode == 1, done.stderr
    assert "1 advisories of" in done.stdout and "PYSEC-9: valve 2.0rc1" in done.stdout


def test_one_vulnerability_is_one_finding_in_whatever_order_its_names_come(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GHSA-1 and GHSA-2 name different CVEs; only the third record says that they are the same. A
    withdrawn one says nothing.
    """
    database = _zip(
        tmp_path,
        _record("GHSA-1", *_FIXED_LATER, aliases=["CVE-1"]),
        _record("GHSA-2", {"introduced": "0"}, {"fixed": "1.11"}, aliases=["CVE-2"]),
        _record("GHSA-3", {"introduced": "0"}, withdrawn="2024-01-01T00:00:00Z", aliases=["CVE-3"]),
        _record("PYSEC-1", *_FIXED_LATER, aliases=["CVE-1", "CVE-2", "CVE-3"]),
    )
    assert audit.audit_offline({"pump": {"1.10"}}, database, {}) == 1
    first, last = capsys.readouterr().out.splitlines()[1:]
    names = "CVE-1, CVE-2, CVE-3, GHSA-2, PYSEC-1"
    assert first == f"GHSA-1 ({names}): pump 1.10, fixed in 1.10.1, 1.11; NOT ACCEPTED"
    assert last == "1 of 1 pins looked up, 1 vulnerabilities known"


def test_a_line_that_is_no_pin_is_not_passed_over(audit: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "pins.txt"
    path.write_text("# compiled\n--index-url https://x\nPump[all]==1.0 \\\n    --hash=sha256:0\n")
    assert audit.read_pins([path]) == {"pump": {"1.0"}}
    for line in ("pump>=1.0", "pump @ https://example.org/pump.whl", "pump"):
        path.write_text(f"valve==1.0\n{line}\n")
        with pytest.raises(PipelineError, match="is no pin of the form name==version"):
            audit.read_pins([path])


@pytest.mark.parametrize(
    "affected",
    [
        "x",
        [1],
        [{"package": "pump"}],
        [{"package": {"name": "pump", "ecosystem": "PyPI"}, "ranges": [1]}],
    ],
)
def test_an_advisory_of_another_form_is_one_line(
    audit: ModuleType, tmp_path: Path, affected: Any
) -> None:
    database = _zip(tmp_path, {"id": "PYSEC-1", "affected": affected})
    with pytest.raises(PipelineError, match="advisory PYSEC-1 of .* is not in OSV's form"):
        audit.audit_offline({"pump": {"1.0"}}, database, {})


def test_an_accepted_finding_needs_a_reason_and_any_of_its_names_will_do(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "accepted.yaml"
    path.write_text("CVE-1: the pipeline never opens\n  a network pump\n")
    database = _zip(tmp_path, _record("PYSEC-1", {"introduced": "0"}, aliases=["CVE-1"]))
    accepted = audit.read_accepted(path)
    assert audit.audit_offline({"pump": {"1.0"}}, database, accepted) == 0
    assert "accepted: the pipeline never opens a network pump" in capsys.readouterr().out
    path.write_text("CVE-1: ''\n")
    with pytest.raises(PipelineError, match="CVE-1 has no reason"):
        audit.read_accepted(path)
    assert isinstance(audit.read_accepted(audit.ACCEPTED), dict)


def test_a_missing_empty_or_damaged_database_is_one_line(tmp_path: Path, pins: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"PK, but no archive")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/one.json").write_text('{"id": "PYSEC-1", "affected": [')
    (tmp_path / "other").mkdir()
    (tmp_path / "other/package.json").write_text('{"name": "no advisory"}')
    for name, said in (
        ("nowhere", "does not exist: get https://osv-vulnerabilities"),
        ("empty", "holds no advisory: get https://osv-vulnerabilities"),
        ("bad.zip", "cannot be read"),
        ("half", "one.json is damaged"),
        ("other", "is no advisory in OSV's form"),
    ):
        done = _run(tmp_path / name, pins)
        assert done.returncode == 2, name
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("error: audit: ") and said in line


def test_what_a_database_says_of_the_pins_is_kept_for_machines_that_reach_none(
    audit: ModuleType, tmp_path: Path, pins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = _record("PYSEC-2", package="valve", withdrawn=None)
    listed["affected"][0] |= {
        "ranges": [{"type": "GIT", "events": []}],
        "versions": ["1.0", "2.0rc1"],
    }
    later = _record("PYSEC-3", {"introduced": "2.14"}, package="torch", details="a long text")
    later["affected"][0]["versions"] = ["2.13.0", "2.14.0"]
    other = _record("PYSEC-4", {"introduced": "0"}, package="not-ours")
    withdrawn = _record("PYSEC-5", {"introduced": "0"}, package="torch", withdrawn="2020-06-01")
    records = [_record("PYSEC-1", *_FIXED_LATER, package="pump-kit"), listed, later, withdrawn]
    database = _zip(tmp_path, *records, other | {"modified": "2021-03-01T00:00:00Z"})
    kept, ours = tmp_path / "advisories.jsonl", audit.read_pins([pins])
    audit.keep_snapshot(ours, database, kept)
    text = kept.read_text()
    capsys.readouterr()
    assert audit.audit_offline(ours, database, {}) == 1
    from_database = capsys.readouterr().out.splitlines()[1:]
    assert audit.audit_offline(ours, kept, {}) == 1
    said, *from_kept = capsys.readouterr().out.splitlines()
    assert said == f"4 advisories of {kept}, the newest of 2021-03-01"
    assert from_kept == from_database and len(from_kept) == 4
    assert "not-ours" not in text and "long text" not in text and "2.14.0" not in text
    for accepted, status in (
        ({}, 1),
        (dict.fromkeys(("PYSEC-1", "PYSEC-2", "PYSEC-3"), "not ours"), 2),
    ):
        assert audit.audit_offline(ours | {"new": {"1"}}, kept, accepted) == status
    shown = capsys.readouterr()
    assert "3 of 4 pins looked up" in shown.out
    assert "error: audit: could not look up new: get" in shown.err
    kept.write_text("no head\n")
    with pytest.raises(PipelineError, match="has no first line"):
        audit.audit_offline(ours, kept, {})


def test_the_pins_have_no_known_vulnerability_that_is_not_accepted() -> None:
    """At the date of the snapshot: a pin that goes back to a flawed version fails here."""
    requirements = ROOT / "requirements"
    done = subprocess.run(
        [sys.executable, "scripts/audit.py"],
        cwd=ROOT,
        env={**os.environ, "ADVISORIES": str(requirements / "advisories.jsonl")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 1 and "pins looked up" in done.stdout, done.stdout + done.stderr
    accepted = yaml.safe_load((requirements / "accepted.yaml").read_text())
    unused = [name for name in accepted if name not in done.stdout]
    assert not unused, f"nothing is found any more that is called {unused}"


@pytest.mark.parametrize("packages", [[], [{"name": "a", "skip_reason": "not found"}]])
def test_a_service_that_answers_nothing_gives_way_to_the_snapshot(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    packages: list[dict[str, str]],
) -> None:
    nobody = {"dependencies": packages}
    answer = subprocess.CompletedProcess([], 0, json.dumps(nobody), "")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: answer)
    monkeypatch.delenv("ADVISORIES", raising=False)
    monkeypatch.setattr(sys, "argv", ["audit"])
    assert audit.main() != 1
    shown = capsys.readouterr()
    assert "knows none of the pins" in shown.err and "requirements/advisories.jsonl" in shown.out


def test_all_pins_of_the_repository_can_be_read(audit: ModuleType) -> None:
    for name in ("cpu.txt", "gpu.txt"):
        path = ROOT / "requirements" / name
        lines = [line for line in path.read_text().splitlines() if line[:1].isalnum()]
        found = audit.read_pins([path])
        assert len(lines) > 200 and sum(map(len, found.values())) == len(lines)


_CLEAN, _FLAWED = (
    {"name": "a", "version": "1", "vulns": []},
    {"name": "b", "version": "1", "vulns": [{"id": "CVE-1"}]},
)


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([_CLEAN], 0, "1 of 1 pins looked up, 0 vulnerabilities known"),
        ([_CLEAN, _FLAWED], 1, "CVE-1: b 1, no fixed version"),
        ([_CLEAN, {"name": "c", "skip_reason": "not found"}], 2, "1 of 2 pins looked up"),
    ],
)
def test_an_audit_that_could_ask_nobody_has_failed(
    audit: ModuleType, capsys: pytest.CaptureFixture[str], packages: Any, status: int, said: str
) -> None:
    assert audit.report_flaws(packages, {}) == status
    assert said in capsys.readouterr().out
