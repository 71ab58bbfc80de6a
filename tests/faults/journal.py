"""What the trials gave: one line each as it ends, the table and ``results.json`` from them."""

from __future__ import annotations

import json
import random
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.files import fingerprint, sha256_file, write_json
from tests.faults.world import ROOT

if TYPE_CHECKING:
    from tests.faults.catalogue import Fault
    from tests.faults.world import World

_CODE = ("tasks", "flows", "bonito", "tests/faults", "tests/fake_engine")
_ALONE = ("tests/toy.py", "tests/conftest.py", "params.yaml", "datasets/incidents.yaml")


def code_version() -> str:
    """Return a fingerprint of all that a trial runs: trials of other code say nothing about this
    one.
    """
    files = [
        path
        for folder in _CODE
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return fingerprint(
        *(
            f"{path.relative_to(ROOT)}:{sha256_file(path)}"
            for path in sorted([*files, *(ROOT / name for name in _ALONE)])
        )
    )


class Journal:
    """The trials of one version of the code and one seed, in ``trials.jsonl`` beside the
    results.
    """

    def __init__(self, results: Path, seed: int, chosen: list[Fault], fresh: bool = False) -> None:
        """``chosen`` are the faults of this run; those tried before stay in the results."""
        self.results, self.seed, self.made = results, seed, 0
        self.path = results.with_name("trials.jsonl")
        self.lacking = {fault.name: said for fault in chosen if (said := fault.needs())}
        self.names = [fault.name for fault in chosen]
        self.rows: list[dict[str, Any]] = []
        head = {"code": code_version(), "seed": seed}
        lines = (
            []
            if fresh or not self.path.exists()
            else [
                json.loads(line)
                for line in self.path.read_text().splitlines()
                if line.endswith("}")
            ]
        )
        if lines and lines[0] == head:
            self.rows = lines[1:]
            print(f"{len(self.rows)} trials were made before", flush=True)
        else:
            if lines:
                print(
                    "the trials made before were of other code or of another seed: not counted",
                    flush=True,
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(head) + "\n")
        self.done = {(row["fault"], row["trial"]) for row in self.rows}

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def broken(self) -> bool:
        return any(row["said"] for row in self.rows)

    def has(self, fault: str, number: int) -> bool:
        """Tell whether a trial was made before, or cannot be made here."""
        return (fault, number) in self.done or fault in self.lacking

    def make(self, fault: Fault, number: int, world: World) -> None:
        """Make one trial and write it down."""
        began = time.monotonic()
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
            "seconds": round(time.monotonic() - began, 1),
            "said": said[:2000],
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
        """Return one row a fault: trials, kept, seconds, and a note where a promise was broken or
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
        return "\n".join(lines)
