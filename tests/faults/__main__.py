"""``python -m tests.faults`` (``make soak``): every fault again and again; a table, and
``results.json``, a list of {fault, trials, kept, seconds, commits}.

The faults take turns, so that a run that is cut short by ``--minutes``, by Ctrl-C or by a kill has
tried all of them equally often. Each trial is written down as it ends: the same command continues
where the last one stopped, unless the code of its fault (:mod:`tests.faults.covered`), or the seed,
has changed since. ``--only FAULT`` ``--replay N`` makes one trial again, with the same moment of the
same call. ``--jobs N`` shares the trials among N processes.

A soak that has tried every fault, but has not entered every recovery branch
(:mod:`tests.faults.sometimes`), fails.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
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
    from tests.faults.catalogue import faults, select

    if given.list:
        print("\n".join(fault.name for fault in faults()))
        return 0
    chosen = select(given.only, given.skip, given.short)
    if not chosen:
        print(f"error: soak: no fault is called {given.only!r}: --list names them", file=sys.stderr)
        return 2
    from tests.faults.journal import Journal
    from tests.faults.shares import work_alone, work_in

    numbers = range(1 if given.short else given.trials)
    if given.replay is not None:
        numbers = range(given.replay, given.replay + 1)
        given.out = Path(tempfile.mkdtemp(prefix="replay-")) / "results.json"
        given.jobs = 1
    journal = Journal(given.out, given.seed, chosen)
    if given.claims is None:
        journal.begin(fresh=given.fresh or given.short)
    else:
        journal.read()
    left = [
        (fault, number)
        for number in numbers
        for fault in chosen
        if not journal.has(fault.name, number)
    ]
    journal.planned, journal.jobs = left, given.jobs
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started ends with it
    if given.claims is not None or (left and given.jobs == 1):
        stopped = work_alone(given, journal, left)
    elif left:
        stopped = work_in(given.jobs, sys.argv[1:])
        journal.read()
    if given.claims is not None:
        return 0
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
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the trials")
    parser.add_argument("--claims", type=Path, help=argparse.SUPPRESS)  # of one of those processes
    parser.add_argument("--list", action="store_true", help="name the faults")
    parser.add_argument("--out", type=Path, default=Path("artifacts/soak/results.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
