"""Advisories in OSV's form, read from a database on this machine and compared with pins."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tasks.core.errors import PipelineError

#: What an offline audit takes, and where it comes from.
ADVICE = (
    "get https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip, or clone "
    "https://github.com/pypa/advisory-database, and name it: make audit ADVISORIES=path"
)


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


def match_pins(record: dict[str, Any], pins: dict[str, set[str]]) -> Iterator[Finding]:
    """Yield a finding for each pin that an OSV record says is affected.

    Versions compare by PEP 440. A version that a record names in its list is affected, whatever its
    ranges say; both are in use.
    """
    if record.get("withdrawn"):
        return
    for affected in record.get("affected") or ():
        package = affected.get("package") or {}
        name = canonicalize_name(str(package.get("name", "")))
        if package.get("ecosystem") != "PyPI" or name not in pins:
            continue
        ranges = [one for one in affected.get("ranges") or () if one.get("type") == "ECOSYSTEM"]
        events = [event for one in ranges for event in one.get("events", ())]
        fixed = {str(event["fixed"]) for event in events if "fixed" in event}
        for version in sorted(pins[name], key=_key):
            if _is_listed(version, affected) or any(_is_inside(version, one) for one in ranges):
                later = tuple(sorted((v for v in fixed if _key(v) > _key(version)), key=_key))
                aliases = tuple(map(str, record.get("aliases") or ()))
                yield Finding(str(record["id"]), name, version, later, aliases)


def read_advisories(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the OSV records of a zip, of a folder with JSON or YAML files below it, or of one file.

    A file that is no record is an error: a database that is half there would find half.
    """
    if not path.exists():
        raise PipelineError(f"ADVISORIES={path} does not exist: {ADVICE}")
    if path.suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    if name.endswith((".json", ".yaml")):
                        yield _parse(archive.read(name), f"{path}: {name}")
        except (zipfile.BadZipFile, OSError) as error:
            raise PipelineError(f"{path} cannot be read ({error}): fetch it again") from error
        return
    root = path / "vulns" if (path / "vulns").is_dir() else path  # as pypa's database has it
    for file in [path] if path.is_file() else sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.suffix in (".json", ".yaml") and file.is_file() and not hidden:
            yield _parse(file.read_bytes(), str(file))


def merge_finding(findings: dict[tuple[str, str, str], Finding], new: Finding) -> None:
    """Add a finding; databases hold one vulnerability under several ids, which name each other."""
    for key, old in findings.items():
        same = (old.package, old.version) == (new.package, new.version)
        if same and old.names & new.names:
            aliases = (old.names | new.names) - {old.id}
            fixed = tuple(sorted({*old.fixed, *new.fixed}, key=_key))
            findings[key] = Finding(old.id, old.package, old.version, fixed, tuple(sorted(aliases)))
            return
    findings[(new.package, new.version, new.id)] = new


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
    """Return what a version is sorted by: ``0`` is before all, and so is what PEP 440 refuses."""
    try:
        return (str(text) != "0", Version(str(text)))
    except InvalidVersion:
        return (False, Version("0"))
