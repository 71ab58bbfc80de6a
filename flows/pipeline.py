"""Run the whole graph: ``python -m flows.pipeline [--profile NAME] [--set section.key=value ...] [--name NAME]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from flows import checkout, summary
from flows.child import CODE
from flows.server import open_api
from tasks.stage import one_line_errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow and print the closing table. Returns 0 (done), 1 (a stage failed) or 2 (the request itself is wrong)."""
    given = _parser().parse_args(argv)
    with one_line_errors("pipeline"):
        # Refused before Prefect starts: a wrong parameter, a run that is going on already.
        run = checkout.plan(CODE, given.profile, given.set, given.name)
        with checkout.hold(run, patience=1.0):
            pass
        await_server = open_api(CODE)
        from flows.adapt import adapt  # Prefect: 2 s to import, while its server starts

        await_server()
        try:
            state = adapt(profile=given.profile, overrides=given.set, name=given.name, return_state=True)
        except KeyboardInterrupt:
            print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
            return 130
        print(summary.render(run.path, CODE))
        if state.is_completed():
            return 0
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Run every stage of dvc.yaml that is not up to date.", allow_abbrev=False)
    parser.add_argument(
        "--profile",
        default=checkout.usual_profile(CODE),
        help="a file of profiles/, without its .yaml; default: params.yaml as it is, the embedded models (where the GPU pins are installed: mistral-7b)",
    )
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="SECTION.KEY=VALUE", help="a setting of this run alone")
    parser.add_argument("--name", default="", help="name of the run's worktree and experiment (default: made from the profile and the settings)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
