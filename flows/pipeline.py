"""Run the whole graph: ``python -m flows.pipeline [--profile NAME] [--set section.key=value ...]
[--name NAME]``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from flows.runs import request, summary
from flows.runs import worktree as checkout
from flows.runs.die_with_parent import CODE
from flows.server import open_api
from tasks.core.stage import one_line_errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow and print the closing table.

    Returns 0 (done), 1 (a stage failed) or 2 (the request itself is wrong).
    """
    given = _parser().parse_args(argv)
    with one_line_errors("pipeline"):
        # Refused before Prefect starts: a wrong parameter, a run that is going on already.
        run = request.plan(CODE, given.profile, given.set, given.name)
        with checkout.hold(run, patience=1.0):
            pass
        await_server = open_api(CODE)
        from flows.adapt import adapt  # Prefect: 2 s to import, while its server starts

        await_server()
        before = summary.last_flow_run(run.path)
        try:
            state = adapt(
                profile=given.profile, overrides=given.set, name=given.name, return_state=True
            )
        except KeyboardInterrupt:
            print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
            return 130
        except Exception as error:  # noqa: BLE001 - whatever its client throws: Prefect could not tell its server how the run ended
            print(f"{type(error).__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)
            state = None
        if state is not None and not state.is_crashed():
            return _finish(run, state.is_completed(), state.message or "")
        # What counts is how the stages went, and that stands in the checkout.
        last = summary.last_flow_run(run.path)
        failed = (
            summary.ending(run.path, last)
            if last != before
            else "Prefect's server went away before the stages were through"
        )
        print(
            "Prefect's server is gone: its page will be put right at the next start",
            file=sys.stderr,
        )
        return _finish(run, not failed, failed or "")
    return 2


def _finish(run: checkout.Run, done: bool, message: str) -> int:
    """Print the closing table and return the exit status."""
    print(summary.render(run.path, CODE))
    if done:
        return 0
    print(f"error: {message}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline",
        description="Run every stage of dvc.yaml that is not up to date.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--profile",
        default=request.usual_profile(CODE),
        help=(
            "a file of profiles/, without its .yaml; default: params.yaml as it is, the "
            "embedded models (where the GPU pins are installed: mistral-7b)"
        ),
    )
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="a setting of this run alone",
    )
    parser.add_argument(
        "--name",
        default="",
        help=(
            "name of the run's worktree and experiment (default: made from the profile and "
            "the settings)"
        ),
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
