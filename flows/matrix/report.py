"""The report of a matrix.

Everything in it can be checked: every figure has its interval, every cell its status, reason and
predictions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.matrix.groups import compare_groups, measure_gains_over_tapt
from flows.matrix.matrix_file import Matrix
from flows.matrix.published import MARGIN, WIDEST, compare_published, judge_claims
from flows.matrix.results import Result, read_scores, tabulate_cells
from flows.matrix.samples import pick_samples
from flows.matrix.supervision import START
from flows.matrix.table import render_tables
from flows.matrix.words import (
    CORRECTED,
    PRIOR_CORRECTED,
    budget,
    change,
    colour,
    label,
    short,
    spread,
)
from flows.runs.mlflow_urls import run_page
from tasks.core.files import read_json, write_json, write_text
from tasks.core.page import Page, Tile, write_page
from tasks.core.yaml_file import read_yaml
from tasks.tracking.matrix_runs import group_runs

_TEMPLATE = Path(__file__).parent / "templates" / "report.html"
#: Functions that the template calls.
_WORDS = {"spread": spread, "change": change, "label": label, "colour": colour, "short": short}


def write_report(matrix: Matrix, results: Sequence[Result], main: Path, folder: Path) -> None:
    """Write ``report.html``, ``table.md`` and ``groups.json`` to ``folder``.

    Also groups the cells' MLflow runs under one parent run that holds the files.
    """
    scored = read_scores(results, main)
    groups = compare_groups(results, main, scored)
    published = compare_published(
        read_yaml(main / "matrices" / "published.yaml"), groups, results, matrix
    )
    write_json(folder / "groups.json", groups)
    write_text(folder / "table.md", render_tables(matrix, groups, published, results))
    runs = read_mlflow_runs(results, main)
    experiment, parent = "", ""
    page = folder / "report.html"
    facts = {
        "groups": groups,
        "published": published,
        "samples": pick_samples(results, main),
        "claims": judge_claims(groups),
        "starts": any(group["vs_start"] for group in groups),
    }
    if runs:
        first = next(iter(runs.values()))
        scores = _parent_metrics(groups, one_model=len(matrix.models) == 1)
        ids = {name: run["run_id"] for name, run in runs.items()}
        gains = measure_gains_over_tapt(results, main, scored)
        # Twice: the page links to the parent's id, and the parent holds the page.
        experiment, parent = group_runs(first["experiment"], matrix.name, ids, scores, [], gains)
    write_matrix_page(page, matrix, results, main, facts, runs, experiment, parent)
    if runs:
        group_runs(
            first["experiment"],
            matrix.name,
            {},
            {},
            [page, folder / "table.md", folder / "cells.json", folder / "groups.json"],
        )


def _parent_metrics(groups: Sequence[dict[str, Any]], one_model: bool) -> dict[str, float]:
    """Return the parent run's metrics: the F1 of each group with all rows and no variant, with the
    model in their names where there are several. MLflow refuses a name with ``+``.
    """
    found = {}
    for group in (group for group in groups if not group["rows"] and not group["variant"]):
        parts = [group["dataset"], group["supervision"], *([] if one_model else [group["model"]])]
        name = "/".join(["f1", *(re.sub(r"[^\w. -]+", "-", part) for part in parts)])
        found[name] = group["f1"]
    return found


def read_mlflow_runs(results: Sequence[Result], main: Path) -> dict[str, dict[str, Any]]:
    """Return cell name -> ``registration.json`` of its stage register."""
    paths = {
        result.cell.name: result.artifacts(main) / "register" / "registration.json"
        for result in results
        if result.status == "done"
    }
    return {name: read_json(path) for name, path in paths.items() if path.is_file()}


def write_matrix_page(
    path: Path,
    matrix: Matrix,
    results: Sequence[Result],
    main: Path,
    facts: dict[str, Any],
    runs: dict[str, dict[str, Any]],
    experiment: str,
    parent: str,
) -> None:
    """Write the page; ``parent`` is the parent of the cells' MLflow runs, empty: none."""
    port = os.environ.get("MLFLOW_PORT") or "5000"  # as `make ui` has it
    mlflow = os.environ.get("PIPELINE_MLFLOW_PAGE") or f"http://127.0.0.1:{port}"
    links = [("MLflow run", run_page(mlflow, experiment, parent))] if parent else []
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for group in facts["groups"]:
        panels.setdefault((group["model"], group["dataset"]), []).append(group)
    write_page(
        path,
        _TEMPLATE,
        _head(matrix, results, links),
        prior_corrected=PRIOR_CORRECTED,
        corrected=CORRECTED,
        rows=tabulate_cells(results, main),
        one_model=len(matrix.models) == 1,
        panels=panels,
        curves=draw_curves(facts["groups"]),
        links={name: run_page(mlflow, experiment, run["run_id"]) for name, run in runs.items()},
        source=read_yaml(main / "matrices" / "published.yaml")["source"],
        margin=MARGIN,
        widest=WIDEST,
        **_WORDS,
        **facts,
    )


def _head(matrix: Matrix, results: Sequence[Result], links: Sequence[tuple[str, str]]) -> Page:
    done, datasets = sum(result.status == "done" for result in results), matrix.datasets
    tone = "good" if done == len(results) else "warn"
    return Page(
        f"Does adapting on written tasks help? Matrix {matrix.name}",
        matrix.description,
        tiles=(
            Tile("Cells done", f"{done:,}", f"of {len(results):,}", tone),
            Tile("Target models", f"{len(matrix.models):,}"),
            Tile("Datasets", f"{len(datasets):,}"),
        ),
        facts=[("budget", budget(matrix))],
        links=links,
    )


def draw_curves(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the learning curves: one picture of 300 x 160 for each model and dataset that has
    several numbers of rows.
    """
    pictures = []
    for model, dataset in dict.fromkeys((group["model"], group["dataset"]) for group in groups):
        sized = [
            g
            for g in groups
            if (g["model"], g["dataset"]) == (model, dataset) and g["rows"] and not g["variant"]
        ]
        sizes = sorted({group["rows"] for group in sized})
        if len(sizes) < 2:
            continue
        place = {
            rows: 30 + 260 * position / (len(sizes) - 1) for position, rows in enumerate(sizes)
        }
        top = max(10.0, *(group["f1_high"] for group in sized))
        levels = {
            g["supervision"]: 150 - 140 * g["f1"] / top
            for g in groups
            if (g["model"], g["dataset"], g["variant"]) == (model, dataset, "") and not g["rows"]
        }
        lines = []
        for supervision in dict.fromkeys(group["supervision"] for group in sized):
            points = sorted(
                (g for g in sized if g["supervision"] == supervision), key=lambda g: g["rows"]
            )
            dots = [
                {
                    "x": place[g["rows"]],
                    **{name: 150 - 140 * g[name] / top for name in ("f1", "f1_low", "f1_high")},
                }
                for g in points
            ]
            lines.append({"supervision": supervision, "dots": dots})
        pictures.append(
            {
                "model": model,
                "dataset": dataset,
                "lines": lines,
                "sizes": place,
                "top": top,
                "zero": levels.get("none"),
                "start": levels.get(START),
            }
        )
    return pictures
