"""The page a person reads after a matrix, and its table as Markdown: self-contained, no scripts, no
network.

Nothing in it has to be taken on trust: every figure has its interval, every cell its status and
reason, and its predictions lie beside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.matrix import results as found
from flows.matrix.matrix_file import Matrix
from flows.matrix.results import Result
from flows.matrix.samples import written_samples
from flows.runs.mlflow_urls import run_page
from tasks.core.files import read_json, write_json, write_text
from tasks.core.yaml_file import read_yaml
from tasks.tracking.ledger import group_runs

_TEMPLATES = Path(__file__).parent / "templates"
#: What each source is called on the page, and its colour (light and dark grounds alike).
SOURCES = {
    "none": ("zero-shot", "#a9b1bf"),
    "tapt": ("TAPT (next word)", "#b7791f"),
    "bonito": ("Bonito", "#1f7a5c"),
    "prompted": ("prompted chat model", "#7a5cc0"),
    "p3": ("P3 (general)", "#3b78b5"),
    "labelled": ("labelled rows (ceiling)", "#7d8796"),
}
PRIOR_CORRECTED = (
    "Prior corrected: each template's liking for a choice is taken out, over all items at "
    "once and without their labels; "
    "a figure apart, which no comparison here uses."
)
#: Where `make ui` shows MLflow.
_MLFLOW = "http://127.0.0.1:5000"


def write_report(matrix: Matrix, results: Sequence[Result], main: Path, folder: Path) -> None:
    """Write ``report.html``, ``table.md`` and ``groups.json`` to ``folder``, and put the cells'
    MLflow runs under one parent that holds them.
    """
    scored = found.read_scores(results, main)
    groups = found.groups(results, main, scored)
    published = compare_published(
        read_yaml(main / "matrices" / "published.yaml"), groups, results, matrix
    )
    write_json(folder / "groups.json", groups)
    write_text(folder / "table.md", markdown(matrix, groups, published, results))
    runs = mlflow_runs(results, main)
    experiment, parent = "", ""
    page = folder / "report.html"
    facts = {
        "groups": groups,
        "published": published,
        "samples": written_samples(results, main),
        "claims": claims(groups),
    }
    if runs:
        first = next(iter(runs.values()))
        own = {
            f"f1/{group['dataset']}/{group['supervision']}": group["f1"]
            for group in groups
            if not group["rows"] and not group["variant"]
        }
        ids, gains = (
            {name: run["run_id"] for name, run in runs.items()},
            found.gains_over_tapt(results, main, scored),
        )
        # Once for the ids that the page links to, once more for the page itself.
        experiment, parent = group_runs(first["experiment"], matrix.name, ids, own, [], gains)
    write_text(page, render(matrix, results, main, facts, runs, experiment, parent))
    if runs:
        group_runs(
            first["experiment"],
            matrix.name,
            {},
            {},
            [page, folder / "table.md", folder / "cells.json", folder / "groups.json"],
        )


def mlflow_runs(results: Sequence[Result], main: Path) -> dict[str, dict[str, Any]]:
    """Return cell name -> what its register stage wrote."""
    paths = {
        result.cell.name: result.artifacts(main) / "register" / "registration.json"
        for result in results
        if result.status == "done"
    }
    return {name: read_json(path) for name, path in paths.items() if path.is_file()}


def compare_published(
    told: dict[str, Any],
    groups: Sequence[dict[str, Any]],
    results: Sequence[Result],
    matrix: Matrix,
) -> list[dict[str, Any]]:
    """Return one row a published figure: ours beside it, and reproduced (our interval holds it),
    deviates (by how much), or not run (why).
    """
    model = str(told["model"])
    rows = []
    for dataset, figures in told["figures"].items():
        for supervision, figure in figures.items():
            row = {
                "dataset": dataset,
                "supervision": supervision,
                "published": figure,
                "ours": None,
                "status": "not run",
                "reason": "",
            }
            own = [
                g
                for g in groups
                if g["dataset"] == dataset and g["supervision"] == supervision and not g["variant"]
            ]
            same = [
                group
                for group in own
                if group["model"].rsplit("/", 1)[-1] == model.rsplit("/", 1)[-1]
            ]
            if same:
                group = max(same, key=lambda entry: entry["rows"] or 10**9)
                within = group["f1_low"] <= figure <= group["f1_high"]
                row |= {
                    "ours": group,
                    "status": "reproduced" if within else "deviates",
                    "reason": "" if within else f"{group['f1'] - figure:+.1f} points",
                }
            else:
                row["reason"] = _why_not_run(model, dataset, supervision, results, matrix)
            rows.append(row)
    return rows


def _why_not_run(
    model: str, dataset: str, supervision: str, results: Sequence[Result], matrix: Matrix
) -> str:
    failed = [
        r
        for r in results
        if (r.cell.dataset, r.cell.supervision) == (dataset, supervision)
        and r.cell.model == model
        and r.status != "done"
    ]
    if failed:
        return failed[0].reason
    if model not in matrix.models:
        return f"needs {short(model)}; this matrix ran {', '.join(map(short, matrix.models))}"
    return "not asked for by this matrix"


def claims(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the paper's three claims for each model and dataset of the matrix, at its largest
    number of rows.

    Each holds, does not hold, or is undecided (the interval holds 0).
    """
    rows: list[dict[str, Any]] = []
    largest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for group in sorted(
        (group for group in groups if not group["variant"]),
        key=lambda entry: entry["rows"] or 10**9,
    ):
        largest[group["model"], group["dataset"], group["supervision"]] = group
    for group in (group for group in groups if group in largest.values()):
        if group["supervision"] == "bonito" and group["vs_none"]:
            rows.append(_claim(group, "Bonito beats zero-shot", group["vs_none"], "better"))
        if group["supervision"] == "bonito" and group["vs_tapt"]:
            rows.append(
                _claim(group, "Bonito beats next-word training", group["vs_tapt"], "better")
            )
        if group["supervision"] == "tapt" and group["vs_none"]:
            rows.append(
                _claim(group, "Next-word training does not help", group["vs_none"], "worse")
            )
    return rows


def _claim(
    group: dict[str, Any], claim: str, change: dict[str, Any], expected: str
) -> dict[str, Any]:
    said = (
        "undecided"
        if change["verdict"] == "undecided"
        else "holds"
        if change["verdict"] == expected
        else "does not hold"
    )
    return {
        **{name: group[name] for name in ("model", "dataset", "rows")},
        "claim": claim,
        "change": change,
        "status": said,
    }


def markdown(
    matrix: Matrix,
    groups: Sequence[dict[str, Any]],
    published: Sequence[dict[str, Any]],
    results: Sequence[Result],
) -> str:
    """Return the report's tables as Markdown."""
    lines = [
        f"# Matrix {matrix.name}",
        "",
        budget(matrix),
        "",
        "F1 in points, 95 % intervals over passages and templates in brackets.",
        "",
    ]
    heads = [
        "model",
        "dataset",
        "supervision",
        "rows",
        "F1",
        "against zero-shot",
        "against TAPT",
        "over templates",
        "majority",
        "prior corrected",
    ]
    heads += ["rows trained", "tokens", "wall s"]
    lines += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for group in groups:
        name = label(group["supervision"]) + (f", {group['variant']}" if group["variant"] else "")
        flag = (
            f" ({group['one_class_templates']} of {group['templates']} templates one class)"
            if group["one_class_templates"]
            else ""
        )
        cells = [
            short(group["model"]),
            group["dataset"],
            name,
            group["rows"] or "all",
            spread(group) + flag,
        ]
        cells += [
            change(group["vs_none"]),
            change(group["vs_tapt"]),
            number(group["template_spread"]),
            number(group["majority"]),
        ]
        cells += [spread(group["prior_corrected"]) if group["prior_corrected"] else ""]
        cells += [
            number(group["rows_trained"], 0),
            number(group["tokens"], 0),
            number(group["wall_seconds"], 0),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    if any(group["prior_corrected"] for group in groups):
        lines += ["", PRIOR_CORRECTED]
    lines += [
        "",
        "Beside the published figures:",
        "",
        "| dataset | supervision | published | ours | |",
        "|---|---|---|---|---|",
    ]
    for row in published:
        ours, status = (
            spread(row["ours"]) if row["ours"] else "",
            row["status"] + (f": {row['reason']}" if row["reason"] else ""),
        )
        lines.append(
            f"| {row['dataset']} | {label(row['supervision'])} | {row['published']:.1f} | "
            f"{ours} | {status} |"
        )
    failed = [result for result in results if result.status != "done"]
    lines += (
        ["", *(f"- {result.cell.name}: {result.status}: {result.reason}" for result in failed)]
        if failed
        else []
    )
    return "\n".join(lines) + "\n"


def render(
    matrix: Matrix,
    results: Sequence[Result],
    main: Path,
    facts: dict[str, Any],
    runs: dict[str, dict[str, Any]],
    experiment: str,
    parent: str,
) -> str:
    """Return the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "spread": spread,
        "change": change,
        "number": number,
        "label": label,
        "colour": colour,
        "short": short,
    }
    links = {name: run_page(_MLFLOW, experiment, own["run_id"]) for name, own in runs.items()}
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for group in facts["groups"]:
        panels.setdefault((group["model"], group["dataset"]), []).append(group)
    return environment.get_template("report.html").render(
        matrix=matrix,
        budget=budget(matrix),
        prior_corrected=PRIOR_CORRECTED,
        rows=found.cell_rows(results, main),
        one_model=len(matrix.models) == 1,
        panels=panels,
        curves=curves(facts["groups"]),
        links=links,
        parent=run_page(_MLFLOW, experiment, parent) if parent else "",
        source=read_yaml(main / "matrices" / "published.yaml")["source"],
        **facts,
    )


def curves(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one picture a model and dataset with several numbers of rows: lines of points in a
    field of 300 x 160.
    """
    found_curves = []
    for model, dataset in dict.fromkeys((group["model"], group["dataset"]) for group in groups):
        own = [
            g
            for g in groups
            if (g["model"], g["dataset"]) == (model, dataset) and g["rows"] and not g["variant"]
        ]
        sizes = sorted({group["rows"] for group in own})
        if len(sizes) < 2:
            continue
        place = {
            rows: 30 + 260 * position / (len(sizes) - 1) for position, rows in enumerate(sizes)
        }
        top = max(10.0, *(group["f1_high"] for group in own))
        zero = next(
            (
                g["f1"]
                for g in groups
                if (g["model"], g["dataset"], g["supervision"]) == (model, dataset, "none")
            ),
            None,
        )
        lines = []
        for supervision in dict.fromkeys(group["supervision"] for group in own):
            points = sorted(
                (g for g in own if g["supervision"] == supervision), key=lambda g: g["rows"]
            )
            dots = [
                {
                    "x": place[g["rows"]],
                    **{name: 150 - 140 * g[name] / top for name in ("f1", "f1_low", "f1_high")},
                }
                for g in points
            ]
            lines.append({"supervision": supervision, "dots": dots})
        height = None if zero is None else 150 - 140 * zero / top
        found_curves.append(
            {
                "model": model,
                "dataset": dataset,
                "lines": lines,
                "sizes": place,
                "top": top,
                "zero": height,
            }
        )
    return found_curves


def budget(matrix: Matrix) -> str:
    """Return in a sentence what every source was given."""
    passages = f"{matrix.passages} passages" if matrix.passages else "all passages"
    if matrix.tokens or matrix.tokens_per_row:
        amount = (
            f"{matrix.tokens:,} tokens"
            if matrix.tokens
            else f"{matrix.tokens_per_row} tokens a row"
        )
        return (
            f"Budget-matched: every source had the same {passages} and was trained on "
            f"{amount} (prompts and responses)."
        )
    return (
        f"Not budget-matched: every source had the same {passages}, and was trained for as "
        "many epochs as the settings say."
    )


def label(supervision: str) -> str:
    """Return what a source is called."""
    names = [SOURCES[part][0] for part in supervision.split("+")]
    return " then ".join(names)


def colour(supervision: str) -> str:
    """Return a source's colour."""
    return SOURCES[supervision.rpartition("+")[2]][1]


def short(model: str) -> str:
    """Return a model's name without its owner or place."""
    return re.split(r"[/:]", model)[-1]


def spread(group: dict[str, Any]) -> str:
    """Return ``27.6 [20.2, 35.3]``."""
    return f"{group['f1']:.1f} [{group['f1_low']:.1f},\u00a0{group['f1_high']:.1f}]"


def change(own: dict[str, Any] | None) -> str:
    """Return ``+22.4 [+15.2, +29.9]``, empty where there is nothing to compare with."""
    return f"{own['f1']:+.1f} [{own['f1_low']:+.1f},\u00a0{own['f1_high']:+.1f}]" if own else ""


def number(value: float | None, digits: int = 1) -> str:
    """Return a number with thousands marked, empty where there is none."""
    return "" if value is None else f"{value:,.{digits}f}"
