"""Run a matrix: ``python -m flows.matrix matrices/embedded.yaml``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from flows.matrix.cells import check_inputs, expand
from flows.matrix.matrix_file import read_matrix
from flows.matrix.run_cell import OUT
from flows.runs import CODE
from flows.runs.terminated import heed_term, tell_interrupted
from flows.server import open_api
from tasks.core.stage import one_line_errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow and print where its report is.

    Returns 0 (every cell is done), 1 (some are not), 2 (the request is wrong), 130 (interrupted) or
    143 (terminated).
    """
    parser = argparse.ArgumentParser(
        prog="python -m flows.matrix",
        description="Compare supervision sources.",
        allow_abbrev=False,
    )
    parser.add_argument("file", help="a matrix file, see docs/matrix.md")
    parser.add_argument(
        "--list", action="store_true", help="check the file, print its cells and stop"
    )
    arguments = parser.parse_args(argv)
    with one_line_errors("matrix"):
        try:
            with heed_term():
                return _compare(arguments.file, arguments.list)
        except KeyboardInterrupt as error:
            return tell_interrupted(error)
    return 2


def _compare(file: str, only_list: bool) -> int:
    # Errors are reported before Prefect starts.
    plan = read_matrix(CODE / file)
    cells = expand(plan, CODE)
    check_inputs(plan, cells, CODE)
    if only_list:
        print("\n".join(cell.name for cell in cells))
        return 0
    state = _run_flow(file)
    table = CODE / OUT / plan.name / "table.md"
    if table.is_file():
        print(f"\n{table.read_text(encoding='utf-8')}")
        print(f"report: {OUT / plan.name / 'report.html'}")
    if state.is_completed():
        return 0
    print(f"error: {state.message}", file=sys.stderr)
    return 1


def _run_flow(file: str) -> Any:
    """Return the flow's final state; raise :class:`KeyboardInterrupt` where it was cancelled."""
    await_server = open_api(CODE)
    from flows.matrix.flow import matrix  # Prefect: 2 s to import, while its server starts

    await_server()
    state = matrix(file=file, return_state=True)
    if state.is_cancelled():
        raise KeyboardInterrupt
    return state


if __name__ == "__main__":
    sys.exit(main())
