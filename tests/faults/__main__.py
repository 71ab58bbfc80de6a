"""``python -m tests.faults`` (``make soak``): every fault so many times; a table, and
``results.json``, a list of {fault, trials, kept, commit}.

The faults take turns, so that a run that is cut short by ``--minutes``, by Ctrl-C or by a kill has
tried all of them equally often. Each trial is written down as it ends: the same command continues
where the last one stopped, unless the code of its fault, or the seed, has changed since. ``--only FAULT``
``--replay N`` makes one trial again, with the same moment of the same call.

A soak that has tried every fault, but has not entered every recovery branch
(:mod:`tests.faults.sometimes`), fails.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

# Nothing heavy here: the workers of ingest are started from this module's name.


def main() -> int:
    """Return 0 if every trial kept its promise, 1 otherwise, 2 for a fault that does not exist."""
    given = _arguments()
    from tests.faults import sometimes

    sometimes.install()  # before any module of the product is imported
    # Two threads that wait for each other on a busy machine take ten times as long as one.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from tests.faults.catalogue import faults, load_libraries, select

    if given.list:
        print("\n".join(fault.name for fault in faults()))
        return 0
    chosen = select(given.only, given.skip, given.short)
    if not chosen:
        print(f"error: soak: no fault is called {given.only!r}: --list names them", file=sys.stderr)
        return 2
    from tests.faults.journal import Journal

    numbers = range(1 if given.short else given.trials)
    if given.replay is not None:
        numbers = range(given.replay, given.replay + 1)
        given.out = Path(tempfile.mkdtemp(prefix="replay-")) / "results.json"
    journal = Journal(given.out, given.seed, chosen, fresh=given.fresh or given.short)
    left = [
        (fault, number)
        for number in numbers
        for fault in chosen
        if number < fault.most and not journal.has(fault.name, number)
    ]
    if left:
        load_libraries()
        stopped = _work(given, journal, left)
    print(journal.table(), flush=True)
    if left and stopped:
        print(
            (
                f"{stopped}: {journal.made} trials made now, {journal.count} in all; the same "
                "command continues"
            ),
            flush=True,
        )
    return int(journal.broken)


def _work(given: argparse.Namespace, journal, left) -> str:  # type: ignore[no-untyped-def]
    """Make the trials that are left; return why it was not all of them, or an empty string."""
    from tests.faults.world import World

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started ends with it
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        world = World(Path(scratch).resolve())
        hook = Path(__file__).with_name("hook")
        os.environ.update(FAULT_BRANCHES=str(world.branches), PYTHONPATH=str(hook))
        try:
            world.build(quick=given.short)
            shown = ", ".join(
                f"{stage} {seconds:.1f} s" for stage, seconds in world.seconds.items()
            )
            print(
                f"undisturbed run: {shown} ({time.monotonic() - began:.0f} s to make)", flush=True
            )
            for fault, number in left:
                if given.minutes and time.monotonic() - began > 60 * given.minutes:
                    return f"the {given.minutes:g} minutes are used up"
                journal.make(fault, number, world)
        except KeyboardInterrupt:
            return "stopped"
        finally:
            world.close()
    return ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", allow_abbrev=False)
    parser.add_argument("--trials", type=int, default=100, help="trials of each fault")
    parser.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="start no further trial after so many minutes; 0: no limit",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only",
        default="",
        help=(
            "one fault by its name, or those whose name holds one of these words, separated "
            "by commas"
        ),
    )
    parser.add_argument("--skip", default="", help="faults to leave out, likewise")
    parser.add_argument(
        "--short", action="store_true", help="the few of the default tests, once each"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="forget the trials that were made before"
    )
    parser.add_argument("--replay", type=int, help="make only the trial of this number, again")
    parser.add_argument("--list", action="store_true", help="name the faults")
    parser.add_argument("--out", type=Path, default=Path("artifacts/soak/results.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
