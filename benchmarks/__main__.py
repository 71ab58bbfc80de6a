"""``python -m benchmarks``: run the benches, print one table of ratios, write results.json and the
plot.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, BenchOptions
from benchmarks.machine import describe
from benchmarks.record import record
from benchmarks.report import merge, plot, render
from benchmarks.rows import ResultRow
from tasks.core.errors import PipelineError, did_you_mean
from tasks.core.log_lines import ignore_closed_stdout
from tasks.core.privacy import silence
from tasks.lm.models import EMBEDDED

#: Where results.json and the plot go.
OUT = ROOT / "artifacts" / "bench"
#: One module a claim: its ``run`` returns rows, whose ``bench`` is one of its ``NAMES``; TARGETS is
#: peer -> target, for each name.
BENCHES = (
    "evaluate",
    "finetune",
    "noop",
    "generate",
    "validate",
    "memory",
    "pipeline",
    "grow",
    "forecast",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if every contender of ours ran and every gate passed, 1 if not, 2 if the command
    makes no sense.
    """
    arguments = _parser().parse_args(argv)
    ignore_closed_stdout()
    try:
        if arguments.list:
            print(_listing())
            return 0
        silence()
        options = BenchOptions(
            rounds=arguments.rounds,
            quick=arguments.size == "quick",
            model=arguments.model,
            whole=arguments.size == "whole",
        )
        if arguments.record and options.quick:
            raise PipelineError("--size quick: its figures mean nothing and are not recorded")
        return measure(_chosen(arguments.only), options, OUT, arguments.record)
    except PipelineError as error:
        print(f"error: benchmarks: {error}", file=sys.stderr)
        return 2


def measure(
    benches: Sequence[Any], options: BenchOptions, out: Path, recorded: bool = False
) -> int:
    """Run bench modules, write (and record) the results after each one, print the table."""
    rows: list[ResultRow] = []
    machine = describe(options.threads)
    for bench in benches:
        print(
            f"benchmarks: {', '.join(bench.NAMES)}, {options.rounds} rounds",
            file=sys.stderr,
            flush=True,
        )
        own = bench.run(options)
        for row in own:
            row.machine, row.command = machine, _command(bench.NAMES[0], options)
            if options.quick:
                row.note = ("quick: the figures mean nothing. " + row.note).strip()
        whole = merge(out / "results.json", own, bench.NAMES)
        if recorded:
            record(own, bench.NAMES)
        rows += own
    plot(whole, out)
    print(render(rows))
    return 1 if any(row.gate.startswith("failed") for row in rows) else 0


def _command(name: str, options: BenchOptions) -> str:
    """Return what measures the rows of a bench again."""
    command = f"python -m benchmarks --only {name} --rounds {options.rounds}"
    command += f" --model {options.model}" if options.model != EMBEDDED else ""
    return command + (" --size whole" if options.whole else "")


def _chosen(only: str) -> list[Any]:
    names = [name for name in only.split(",") if name] or list(BENCHES)
    for name in names:
        if name not in BENCHES:
            raise PipelineError(f"there is no bench {name!r}{did_you_mean(name, BENCHES)}")
    return [import_module(f"benchmarks.{name}") for name in names]


def _listing() -> str:
    lines = []
    for bench in _chosen(""):
        told = " ".join((bench.__doc__ or "").partition("\n\n")[0].split())
        targets = ", ".join(f"{peer} {target:g}" for peer, target in bench.TARGETS.items())
        lines.append(f"{told}\n    targets: {targets}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Us and the peers side by side; see benchmarks/README.md.",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="NAME[,NAME]",
        help="these benches alone; the other rows of results.json stay",
    )
    parser.add_argument(
        "--rounds",
        type=_positive,
        default=5,
        help="measured rounds of each contender, after one to warm up",
    )
    parser.add_argument(
        "--size",
        choices=("full", "quick", "whole"),
        default="full",
        help=(
            "quick: a tiny random model, to see that everything runs; whole: a million rows as well"
        ),
    )
    parser.add_argument(
        "--model", default=EMBEDDED, help="a model name or folder; on a GPU it runs there, in bf16"
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="also put the rows into benchmarks/results.json and the table of its README",
    )
    parser.add_argument("--list", action="store_true", help="name the benches and their targets")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
