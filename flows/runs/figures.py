"""The figures of a run as rows and links: for its page in Prefect, and for the closing table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flows.runs.mlflow_urls import run_page
from tasks.core.files import read_if_there, read_json
from tasks.core.rows import MODEL_NAMES
from tasks.core.stage import format_reasons
from tasks.core.yaml_file import read_yaml

#: Keys of scores.json, in the order of the table.
SCORES = {**MODEL_NAMES, "gain": "gain", "gain_over_start": "gain over start"}


def tabulate_rows(checkout: Path, done: set[str]) -> list[dict[str, Any]]:
    """Return one row a stage that is ``done``: rows in, kept, dropped by reason."""
    rows = []
    for path in sorted(
        (checkout / "artifacts").glob("*/summary.json"), key=lambda path: path.stat().st_mtime
    ):
        if path.parent.name not in done:
            continue
        found = read_json(path)
        rows.append(
            {
                "stage": found["stage"],
                "rows in": found["rows_in"],
                "kept": found["rows_kept"],
                "dropped": format_reasons(found["dropped"]),
            }
        )
    return rows


def tabulate_f1(checkout: Path) -> list[dict[str, Any]]:
    """Return one row a model, the gains last: F1 in points, its interval, the majority baseline.

    A run that started from an adapter has two rows more: the start alone, and the gain over it.
    """
    scores = read_if_there(checkout / "artifacts" / "evaluate" / "scores.json") or {}
    rows = []
    for key, label in SCORES.items():
        if key in scores:
            score = scores[key]
            row = {
                "model": label,
                "F1": round(score["f1"], 1),
                "95 % low": round(score["f1_low"], 1),
                "95 % high": round(score["f1_high"], 1),
            }
            majority = score.get("majority")
            rows.append({**row, "majority": "" if majority is None else round(majority, 1)})
    return rows


def list_links(checkout: Path, done: set[str]) -> str:
    """Return Markdown links from a run to its MLflow run, its reports and its data version; of the
    stages that are ``done``.
    """
    lines = []
    found = read_if_there(checkout / "artifacts" / "register" / "registration.json")
    if found and "register" in done:
        page = os.environ.get("PIPELINE_MLFLOW_PAGE", "")
        shown = (
            f"[{found['run_id']}]({run_page(page, found['experiment_id'], found['run_id'])})"
            if page and "experiment_id" in found
            else found["run_id"]
        )
        lines.append(f"- MLflow run {shown}, experiment {found['experiment']}")
        if "version" in found:
            lines.append(
                f"- model {found['model_name']}, version {found['version']}, alias {found['alias']}"
            )
        lines += [
            f"- {found[key]}" for key in ("verdict", "in_evaluation", "served") if key in found
        ]
    reports = sorted((checkout / "artifacts").glob("*/report.html"))
    lines += [f"- report `{path}`" for path in reports if path.parent.name in done]
    data = checkout / "data.dvc"
    if data.is_file():
        lines.append(f"- data version `{read_yaml(data)['outs'][0]['md5']}` (data.dvc)")
    return "\n".join([*lines, f"- checkout `{checkout}`"])
