"""The dataset card of a remix: its rows, their licences, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bonito.sources import AnnotatedDataset
from bonito.templating.templates import source_name
from tasks.core.files import write_text
from tasks.core.markdown import table
from tasks.core.task_types import TASK_TYPES


def write_card(
    path: Path,
    facts: Mapping[str, Any],
    rows_in: int,
    dropped: Mapping[str, int],
    datasets: Mapping[tuple[str, str], AnnotatedDataset],
) -> None:
    """Write ``CARD.md``. ``facts["counts"]`` holds (dataset, config, task type, rows)."""
    by_dataset: Counter[tuple[str, str]] = Counter()
    by_type: Counter[str] = Counter()
    by_licence: Counter[str] = Counter()
    for dataset, config, task_type, rows in facts["counts"]:
        by_dataset[dataset, config] += rows
        by_type[task_type] += rows
        by_licence[datasets[dataset, config].licence] += rows
    total = facts["train_rows"] + facts["held_out_rows"]
    sections = [
        "# Remixed training rows for a task generator",
        f"{total:,} rows ({facts['train_rows']:,} in train.parquet, {facts['held_out_rows']:,} in "
        f"heldout.parquet) from {rows_in:,} annotated rows. Each pairs a passage with one task over"
        " it; the literal `{{context}}` stands for the passage. Made as in arXiv 2402.18334 by "
        "`python -m bonito.remix`.",
        "## Rows by dataset",
        _table(
            ("dataset", "rows", "licence"),
            [
                (source_name(*key), rows, datasets[key].licence)
                for key, rows in sorted(by_dataset.items())
            ],
        ),
        "## Rows by task type",
        _table(
            ("task type", "name", "rows"),
            [(name, kind.full_name, by_type[name]) for name, kind in TASK_TYPES.items()],
        ),
        "## Rows by licence",
        "A licence that is not stated is not a permission.",
        _table(("licence", "rows"), sorted(by_licence.items())),
        "## Rows dropped",
        _table(
            ("reason", "rows"),
            sorted((reason, count) for reason, count in dropped.items() if count),
        ),
        "## Templates not used, or used with a caveat",
        _table(
            ("template", "status", "reason"),
            [(entry["template"], entry["status"], entry["reason"]) for entry in facts["templates"]],
        ),
        "## Templates that failed on single rows",
        _table(("template and fault", "rows"), sorted(facts["faults_by_template"].items())),
        "## Made from",
        _table(
            ("what", "value"),
            [
                ("templates folder (SHA-256)", facts["templates_sha256"]),
                *sorted((name, value) for name, value in facts["params"].items()),
            ],
        ),
    ]
    write_text(path, "\n\n".join(sections) + "\n")


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = list(rows)
    return table(heads, lines) if lines else "None."
