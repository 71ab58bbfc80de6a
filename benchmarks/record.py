"""What is committed of the measurements: benchmarks/results.json, and the table made from it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT
from benchmarks.report import merge_rows
from benchmarks.rows import ResultRow
from tasks.core.errors import PipelineError
from tasks.core.files import read_if_there, write_json, write_text
from tasks.core.markdown import table

#: The folder of results.json and of README.md.
RECORDS = Path(__file__).parent
_COLUMNS = ("bench", "peer", "ratio", "low", "high", "target", "better", "unit", "ours", "theirs")
_MORE_COLUMNS = ("end_to_end_ratio", "rounds", "gate", "note", "machine", "command")
_BEGIN, _END = "<!-- table of results.json -->", "<!-- end of the table -->"


def record(rows: Sequence[ResultRow], benches: Sequence[str], folder: Path = RECORDS) -> None:
    """Put ``rows`` in the place of what ``benches`` had in ``folder``'s results.json, each with the
    commit that it was measured at, and make the README's table from the whole.
    """
    commit = _commit()
    names = (*_COLUMNS, *_MORE_COLUMNS)
    new = [{name: row.as_json()[name] for name in names} | {"commit": commit} for row in rows]
    whole = merge_rows(read_records(folder), new, benches)
    write_json(folder / "results.json", whole)
    write_text(folder / "README.md", with_table((folder / "README.md").read_text("utf-8"), whole))


def read_records(folder: Path = RECORDS) -> list[dict[str, Any]]:
    """Return the committed rows; none where there is no file."""
    return read_if_there(folder / "results.json") or []


def with_table(text: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a README with the table of ``rows`` between its two marks."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise PipelineError(f"benchmarks/README.md has no lines {_BEGIN} and {_END}")
    heads = ("bench", "against", "ratio (least to greatest)", "target", "end to end", "commit")
    return f"{before}{begin}\n\n{table(heads, map(_cells, rows))}\n\n{end}{after}"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    whole = row["end_to_end_ratio"]
    return (
        row["bench"],
        row["peer"],
        _ratio(row),
        _target(row),
        "" if whole is None else f"{whole:.2f}",
        row["commit"],
    )


def _ratio(row: Mapping[str, Any]) -> str:
    if row["ratio"] is None:
        return row["gate"]
    if row["unit"] == "cuts":
        return f"{row['ratio']:.0f} of {row['rounds']}"
    spread = f" ({row['low']:.2f} to {row['high']:.2f})" if row["rounds"] > 1 else ""
    unit = " s" if row["unit"] == "seconds" else ""
    return f"{row['ratio']:.2f}{unit}{spread}"


def _target(row: Mapping[str, Any]) -> str:
    if row["target"] is None:
        return ""
    most = row["better"] == "less"
    text = f"{'at most ' if most else ''}{row['target']:g}"
    if row["ratio"] is None:
        return text
    met = row["ratio"] <= row["target"] if most else row["ratio"] >= row["target"]
    return f"{text}: {'met' if met else '**missed**'}"


def _commit() -> str:
    """Return the short commit, with a plus sign where tracked files are changed beside it."""
    head = subprocess.run(
        ["git", "describe", "--always", "--abbrev=7", "--exclude=*", "--dirty=+"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if head.returncode:
        raise PipelineError("the measurements are recorded with their commit: this is no checkout")
    return head.stdout.strip()
