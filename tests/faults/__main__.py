"""``python -m tests.faults [--trials N] [--seed S] [--only WORDS] [--out FILE]``: every fault so many times; a table, and ``results.json``."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

# Nothing heavy here: the workers of ingest are started from this module's name.


def main() -> int:
    """Return 0 if every trial kept its promise, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", allow_abbrev=False)
    parser.add_argument("--trials", type=int, default=100, help="trials of each fault")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="faults whose name holds one of these words, separated by commas")
    parser.add_argument("--skip", default="", help="faults to leave out, likewise")
    parser.add_argument("--short", action="store_true", help="the few of the default tests, once each")
    parser.add_argument("--out", type=Path, default=Path("artifacts/soak/results.json"))
    given = parser.parse_args()
    from tests.faults.catalogue import load_libraries, select

    faults = select(given.only, given.skip, given.short)
    load_libraries()
    from tests.faults.world import World

    results = []
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        world = World(Path(scratch).resolve())
        started = time.monotonic()
        world.build(quick=given.short)
        shown = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in world.seconds.items())
        print(f"undisturbed run: {shown} ({time.monotonic() - started:.0f} s to make)", flush=True)
        print(f"{'fault':<58}{'trials':>7}{'kept':>6}{'seconds':>9}", flush=True)
        for fault in faults:
            results.append(row := _try(fault, world, 1 if given.short else given.trials, given.seed))
            print(f"{row['fault']:<58}{row['trials']:>7}{row['kept']:>6}{row['seconds']:>9.0f}  {row.get('note', '')}", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return int(any(row["kept"] < row["trials"] for row in results))


def _try(fault, world, trials: int, seed: int) -> dict:  # type: ignore[no-untyped-def]
    started, kept, broken = time.monotonic(), 0, []
    if missing := fault.needs():
        return {"fault": fault.name, "trials": 0, "kept": 0, "seconds": 0.0, "note": f"not run: {missing}"}
    count = min(trials, fault.most)
    for number in range(count):
        chance = random.Random(f"{seed}/{fault.name}/{number}")
        said = fault.trial(world, chance)
        kept += not said
        if said:
            broken.append(f"trial {number}: {said}")
    row = {"fault": fault.name, "trials": count, "kept": kept, "seconds": round(time.monotonic() - started, 1)}
    return {**row, "note": " | ".join(broken)[:2000]} if broken else row


if __name__ == "__main__":
    sys.exit(main())
