"""The results: one list in results.json, one table on the screen, one plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import ResultRow
from tasks.core.files import atomic_path, read_if_there, write_json
from tasks.core.markdown import table

#: Units of rows that have something else in the place of a ratio.
_NO_RATIO = ("seconds", "cuts")


def merge(path: Path, rows: Sequence[ResultRow], benches: Sequence[str]) -> list[dict[str, Any]]:
    """Put the rows in the place of what ``benches`` wrote before, keep the rows of all others, and
    return the whole list.
    """
    whole = merge_rows(read_if_there(path) or [], [row.as_json() for row in rows], benches)
    write_json(path, whole)
    return whole


def merge_rows(
    before: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], benches: Sequence[str]
) -> list[dict[str, Any]]:
    """Return ``new`` with those rows of ``before`` that are not of ``benches``, sorted."""
    kept = [row for row in before if row["bench"] not in benches]
    return sorted([*kept, *new], key=lambda row: (row["bench"], row["peer"]))


def render(rows: Sequence[ResultRow]) -> str:
    """Return the rows as a table for people."""
    heads = (
        "bench",
        "against",
        "ratio",
        "low",
        "high",
        "target",
        "ours",
        "theirs",
        "unit",
        "end to end",
        "gate",
    )
    text = table(heads, map(_cells, rows), padded=True)
    foot = (
        "ratio: ours over theirs, median of the rounds' paired ratios; low, high: the "
        "least and the greatest of them. "
        "end to end: start, imports, load, warm-up and one round.\n* target met. Under "
        "'seconds' and 'MiB' less is better."
    )
    notes = [f"{row.bench} / {row.peer}: {row.note}" for row in rows if row.note]
    return "\n".join([text, "", foot, *notes])


def _cells(row: ResultRow) -> tuple[str, ...]:
    sign = (
        ""
        if row.target is None
        else f"{'>=' if row.better == 'more' else '<='} {row.target:g}{' *' if row.met else ''}"
    )
    numbers = ["-" if value is None else f"{value:.2f}" for value in (row.ratio, row.low, row.high)]
    speeds = [
        "-" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
        for value in (row.ours, row.theirs)
    ]
    whole = "-" if row.end_to_end_ratio is None else f"{row.end_to_end_ratio:.2f}"
    return (row.bench, row.peer, *numbers, sign, *speeds, row.unit, whole, row.gate)


def plot(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draw every ratio of the list, with its range and its target, as ratios.svg and ratios.png."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "ratios"  # the same rows give the same file
    from matplotlib import pyplot

    shown = [row for row in rows if row["ratio"] is not None and row["unit"] not in _NO_RATIO]
    figure, axes = pyplot.subplots(figsize=(8, 1.6 + 0.36 * len(shown)))
    for place, row in enumerate(reversed(shown)):
        axes.barh(place, row["ratio"], color="#4477aa", height=0.6)
        axes.plot([row["low"], row["high"]], [place, place], color="#222222", linewidth=1.5)
        if row["target"] is not None:
            axes.plot([row["target"]] * 2, [place - 0.4, place + 0.4], color="#cc3311", linewidth=2)
    axes.axvline(1, color="#888888", linewidth=0.8)
    axes.set_yticks(
        range(len(shown)), [f"{row['bench']} / {row['peer']}" for row in reversed(shown)]
    )
    axes.set_xlabel("ours over theirs\nline: range over the rounds\nred: target (memory: at most)")
    figure.tight_layout()
    for kind in ("svg", "png"):
        with atomic_path(folder / f"ratios.{kind}") as partial:
            figure.savefig(
                partial, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None
            )
    pyplot.close(figure)
