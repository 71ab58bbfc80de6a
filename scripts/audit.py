"""``make audit``: look up known vulnerabilities of the pins.

Two ways. ``ADVISORIES=path`` names an advisory database on this machine: OSV's export for PyPI
(``all.zip``), a checkout of pypa/advisory-database, or a folder with files of either. Without it
pip-audit asks the vulnerability service. It runs in an environment of its own, made by uv, so that
it does not mix with the pins. Where the service cannot be reached the audit fails: pip-audit itself
then reports no vulnerabilities.

``requirements/accepted.yaml`` holds the findings that do not affect this pipeline, each with its
reason.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.advisories import ADVICE, Finding, match_pins, merge_finding, read_advisories
from tasks.core.errors import PipelineError
from tasks.core.stage import one_line_errors
from tasks.core.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[1]
PIP_AUDIT = "pip-audit==2.10.1"
#: Finding's id -> why it does not affect this pipeline.
ACCEPTED = ROOT / "requirements" / "accepted.yaml"
#: Days after which a database is said to be old.
_OLD = 30
_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;+]+)(?:\+\w+)?", re.MULTILINE)


def main() -> int:
    """Return 0 if no pin has a known vulnerability that is not accepted, 1 if one has, 2 if they
    could not be looked up.
    """
    with one_line_errors("audit"):
        folder = ROOT / "requirements"
        files = [Path(name) for name in sys.argv[1:]] or [folder / "cpu.txt", folder / "gpu.txt"]
        accepted = read_accepted(ACCEPTED)
        if path := os.environ.get("ADVISORIES"):
            return audit_offline(read_pins(files), Path(path), accepted)
        return max(_ask_service(file, accepted) for file in files)
    return 2


def audit_offline(pins: dict[str, set[str]], path: Path, accepted: dict[str, str]) -> int:
    """Look pins (name -> versions) up in the database at ``path``; print what is found."""
    records, date = 0, ""
    findings: dict[tuple[str, str, str], Finding] = {}
    for record in read_advisories(path):
        records += 1
        date = max(date, str(record.get("modified", "")))
        for finding in match_pins(record, pins):
            merge_finding(findings, finding)
    if not records:
        raise PipelineError(f"{path} holds no advisory: {ADVICE}")
    print(f"{records:,} advisories of {path}, the newest of {date[:10] or 'no date'}")
    status = report(sorted(findings.values(), key=lambda one: (one.package, one.id)), accepted)
    count = sum(map(len, pins.values()))
    print(f"{count} pins looked up, {len(findings)} vulnerabilities known")
    if (age := _age_in_days(date)) > _OLD:
        print(f"warning: the database is {age} days old: fetch a new one", file=sys.stderr)
    return status


def report(findings: Iterable[Finding], accepted: dict[str, str]) -> int:
    """Print the findings, one a line; return 1 if one is not accepted, else 0."""
    status = 0
    for one in findings:
        fixed = f"fixed in {', '.join(one.fixed)}" if one.fixed else "no fixed version is known"
        also = f" ({', '.join(sorted(one.aliases))})" if one.aliases else ""
        reason = next((accepted[name] for name in sorted(one.names) if name in accepted), "")
        told = f"accepted: {reason}" if reason else "NOT ACCEPTED"
        print(f"{one.id}{also}: {one.package} {one.version}, {fixed}; {told}")
        status = status or int(not reason)
    return status


def read_pins(files: Iterable[Path]) -> dict[str, set[str]]:
    """Return name -> versions of the pins of files that uv compiled.

    A build's own part is left out: 2.13.0+cpu is PyTorch's build of 2.13.0, of the same source.
    """
    pins: dict[str, set[str]] = {}
    for path in files:
        try:
            found = _PIN.findall(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PipelineError(f"{path} cannot be read: {error.strerror}") from error
        if not found:
            raise PipelineError(f"{path} holds no pin of the form name==version")
        for name, version in found:
            pins.setdefault(canonicalize_name(name), set()).add(version)
    return pins


def read_accepted(path: Path) -> dict[str, str]:
    """Return the accepted findings, id -> reason; none may be without a reason."""
    accepted = read_yaml(path) if path.is_file() else {}
    for name, reason in accepted.items():
        if not isinstance(reason, str) or not reason.strip():
            raise PipelineError(f"{path}: {name} has no reason why it is accepted")
    return {str(name): " ".join(reason.split()) for name, reason in accepted.items()}


def _age_in_days(date: str) -> int:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(date)).days
    except (ValueError, TypeError):
        return 0


def _ask_service(pins: Path, accepted: dict[str, str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "pins.txt"
        # The index has torch 2.13.0, not PyTorch's build 2.13.0+cpu of the same source.
        text = re.sub(r"(==[\w.]+)\+cpu\b", r"\1", pins.read_text(encoding="utf-8"))
        plain.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "uv", "tool", "run", "--from", PIP_AUDIT, "pip-audit"]
        command += ["--disable-pip", "--no-deps", "-f", "json", "-r", str(plain)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise PipelineError(f"pip-audit gave no answer ({last}). Offline: {ADVICE}") from None
    return report_flaws(packages, accepted)


def report_flaws(packages: list[dict[str, Any]], accepted: dict[str, str]) -> int:
    """Print the flaws among pip-audit's ``dependencies``; return the exit status."""
    findings = [
        Finding(
            flaw["id"],
            package["name"],
            package.get("version", ""),
            tuple(flaw.get("fix_versions", ())),
            tuple(flaw.get("aliases", ())),
        )
        for package in packages
        for flaw in package.get("vulns", [])
    ]
    status = report(findings, accepted)
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    looked_up = len(packages) - len(skipped)
    print(f"{looked_up} of {len(packages)} pins looked up, {len(findings)} vulnerabilities known")
    if not status and (skipped or not packages):
        shown = ", ".join(skipped[:5]) + (" ..." if len(skipped) > 5 else "")
        print(
            f"error: audit: {len(skipped)} pins could not be looked up ({shown}): the "
            f"vulnerability service cannot be reached. Offline: {ADVICE}",
            file=sys.stderr,
        )
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
