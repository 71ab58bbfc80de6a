"""What the trials gave: one line each as it ends, the table and ``results.json`` from them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import random
import subprocess
import time
import traceback
from collections import Counter
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import psutil

from tasks.core.files import write_json
from tests.faults.covered import code_version
from tests.faults.sometimes import BRANCHES, count
from tests.faults.world import ROOT

if TYPE_CHECKING:
    from tests.faults.catalogue import Fault
    from tests.faults.world import World


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

    def __init__(self, results: Path, seed: int, chosen: list[Fault]) -> None:
        """``chosen`` are the faults of this run; those tried before stay in the results."""
        from tests.faults.catalogue import faults

        self.results, self.seed, self.before = results, seed, 0
        self.path = results.with_name("trials.jsonl")
        self.lacking = {fault.name: said for fault in chosen if (said := fault.needs())}
        self.names = [fault.name for fault in chosen]
        self.faults = {fault.name: fault for fault in faults()}
        #: The trials still to be made, and how many processes make them.
        self.planned: list[tuple[Fault, int]] = []
        self.jobs = 1
        self.rows: list[dict[str, Any]] = []
        self.done: set[tuple[str, int]] = set()
        self._size = 0

    def begin(self, fresh: bool = False) -> None:
        """Keep of the journal the trials of today's code and this seed; ``fresh``: none."""
        told = [] if fresh or not self.path.exists() else self.path.read_text().splitlines()
        rows: list[dict[str, Any]] = [json.loads(line) for line in told if line.endswith("}")]
        kept = [
            row
            for row in rows
            if row["seed"] == self.seed and row["code"] == self._version(row["fault"])
        ]
        if rows:
            print(
                f"{len(kept)} trials were made before, {len(rows) - len(kept)} more with "
                "other code or another seed: these do not count",
                flush=True,
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self.read()
        self.before = self.count

    def _version(self, name: str) -> str:
        """Return the fingerprint of the code of a fault's trials; empty where there is no such
        fault any more.
        """
        fault = self.faults.get(name)
        return code_version(fault.trial.__module__, fault.stage) if fault else ""

    def read(self) -> None:
        """Read what this process and others have written since the last call."""
        with self.path.open("rb") as file:
            file.seek(self._size)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._size += len(whole)
        rows = [json.loads(line) for line in whole.splitlines()]
        self.rows += rows
        self.done |= {(row["fault"], row["trial"]) for row in rows}

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def made(self) -> int:
        """Return how many trials were made since :meth:`begin`."""
        return self.count - self.before

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
            "code": self._version(fault.name),
            "commit": commit(),
        }
        with self.path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # of the others that share the trials
            file.write(json.dumps(row) + "\n")
            file.flush()
            self.read()
            write_json(self.results, self.summary())
        print(
            (
                f"{number + 1:>4} {fault.name:<60}{row['seconds']:>7.1f} s  "
                f"{'BROKEN: ' + said if said else 'kept'}  "
                f"({self.minutes_left():.0f} minutes left)"
            ),
            flush=True,
        )

    def minutes_left(self) -> float:
        """Return how long the planned trials will take that nobody has made, by the mean of their
        fault; of one that was not tried yet, by the mean of the others.
        """
        seconds: dict[str, list[float]] = {}
        for row in self.rows:
            seconds.setdefault(row["fault"], []).append(row["seconds"])
        known = {name: fmean(own) for name, own in seconds.items()}
        usual = fmean(row["seconds"] for row in self.rows) if self.rows else 0.0
        left = [fault.name for fault, number in self.planned if not self.has(fault.name, number)]
        return sum(known.get(name, usual) for name in left) / self.jobs / 60

    def summary(self) -> list[dict[str, Any]]:
        """Return one row a fault: trials, kept, seconds, processor seconds, how many trials were
        made at which commit, and a note where a promise was broken or nothing could be tried.
        """
        tried = {row["fault"] for row in self.rows}
        names = [name for name in self.names if name in tried or name in self.lacking]
        return [self._summary(name) for name in [*names, *sorted(tried - set(names))]]

    def _summary(self, name: str) -> dict[str, Any]:
        own = [row for row in self.rows if row["fault"] == name]
        row: dict[str, Any] = {
            "fault": name,
            "trials": len(own),
            "kept": sum(not entry["said"] for entry in own),
            "seconds": round(sum(entry["seconds"] for entry in own), 1),
            "processor": round(sum(entry["processor"] for entry in own), 1),
            "commits": dict(Counter(entry["commit"] for entry in own)),
        }
        if name in self.lacking:
            row["note"] = f"not run: {self.lacking[name]}"
        if broken := [f"trial {entry['trial']}: {entry['said']}" for entry in own if entry["said"]]:
            row["note"] = " | ".join(broken)[:2000]
        return row

    def table(self) -> str:
        """Write the results, and return them as text."""
        rows = self.summary()
        write_json(self.results, rows)
        lines = [f"{'fault':<60}{'trials':>7}{'kept':>6}{'s/trial':>9}{'processor':>11}"]
        for row in rows:
            each, used = (row[name] / max(row["trials"], 1) for name in ("seconds", "processor"))
            lines.append(
                (
                    f"{row['fault']:<60}{row['trials']:>7}{row['kept']:>6}{each:>9.1f}{used:>11.1f}  "
                    f"{row.get('note', '')}"
                ).rstrip()
            )
        entered = self.entered()
        lines += ["", f"{'recovery branch':<60}{'entered':>7}"]
        lines += [f"{branch.name:<60}{entered[branch.name]:>7}" for branch in BRANCHES]
        if never := self.never_entered():
            lines.append(f"error: soak: never entered: {', '.join(never)}")
        return "\n".join(lines)
