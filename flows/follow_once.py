"""``make follow``: one look at the corpus, and a run of the pipeline if it changed.

What Prefect's deployment ``follow`` does on a schedule, without Prefect's pages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from flows import pipeline
from flows.runs import CODE, look, request, worktree
from flows.runs.terminated import heed_term, tell_interrupted
from tasks.core.files import write_text
from tasks.core.overlay import DEFAULT, split_settings
from tasks.core.stage import one_line_errors


def main(argv: Sequence[str] | None = None) -> int:
    """Look, run where there is something new, and write the report; return the run's status, or 130
    (interrupted) or 143 (terminated).
    """
    parser = argparse.ArgumentParser(prog="make follow", allow_abbrev=False)
    parser.add_argument("--profile", default=DEFAULT)
    parser.add_argument("--settings", default="", help="settings in one text, as make's SET")
    parser.add_argument("--name", default="")
    arguments = parser.parse_args(argv)
    with one_line_errors(look.FOLLOW):
        settings = split_settings(arguments.settings)
        run = request.plan(CODE, arguments.profile, settings, arguments.name)
        try:
            with run.reading(), heed_term():
                return _follow(run, arguments)
        except KeyboardInterrupt as error:  # in the look; the run tells its own
            return tell_interrupted(error)
    return 2


def _follow(run: worktree.Run, arguments: argparse.Namespace) -> int:
    seen = look.look(run)
    print(seen.describe(), flush=True)
    status = 0
    if seen.changed:
        with worktree.hold(run):
            look.announce(seen)
        asked = ["--profile", arguments.profile, "--settings", arguments.settings]
        status = pipeline.main([*asked, "--name", arguments.name])
    if status == 0:
        look.settle(seen)
    failed = f"status {status}, see the lines above" if status else ""
    page = seen.state.with_suffix(".md")
    write_text(page, look.report(seen, run, failed))
    print(f"report    {page.relative_to(CODE)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
