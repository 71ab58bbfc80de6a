"""Run the whole graph.

``python -m flows.pipeline [--profile NAME] [--set section.key=value ...] [--name NAME]``
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.runs import CODE, last_run, request, summary, worktree
from flows.runs.board import clear_board
from flows.runs.limits import EXIT_STATUS, STOPPED
from flows.runs.live import LiveTable, is_terminal, log_to_file
from flows.runs.terminated import heed_term, tell_interrupted
from flows.server import open_api
from tasks.core.errors import PipelineError
from tasks.core.overlay import DEFAULT, split_settings
from tasks.core.stage import one_line_errors


@dataclass(frozen=True)
class _Ending:
    """How the flow ended: ``error`` is empty if every stage is done, ``notice`` is for the user."""

    error: str
    notice: str = ""
    #: A limit of the run ended it (``run`` in params.yaml).
    stopped: bool = False
    #: The outcomes in the checkout are this run's. Those of a run that failed before its first
    #: stage are an earlier one's.
    has_outcomes: bool = True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow, with a live table where there is a terminal, and print the closing table.

    Returns 0 (done), 1 (a stage failed), 2 (the request itself is wrong), 3 (a limit of the run
    ended it), 130 (interrupted) or 143 (terminated).
    """
    arguments = _parser().parse_args(argv)
    with one_line_errors("pipeline"):
        arguments.set += split_settings(arguments.settings)
        # A wrong parameter, or a run that is in progress, is refused before Prefect starts.
        run = request.plan(CODE, arguments.profile, arguments.set, arguments.name)
        for doubt in request.find_doubts(run):
            print(f"warning: {doubt}", file=sys.stderr)
        with run.reading():  # the flow holds it, but not from here on
            return _carry_out(run, arguments)
    return 2


def _carry_out(run: worktree.Run, arguments: argparse.Namespace) -> int:
    with worktree.hold(run, patience=1.0):
        clear_board(run.path)
    log = _empty_log(run)
    try:
        with heed_term():
            ending = _show_flow(run, arguments, log)
    except PipelineError:
        print(f"log       {_short(log)}", flush=True)
        raise
    except KeyboardInterrupt as error:
        print(f"log       {_short(log)}", flush=True)
        return tell_interrupted(error)
    return _finish(run, arguments.profile, ending, log)


def _show_flow(run: worktree.Run, arguments: argparse.Namespace, log: Path) -> _Ending:
    if not is_terminal(sys.stdout, os.environ):
        return _run_flow(run, arguments, log, None)
    with LiveTable(run.path, run.name) as table:
        ending = _run_flow(run, arguments, log, table)
        table.vanish()
        return ending


def _run_flow(
    run: worktree.Run, arguments: argparse.Namespace, log: Path, table: LiveTable | None
) -> _Ending:
    with log.open("a", encoding="utf-8") as output:
        await_server = open_api(CODE, output if table else None)
    from flows.adapt import adapt  # Prefect: 2 s to import, while its server starts

    log_to_file(log, table)
    await_server()
    before, notice = last_run.read_last_flow_run(run.path), ""
    try:
        state = adapt(
            profile=arguments.profile,
            overrides=arguments.set,
            name=arguments.name,
            return_state=True,
        )
    except Exception as error:  # noqa: BLE001 - Prefect's client could not report the run's end
        words = [type(error).__name__, *str(error).splitlines()[:1]]
        notice = ": ".join(words) + "\n"
        state = None
    if state is not None and state.is_cancelled():
        raise KeyboardInterrupt
    last = last_run.read_last_flow_run(run.path)
    own = last != before
    if state is not None and not state.is_crashed():
        if state.is_completed():
            return _Ending("")
        told = state.message or state.name or "failed"
        return _Ending(told, stopped=state.name == STOPPED, has_outcomes=own)
    # What counts is the state of the stages, which is in the checkout.
    failed = (
        last_run.read_ending(run.path, last)
        if own
        else "Prefect's server stopped before the stages were done"
    )
    gone = "Prefect's server stopped: its page is corrected at the next start"
    return _Ending(failed or "", notice + gone, has_outcomes=own)


def _finish(run: worktree.Run, profile: str, ending: _Ending, log: Path) -> int:
    """Print the closing table, if the run has one, the log's place and how to continue; return the
    exit status.
    """
    if ending.notice:
        print(ending.notice, file=sys.stderr)
    if ending.has_outcomes:
        print(summary.render(run.path, CODE))
    print(f"log       {_short(log)}", flush=True)
    if not ending.error:
        if profile == DEFAULT and (larger := request.machine_profile(CODE)) != DEFAULT:
            print(f"next      on this GPU: make run PROFILE={larger} (docs/paper.md)")
        return 0
    print(f"{'stopped' if ending.stopped else 'error'}: {ending.error}", file=sys.stderr)
    return EXIT_STATUS if ending.stopped else 1


def _empty_log(run: worktree.Run) -> Path:
    log = CODE / ".work" / "logs" / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    return log


def _short(path: Path) -> Path:
    """Return a path in the checkout as a person would type it."""
    return path.relative_to(CODE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline",
        description="Run every stage of dvc.yaml that is not up to date.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--profile",
        default=DEFAULT,
        help="a file of profiles/ without .yaml; default: params.yaml, the embedded models",
    )
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="a setting for this run only",
    )
    parser.add_argument("--settings", default="", help="the same in one text, as make's SET")
    parser.add_argument(
        "--name",
        default="",
        help="the run's worktree and experiment (default: derived from profile and settings)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
