"""What the trials gave: one line each as it ends, the table and ``results.json`` from them."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import time
import traceback
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tasks.core.files import fingerprint, sha256_file, write_json
from tests.faults.sometimes import BRANCHES, count
from tests.faults.world import ROOT

if TYPE_CHECKING:
    from tests.faults.catalogue import Fault
    from tests.faults.world import World

_CODE = ("tasks", "flows", "bonito", "tests/fake_engine")
_ALONE = ("tests/toy.py", "tests/conftest.py", "params.yaml", "datasets/incidents.yaml")
_IMPORT = re.compile(r"^from tests\.faults(?:\.(\w+))? import (.*)", re.MULTILINE)


@cache
def product_version() -> str:
    """Return a fingerprint of the code that every trial runs."""
    files = [
        path
        for folder in _CODE
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return _digest([*files, *(ROOT / name for name in _ALONE)])


@cache
def code_version(module: str) -> str:
    """Return a fingerprint of all that the trials of a module run: trials of other code say nothing
    about this one.
    """
    names, found = [module.rpartition(".")[2]], set()
    while names:
        path = ROOT / "tests/faults" / f"{names.pop()}.py"
        if path not in found and path.exists():
            found.add(path)
            for inner, given in _IMPORT.findall(path.read_text()):
                names += [inner] if inner else given.split(", ")
    return fingerprint(product_version(), _digest(list(found)))


def _digest(files: list[Path]) -> str:
    return fingerprint(*(f"{path.relative_to(ROOT)}:{sha256_file(path)}" for path in sorted(files)))


@cache
def commit() -> str:
    """Return the commit of this checkout, with a plus sign where what is tracked was changed."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def processor_seconds() -> float:
    """Return what this process, its dead children and its living descendants have used of a
    processor.
    """
    used = 0.0
    for process in [own := psutil.Process(), *own.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            used += sum(process.cpu_times()[:4])
    return used


class Journal:
    """The trials of one seed, each of the code that its fault runs now, in ``trials.jsonl`` beside
    the results.
    """

    def __init__(self, results: Path, seed: int, chosen: list[Fault], fresh: bool = False) -> None:
        """``chosen`` are the faults of this run; those tried before stay in the results."""
        from tests.faults.catalogue import faults

        self.results, self.seed, self.made = results, seed, 0
        self.path = results.with_name("trials.jsonl")
        self.lacking = {fault.name: said for fault in chosen if (said := fault.needs())}
        self.names = [fault.name for fault in chosen]
        self.versions = {fault.name: code_version(fault.trial.__module__) for fault in faults()}
        told = [] if fresh or not self.path.exists() else self.path.read_text().splitlines()
        rows: list[dict[str, Any]] = [json.loads(line) for line in told if line.endswith("}")]
        self.rows = [
            row
            for row in rows
            if row["seed"] == seed and row["code"] == self.versions.get(row["fault"])
        ]
        if rows:
            print(
                f"{len(self.rows)} trials were made before, {len(rows) - len(self.rows)} more with "
                "other code or another seed: these do not count",
                flush=True,
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self.done = {(row["fault"], row["trial"]) for row in self.rows}

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def broken(self) -> bool:
        return any(row["said"] for row in self.rows) or bool(self.never_entered())

    def never_entered(self) -> list[str]:
        """Return the recovery branches that no trial has entered, once every fault was tried."""
        from tests.faults.catalogue import faults

        tried = {row["fault"] for row in self.rows}
        if any(fault.name not in tried and fault.name not in self.lacking for fault in faults()):
            return []
        entered = self.entered()
        return [branch.name for branch in BRANCHES if not entered[branch.name]]

    def entered(self) -> Counter[str]:
        """Return how often each recovery branch was entered."""
        return sum((Counter(row["entered"]) for row in self.rows), Counter())

    def has(self, fault: str, number: int) -> bool:
        """Tell whether a trial was made before, or cannot be made here."""
        return (fault, number) in self.done or fault in self.lacking

    def make(self, fault: Fault, number: int, world: World) -> None:
        """Make one trial and write it down."""
        began, spent, before = time.monotonic(), processor_seconds(), count(world.branches)
        try:
            said = fault.trial(world, random.Random(f"{self.seed}/{fault.name}/{number}"))
        # a trial that breaks is one that did not keep its promise, and no reason to stop the others
        except Exception:
            said = "the trial itself broke: " + " | ".join(
                traceback.format_exc().strip().splitlines()[-6:]
            )
        row = {
            "fault": fault.name,
            "trial": number,
            "seconds": round(time.monotonic() - began, 2),
            "processor": round(processor_seconds() - spent, 2),
            "said": said[:2000],
            "entered": count(world.branches) - before,
            "seed": self.seed,
            "code": self.versions[fault.name],
            "commit": commit(),
        }
        self.rows.append(row)
        self.made += 1
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            (
                f"{number + 1:>4} {fault.name:<60}{row['seconds']:>7.1f} s  "
                f"{'BROKEN: ' + said if said else 'kept'}"
            ),
            flush=True,
        )
        write_json(self.results, self.summary())

    def summary(self) -> list[dict[str, Any]]:
        """Return one row a fault: trials, kept, seconds, commit, and a note where a promise was broken or
        nothing could be tried.
        """
        tried = {row["fault"] for row in self.rows}
        names = [name for name in self.names if name in tried or name in self.lacking]
        return [self._summary(name) for name in [*names, *sorted(tried - set(names))]]

    def _summary(self, name: str) -> dict[str, Any]:
        own = [row for row in self.rows if row["fault"] == name]
        kept, seconds = (
            sum(not row["said"] for row in own),
            round(sum(row["seconds"] for row in own), 1),
        )
        row: dict[str, Any] = {"fault": name, "trials": len(own), "kept": kept, "seconds": seconds}
        if own:
            row["commit"] = own[-1]["commit"]
        if name in self.lacking:
            row["note"] = f"not run: {self.lacking[name]}"
        if broken := [f"trial {entry['trial']}: {entry['said']}" for entry in own if entry["said"]]:
            row["note"] = " | ".join(broken)[:2000]
        return row

    def table(self) -> str:
        """Write the results, and return them as text."""
        rows = self.summary()
        write_json(self.results, rows)
        lines = [f"{'fault':<60}{'trials':>7}{'kept':>6}{'s/trial':>9}"]
        for row in rows:
            each = row["seconds"] / row["trials"] if row["trials"] else 0.0
            lines.append(
                (
                    f"{row['fault']:<60}{row['trials']:>7}{row['kept']:>6}{each:>9.1f}  "
                    f"{row.get('note', '')}"
                ).rstrip()
            )
        entered = self.entered()
        lines += ["", f"{'recovery branch':<60}{'entered':>7}"]
        lines += [f"{branch.name:<60}{entered[branch.name]:>7}" for branch in BRANCHES]
        if never := self.never_entered():
            lines.append(f"error: soak: never entered: {', '.join(never)}")
        return "\n".join(lines)
