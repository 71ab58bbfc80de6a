"""``make audit``: look up known vulnerabilities of the pins.

Three ways. ``ADVISORIES=path`` names an advisory database on this machine: OSV's export for PyPI
(``all.zip``), a checkout of pypa/advisory-database, or a folder with files of either. Without it
pip-audit asks the vulnerability service. It runs in an environment of its own, made by uv, so that
it does not mix with the pins. Where the service answers nothing, pip-audit itself reports no
vulnerabilities; this command then takes ``requirements/advisories.jsonl``, and says of which date
that is.

``RECORD=1`` writes that file: the advisories about the pinned packages from the database that
ADVISORIES names, and the list of these packages. ``requirements/accepted.yaml`` holds the findings
that do not affect this pipeline, each with its reason.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tasks.core.errors import PipelineError
from tasks.core.files import write_text
from tasks.core.stage import one_line_errors
from tasks.core.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[1]
PIP_AUDIT = "pip-audit==2.10.1"
#: Finding's id -> why it does not affect this pipeline.
ACCEPTED = ROOT / "requirements" / "accepted.yaml"
#: What a database said of the pinned packages. Its first line has the packages and the date.
SNAPSHOT = ROOT / "requirements" / "advisories.jsonl"
#: What an offline audit takes, and where it comes from.
ADVICE = (
    "get https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip, or clone "
    "https://github.com/pypa/advisory-database, and name it: make audit ADVISORIES=path"
)
#: Days after which a database is said to be old.
_OLD = 30
_PIN = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;+]+)")


@dataclass(frozen=True)
class Finding:
    """A known vulnerability of a pin. ``fixed`` are the versions that mend it, if any are known."""

    id: str
    package: str
    version: str
    fixed: tuple[str, ...] = ()
    #: Other names of the same vulnerability: CVE-..., GHSA-..., PYSEC-...
    aliases: tuple[str, ...] = field(default=())

    @property
    def names(self) -> set[str]:
        """Return all names of the vulnerability."""
        return {self.id, *self.aliases}


def main() -> int:
    """Return 0 if no pin has a known vulnerability that is not accepted, 1 if one has, 2 if they
    could not be looked up.
    """
    with one_line_errors("audit"):
        folder = ROOT / "requirements"
        files = [Path(name) for name in sys.argv[1:]] or [folder / "cpu.txt", folder / "gpu.txt"]
        accepted, pins = read_accepted(ACCEPTED), read_pins(files)
        if path := os.environ.get("ADVISORIES"):
            status = audit_offline(pins, Path(path), accepted)
            if os.environ.get("RECORD"):
                keep_snapshot(pins, Path(path), SNAPSHOT)
            return status
        try:
            answers = [ask_service(file) for file in files]
        except PipelineError as error:
            print(f"audit: {error}", file=sys.stderr)
            return audit_offline(pins, SNAPSHOT, accepted)
        return max(report_flaws(packages, accepted) for packages in answers)
    return 2


def audit_offline(pins: dict[str, set[str]], path: Path, accepted: dict[str, str]) -> int:
    """Look pins (name -> versions) up in the database at ``path``; print what is found."""
    head = _read_head(path)
    records, date = 0, head.get("newest", "")
    findings: dict[tuple[str, str, str], Finding] = {}
    for record in read_advisories(path):
        records += 1
        date = max(date, str(record.get("modified", "")))
        try:
            found = list(match_pins(record, pins))
        except (AttributeError, TypeError) as error:
            raise PipelineError(
                f"advisory {record['id']} of {path} is not in OSV's form ({error}): {ADVICE}"
            ) from error
        for finding in found:
            _merge(findings, finding)
    if not records:
        raise PipelineError(f"{path} holds no advisory: {ADVICE}")
    print(f"{records:,} advisories of {path}, the newest of {date[:10] or 'no date'}")
    status = report(sorted(findings.values(), key=lambda one: (one.package, one.id)), accepted)
    missing = sorted(pins.keys() - set(head["packages"])) if head else []
    count, left = (sum(len(pins[name]) for name in names) for names in (pins, missing))
    print(f"{count - left} of {count} pins looked up, {len(findings)} vulnerabilities known")
    if (age := _age_in_days(date)) > _OLD:
        print(f"warning: the database is {age} days old: fetch a new one", file=sys.stderr)
    return status or _tell_missing(missing)


def keep_snapshot(pins: dict[str, set[str]], path: Path, kept: Path) -> None:
    """Write what the database at ``path`` says of the pinned packages to ``kept``: of each advisory
    its names, dates and versions, a line each, in the order of their ids.
    """
    lines: dict[str, str] = {}
    newest = ""
    for record in read_advisories(path):
        newest = max(newest, str(record.get("modified", "")))
        ours = [one for one in record.get("affected") or () if _name(one) in pins]
        if not ours:
            continue
        short = {key: record[key] for key in ("id", "modified", "aliases") if record.get(key)}
        if record.get("withdrawn"):
            short["withdrawn"] = record["withdrawn"]
        short["affected"] = [_shorten(one, pins) for one in ours]
        lines[str(record["id"])] = json.dumps(short)
    head = json.dumps({"newest": newest[:10], "packages": sorted(pins)})
    write_text(kept, "\n".join([head, *(lines[name] for name in sorted(lines))]) + "\n")
    print(f"{len(lines)} advisories of {len(pins)} packages kept in {kept}")


def _shorten(affected: dict[str, Any], pins: dict[str, set[str]]) -> dict[str, Any]:
    """Return what matching needs: the ranges, and of the listed versions those that are pinned, or
    all where there is no range.
    """
    name = _name(affected)
    listed = sorted(map(str, affected.get("versions") or ()), key=_key)
    pinned = {_key(version) for version in pins[name]}
    ranges = _ranges(affected)
    return {
        "package": {"ecosystem": "PyPI", "name": name},
        "ranges": ranges,
        "versions": [version for version in listed if _key(version) in pinned or not ranges],
    }


def _name(affected: dict[str, Any]) -> str:
    """Return the PyPI package's name in PyPI's own spelling; empty for another ecosystem."""
    package = affected.get("package") or {}
    # Behind a colon OSV names an index other than the ecosystem's usual one.
    if str(package.get("ecosystem")).partition(":")[0] != "PyPI":
        return ""
    return canonicalize_name(str(package.get("name", "")))


def _ranges(affected: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the ranges of versions, without those of commits."""
    return [one for one in affected.get("ranges") or () if one.get("type") != "GIT"]


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


def match_pins(record: dict[str, Any], pins: dict[str, set[str]]) -> Iterator[Finding]:
    """Yield a finding for each pin that an OSV record says is affected.

    Versions compare by PEP 440. A version that a record names in its list is affected, whatever its
    ranges say; both are in use. A withdrawn record says when it was.
    """
    if str(record.get("withdrawn"))[:1].isdigit():
        return
    for affected in record.get("affected") or ():
        name = _name(affected)
        if name not in pins:
            continue
        ranges = _ranges(affected)
        events = [event for one in ranges for event in one.get("events", ())]
        fixed = {str(event["fixed"]) for event in events if "fixed" in event}
        for version in sorted(pins[name], key=_key):
            if _is_listed(version, affected) or any(_is_inside(version, one) for one in ranges):
                later = tuple(sorted((v for v in fixed if _key(v) > _key(version)), key=_key))
                aliases = tuple(map(str, record.get("aliases") or ()))
                yield Finding(str(record["id"]), name, version, later, aliases)


def read_pins(files: Iterable[Path]) -> dict[str, set[str]]:
    """Return name -> versions of the pins of files that uv compiled.

    A build's own part is left out: 2.13.0+cpu is PyTorch's build of 2.13.0, of the same source.
    """
    pins: dict[str, set[str]] = {}
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise PipelineError(f"{path} cannot be read: {error.strerror}") from error
        named = [line for line in lines if line[:1].isalnum()]
        if not named:
            raise PipelineError(f"{path} holds no pin of the form name==version")
        for line in named:
            pin = _PIN.match(line)
            if pin is None:  # left out, it would count as looked up
                raise PipelineError(f"{path}: {line!r} is no pin of the form name==version")
            pins.setdefault(canonicalize_name(pin[1]), set()).add(pin[2])
    return pins


def read_advisories(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the OSV records of a zip, of a folder with JSON or YAML files below it, of one file, or
    of a snapshot (``.jsonl``).

    A file that is no record is an error: a database that is half there would find half.
    """
    if not path.exists():
        raise PipelineError(f"ADVISORIES={path} does not exist: {ADVICE}")
    if path.suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                for name in _choose_records(archive.namelist()):
                    yield _parse(archive.read(name), f"{path}: {name}")
        # RuntimeError: a method of compression that is not known, or a password.
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise PipelineError(f"{path} cannot be read ({error}): fetch it again") from error
        return
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.read_bytes().splitlines()[1:], 2):
            yield _parse(line, f"{path}, line {number},")
        return
    if path.is_file():
        yield _parse(path.read_bytes(), str(path))
        return
    files = (file for file in path.rglob("*") if file.is_file())
    for name in _choose_records(file.relative_to(path).as_posix() for file in files):
        yield _parse((path / name).read_bytes(), str(path / name))


def _read_head(path: Path) -> dict[str, Any]:
    """Return the first line of a snapshot; of another database nothing."""
    if path.suffix != ".jsonl" or not path.is_file():
        return {}
    try:
        head = json.loads(path.read_bytes().partition(b"\n")[0])
        return {"newest": head["newest"], "packages": head["packages"]}
    except (ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{path} has no first line with its packages: {ADVICE} RECORD=1"
        ) from error


def _choose_records(names: Iterable[str]) -> list[str]:
    """Return the names of the records, in order. pypa's database has them in a folder ``vulns``, a
    zip of it in one folder more, and other YAML files beside it.
    """
    kept = sorted(name for name in names if name.endswith((".json", ".yaml")))
    kept = [name for name in kept if not any(part.startswith(".") for part in name.split("/"))]
    return [name for name in kept if "vulns" in name.split("/")[:2]] or kept


def read_accepted(path: Path) -> dict[str, str]:
    """Return the accepted findings, id -> reason; none may be without a reason."""
    accepted = read_yaml(path) if path.is_file() else {}
    for name, reason in accepted.items():
        if not isinstance(reason, str) or not reason.strip():
            raise PipelineError(f"{path}: {name} has no reason why it is accepted")
    return {str(name): " ".join(reason.split()) for name, reason in accepted.items()}


def _parse(content: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(content) if content[:1] == b"{" else _load_yaml(content)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise PipelineError(
            f"{where} is damaged ({type(error).__name__}): fetch it again"
        ) from error
    if not isinstance(record, dict) or "id" not in record:
        raise PipelineError(f"{where} is no advisory in OSV's form: {ADVICE}")
    return record


def _load_yaml(content: bytes) -> Any:
    # The base loader makes texts alone: dates and version numbers (1.10) stay as they are.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    return yaml.load(content, Loader=loader)  # noqa: S506


def _is_listed(version: str, affected: dict[str, Any]) -> bool:
    return any(_key(str(one)) == _key(version) for one in affected.get("versions") or ())


def _is_inside(version: str, one: dict[str, Any]) -> bool:
    """Tell whether a range's events, in the order of their versions, leave a version affected.

    Of an event whose version PEP 440 refuses only that it was introduced is believed: rather a
    finding too many than one too few.
    """
    events = [
        (kind, str(value)) for event in one.get("events", ()) for kind, value in event.items()
    ]
    inside = False
    for kind, value in sorted(events, key=lambda event: _key(event[1])):
        if kind == "introduced" and _key(value) <= _key(version):
            inside = True
        elif (kind == "fixed" and _is_version(value) and _key(value) <= _key(version)) or (
            kind == "last_affected" and _is_version(value) and _key(value) < _key(version)
        ):
            inside = False
    return inside


def _is_version(text: object) -> bool:
    return _key(text)[0]


def _key(text: object) -> tuple[bool, Version]:
    """Return what a version is sorted by: ``0`` is before all, and so is what PEP 440 refuses. Some
    records have a build behind a hyphen (2.6.0-cu124, 2.6.0-NA): the version before it counts.
    """
    for known in (str(text), str(text).partition("-")[0]):
        try:
            return (known != "0", Version(known))
        except InvalidVersion:
            continue
    return (False, Version("0"))


def _merge(findings: dict[tuple[str, str, str], Finding], new: Finding) -> None:
    """Add a finding; databases hold one vulnerability under several ids, which name each other. A
    new one may show that two earlier ones are the same.
    """
    place = (new.package, new.version)
    known = [key for key, old in findings.items() if key[:2] == place and old.names & new.names]
    if known:
        same = [*(findings.pop(key) for key in known), new]
        names = {name for one in same for name in one.names} - {same[0].id}
        fixed = sorted({version for one in same for version in one.fixed}, key=_key)
        new = Finding(same[0].id, *place, tuple(fixed), tuple(sorted(names)))
    findings[(*place, new.id)] = new


def _age_in_days(date: str) -> int:
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return 0
    return (datetime.now(UTC) - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))).days


def ask_service(pins: Path) -> list[dict[str, Any]]:
    """Return pip-audit's answer, a dictionary for each pin.

    Raises:
        PipelineError: If not one pin could be looked up.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "pins.txt"
        # The index has torch 2.13.0, not PyTorch's build 2.13.0+cpu of the same source.
        text = re.sub(r"(==[\w.]+)\+cpu\b", r"\1", pins.read_text(encoding="utf-8"))
        plain.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "uv", "tool", "run", "--from", PIP_AUDIT, "pip-audit"]
        command += ["--disable-pip", "--no-deps", "-f", "json", "-r", str(plain)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise PipelineError(f"pip-audit gave no answer ({last})") from None
    if all("skip_reason" in package for package in packages):
        raise PipelineError("the vulnerability service knows none of the pins, or is not reached")
    return packages


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
    return status or _tell_missing(skipped)


def _tell_missing(names: list[str]) -> int:
    """Return 2, and say so, if packages could not be looked up: nothing is known of them."""
    if not names:
        return 0
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    print(f"error: audit: could not look up {shown}: {ADVICE}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
