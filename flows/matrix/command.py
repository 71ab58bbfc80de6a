"""Run a matrix: ``python -m flows.matrix matrices/embedded.yaml``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from flows.matrix.cells import check_inputs, expand
from flows.matrix.matrix_file import read_matrix
from flows.matrix.run_cell import OUT
from flows.runs.die_with_parent import CODE
from flows.server import open_api
from tasks.core.stage import one_line_errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow and say where its report is.

    Returns 0 (every cell is done), 1 (some are not) or 2 (the request itself is wrong).
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
    given = parser.parse_args(argv)
    with one_line_errors("matrix"):
        # Refused before Prefect starts, and before anything is generated or trained.
        asked = read_matrix(CODE / given.file)
        cells = expand(asked, CODE)
        check_inputs(asked, cells, CODE)
        if given.list:
            print("\n".join(cell.name for cell in cells))
            return 0
        await_server = open_api(CODE)
        from flows.matrix.flow import matrix  # Prefect: 2 s to import, while its server starts

        await_server()
        try:
            state = matrix(file=given.file, return_state=True)
        except KeyboardInterrupt:
            print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
            return 130
        table = CODE / OUT / asked.name / "table.md"
        if table.is_file():
            print(
                f"\n{table.read_text(encoding='utf-8')}\nreport: "
                f"{OUT / table.parent.name / 'report.html'}"
            )
        if state.is_completed():
            return 0
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    return 2
