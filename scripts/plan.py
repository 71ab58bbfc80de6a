"""What a run will give and cost, before it starts: ``make plan PROFILE=contracts``.

    python scripts/plan.py [--profile NAME[,NAME]] [--set section.key=value ...]

Writes ``artifacts/plan/plan.json`` and prints it as a table. Nothing else of the pipeline changes.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flows.runs.corpus_files import tell_items_read
from flows.runs.request import derive_name
from flows.runs.worktree import fingerprint_results, folder_of
from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.overlay import DEFAULT, profile_files, read_layers, split_settings
from tasks.core.params import Params, parse_params
from tasks.core.sections.run import Limits
from tasks.core.stage import WORK, one_line_errors
from tasks.scoring.intervals import SPREAD, measured_spread, spread_ends
from tasks.start.forecast import Range
from tasks.start.plan import Plan, plan, to_json
from tasks.start.trial import PASSAGES

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("artifacts") / "plan" / "plan.json"
_WIDTH = 100


def main(argv: list[str] | None = None) -> int:
    """Try the run in small, write the forecast and print it."""
    parser = argparse.ArgumentParser(prog="make plan", allow_abbrev=False)
    parser.add_argument("--profile", default=DEFAULT)
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--settings", default="", help="the same in one text, as make's SET")
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    with one_line_errors("plan"):
        settings = [*arguments.set, *split_settings(arguments.settings)]
        profiles = profile_files(ROOT / "profiles", arguments.profile)
        values, layers = read_layers(ROOT / "params.yaml", profiles, settings)
        params: Params = parse_params(values, layers, settings=settings)
        corpus, items = Path(params.ingest.corpus), Path(params.evaluate.items)
        if inside := tell_items_read(items, corpus, values["ingest"]):
            raise PipelineError(f"evaluate.items: {inside}")
        print(
            f"{_opening(params)} of {params.ingest.corpus} go through the first stages: about two "
            "minutes",
            flush=True,
        )
        run = derive_name(arguments.profile, settings)
        checkout = folder_of(ROOT, run)
        spread, ends = measured_spread(checkout) or SPREAD, spread_ends(checkout)

        def tell(stage: str, progress: str) -> None:
            name, more = ("", f": {progress}") if progress else (f"{stage} ...", "")
            print(f"    {name:<16}after {time.monotonic() - started:.0f} s{more}", flush=True)

        folder = (WORK / "plan").absolute()
        found = plan(params, values, folder, tell, spread, ends, started)
        told = to_json(found, arguments.profile, run, time.monotonic() - started)
        write_json(OUT, told | {"settings": fingerprint_results(values)})
        print("\n".join([*describe(found, arguments.profile), *compare(found, params.run)]))
        print(f"\nin {time.monotonic() - started:.0f} s, to {OUT}")
        return 0
    return 2


def _opening(params: Params) -> str:
    return (
        f"Up to {PASSAGES} passages" if params.supervise.mix.generator else "Claims made by rules"
    )


def describe(found: Plan, profile: str) -> list[str]:
    """Return the forecast as a table, at most 100 columns wide."""
    heading = f"Forecast of {profile}, {found.passages:,} passages (80 % intervals) "
    lines = [heading.ljust(_WIDTH, "-")]
    for name, rows in found.kept_rows.items():
        if name != "all" or len(found.kept_rows) > 2:
            lines.append(_line("kept rows", name, _shown(rows, "{:,.0f}")))
    lines += textwrap.wrap(
        found.verdict, _WIDTH, initial_indent=" " * 16, subsequent_indent=" " * 16
    )
    for stage, minutes in found.minutes.items():
        lines.append(_line("minutes", stage, _shown(minutes, "{:.1f}")))
    lines += [
        _line("peak memory", "", f"{_shown(found.peak_memory_mb, '{:,.0f}')} MB, of one process"),
        _line("disk", "", f"{_shown(found.disk_mb, '{:,.0f}')} MB, mostly models in the cache"),
        _line("tokens", "read", f"{found.passage_tokens:,}"),
        _line("tokens", "written", _shown(found.generated_tokens, "{:,.0f}")),
        _line("smallest gain", "", _gain(found)),
    ]
    if found.gpu_hours:
        lines.append(_line("GPU hours", "", _shown(found.gpu_hours, "{:.2f}")))
    lines.append(_line("tried", "", f"{found.tried:,} passages"))
    for told in found.rests_on:
        head, rest = _line("rests on", "", ""), " " * 16
        lines += textwrap.wrap(told, _WIDTH, initial_indent=head, subsequent_indent=rest)
    shown, before = [], ""
    for line in lines:  # a name that was there is not repeated
        name = line[:16]
        shown.append(" " * 16 + line[16:] if name == before and name.strip() else line)
        before = name if name.strip() else before
    return ["", *shown]


def compare(found: Plan, limits: Limits) -> list[str]:
    """Return a line for each limit of the run that the forecast reaches."""
    minutes, rows = found.minutes["all"], found.kept_rows["all"]
    floor = max(limits.min_rows, round(limits.min_rows_per_passage * found.passages))
    told = []
    if limits.max_minutes and minutes.high > limits.max_minutes:
        sure = "will" if minutes.low > limits.max_minutes else "may"
        told.append(
            f"run.max_minutes = {limits.max_minutes:g}: the run {sure} end before it is done; the "
            "same command continues"
        )
    if rows.low < floor:
        sure = "will" if rows.high < floor else "may"
        told.append(f"run.min_rows: fewer than {floor:,} rows {sure} be kept: not trained then")
    return [_line("limit", "", line) for line in told]


def _gain(found: Plan) -> str:
    if found.smallest_gain is None:
        return "no labelled items: there will be no F1 (docs/datasets.md shows their form)"
    points = 100 * found.smallest_gain
    ends = ""
    if found.detectable_gain:
        ends = f" ({_shown(found.detectable_gain.times(100, 100), '{:.1f}')})"
    return f"{points:.1f} points of F1{ends} can be told from chance with {found.labelled:,} items"


def _line(name: str, part: str, value: str) -> str:
    return f"{name:<16}{part:<12}{value}" if part else f"{name:<16}{value}"


def _shown(value: Range, form: str) -> str:
    low, high = form.format(value.low), form.format(value.high)
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    sys.exit(main())
