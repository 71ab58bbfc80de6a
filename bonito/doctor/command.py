"""Template doctor: render every meta-template on sample rows and report what is wrong with each.

``python -m bonito.doctor --templates FOLDER [--sources FILE] --out artifacts/doctor`` prints a
table and writes ``templates.json`` (dataset, config, template, task type, status, reason),
``examples.json`` (the same with rates and one rendering each) and ``index.html``.

The rows come from ``--sources`` if it has the dataset, else from a ``rows.jsonl`` beside the
dataset's ``templates.yaml``, else from the invented rows of ``sample_rows.yaml``.

A status is ``ok``; ``no_passage`` or ``left_out`` (not part of the remix, no fault); or the fault:
``file``, ``syntax``, ``part``, ``untyped``, ``absent``, ``no_dataset``, ``refused``,
``timeout``, ``memory``, ``missing_column``, ``bad_label``, ``error``, ``passage_leak``,
``not_derivable``, or one of the reasons for which rows give no example (``no_response``,
``empty_response``...) where that holds for all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bonito.params import GeneratorParams
from bonito.sources import (
    AnnotatedDataset,
    RowSource,
    dump_row,
    load_datasets,
    load_sources,
    read_sources,
)
from bonito.templating.diagnosis import LEFT_OUT, Finding, diagnose, find_absent
from bonito.templating.render import OK
from bonito.templating.templates import PromptTemplate, load_task_types, load_templates, source_name
from bonito.templating.workers import Renderers, RenderLimits
from tasks.core.errors import PipelineError
from tasks.core.files import staged_folder, write_json
from tasks.core.page import Page, Tile, write_page
from tasks.core.params import load_params
from tasks.core.row_reader import Row
from tasks.core.stage import WORK, one_line_errors
from tasks.core.yaml_file import read_yaml

_SAMPLES = Path(__file__).with_name("sample_rows.yaml")
_TEMPLATE = Path(__file__).parent / "templates" / "index.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Examine a folder of templates; return 0, 1 with ``--strict`` if a template has a fault, 2 for
    an error of the request.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bonito.doctor", allow_abbrev=False, description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--templates",
        type=Path,
        required=True,
        help="folder laid out <dataset>/[<config>/]templates.yaml",
    )
    parser.add_argument("--sources", type=Path, help="sources of real rows, as for the remix")
    parser.add_argument("--out", type=Path, default=Path("artifacts/doctor"))
    parser.add_argument("--params", type=Path, default=Path("bonito/params.yaml"))
    parser.add_argument("--rows", type=int, default=20, help="sample rows a dataset")
    parser.add_argument(
        "--strict", action="store_true", help="end with status 1 if a template has a fault"
    )
    arguments = parser.parse_args(argv)
    with one_line_errors("doctor"):
        params = load_params(arguments.params, GeneratorParams)
        findings = examine(arguments.templates, arguments.sources, params, arguments.rows)
        with staged_folder(arguments.out, WORK / "doctor" / "output") as out:
            write_findings(out, findings)
        print_table(findings)
        print(f"\nwrote {arguments.out}/templates.json, examples.json and index.html")
        return int(arguments.strict and any(_tone(finding) == "bad" for finding in findings))
    return 2


def examine(
    folder: Path, sources: Path | None, params: GeneratorParams, rows: int
) -> list[Finding]:
    """Diagnose every template below ``folder`` on at most ``rows`` rows a dataset."""
    if rows < 1:
        raise PipelineError(f"--rows must be at least 1, not {rows}")
    settings = params.remix
    datasets = load_datasets([Path(path) for path in settings.datasets])
    types = load_task_types([Path(path) for path in settings.task_types])
    broken: dict[Path, str] = {}
    templates = load_templates(folder, types, broken)
    passages = {key: dataset.passage for key, dataset in datasets.items()}
    keys = {template.key[:2] for template in templates}
    samples = sample_rows(folder, sources, datasets, keys, rows)
    limits = RenderLimits(settings.render_seconds, settings.render_megabytes)
    with Renderers(templates, passages, limits, settings.seed, settings.workers) as renderers:
        findings = diagnose(templates, datasets, samples, renderers)
    return [
        *findings,
        *find_absent(templates, types),
        *(_broken(path.relative_to(folder), reason) for path, reason in broken.items()),
    ]


def _broken(path: Path, reason: str) -> Finding:
    """Return a finding for an unreadable file: the names of its templates are unknown."""
    dataset, config = [*path.parts[:-1][:2], "", ""][:2]
    return Finding(PromptTemplate(dataset, config, f"({path.name})", jinja=""), "file", reason)


def sample_rows(
    folder: Path,
    sources: Path | None,
    datasets: Mapping[tuple[str, str], AnnotatedDataset],
    wanted: Iterable[tuple[str, str]],
    most: int,
) -> dict[tuple[str, str], list[Row]]:
    """Return up to ``most`` rows for each wanted dataset configuration."""
    sourced = load_sources(sources, dict(datasets)) if sources is not None else {}
    invented = {
        (entry["dataset"], entry.get("config", "")): entry["rows"]
        for entry in read_yaml(_SAMPLES)["samples"]
    }
    samples = {}
    for key in wanted:
        beside = folder.joinpath(*filter(None, key), "rows.jsonl")
        if key in sourced and sources is not None:
            rows = read_sources(sourced[key], sources.parent, datasets[key])
        elif beside.exists() and key in datasets:
            source = RowSource(dataset=key[0], config=key[1], path=beside.name)
            rows = read_sources([source], beside.parent, datasets[key])
        else:
            rows = iter(invented.get(key, []))
        samples[key] = [json.loads(dump_row(row)) for row in islice(rows, most)]  # as in the remix
    return samples


def write_findings(out: Path, findings: Sequence[Finding]) -> None:
    """Write the doctor's three files into the folder ``out``."""
    write_json(out / "templates.json", [_entry(finding) for finding in findings])
    write_json(out / "examples.json", [_entry(finding) | _details(finding) for finding in findings])
    write_index(out / "index.html", findings)


def print_table(findings: Sequence[Finding]) -> None:
    """Print one line for each template, faults last, where they are seen; then the counts."""
    width = min(
        max((len(source_name(*finding.template.key[:2])) for finding in findings), default=0), 30
    )
    print(
        f"{'dataset':{width}}  {'template':44}  {'task type':13}  {'status':15}  "
        f"{'rate':>5}  reason"
    )
    for finding in sorted(
        findings, key=lambda finding: (_tone(finding) == "bad", finding.template.key)
    ):
        source, rate = source_name(*finding.template.key[:2]), _percent(finding.rate)
        print(
            f"{source:{width}}  {finding.template.name[:44]:44}  "
            f"{finding.template.task_type:13}  {finding.status:15}  {rate:>5}  "
            f"{finding.reason[:160]}"
        )
    print(f"\n{len(findings)} templates: {_count_statuses(findings)}")
    sys.stdout.flush()


def write_index(path: Path, findings: Sequence[Finding]) -> None:
    """Write the findings as a page, faults first."""
    counts = Counter(_tone(finding) for finding in findings)
    page = Page(
        "Template doctor",
        "Every meta-template on sample rows: an example, or what is wrong with it.",
        tiles=(
            Tile("Templates", f"{len(findings):,}"),
            Tile("Good", f"{counts['good']:,}", tone="good" if counts["good"] else ""),
            Tile("At fault", f"{counts['bad']:,}", tone="bad" if counts["bad"] else ""),
            Tile("Left out", f"{counts['soft']:,}"),
        ),
        facts=[("statuses", _count_statuses(findings))],
    )
    write_page(path, _TEMPLATE, page, rows=map(_row, sorted(findings, key=_at_fault_first)))


def _row(finding: Finding) -> dict[str, Any]:
    template, example = finding.template, finding.example
    return {
        "dataset": source_name(*template.key[:2]),
        "template": template.name,
        "task_type": template.task_type,
        "status": finding.status,
        "tone": _tone(finding),
        "rate": finding.rate,
        "derivable": finding.derivable,
        "reason": finding.reason,
        "example": f"{example.instruction}\n|||\n{example.response}" if example else "",
    }


def _tone(finding: Finding) -> str:
    return {OK: "good", **dict.fromkeys(LEFT_OUT, "soft")}.get(finding.status, "bad")


def _at_fault_first(finding: Finding) -> tuple[bool, tuple[str, str, str]]:
    return _tone(finding) != "bad", finding.template.key


def _count_statuses(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.status for finding in findings)
    return ", ".join(f"{number} {status}" for status, number in counts.most_common())


def _entry(finding: Finding) -> dict[str, Any]:
    dataset, config, name = finding.template.key
    return {
        "dataset": dataset,
        "config": config,
        "template": name,
        "task_type": finding.template.task_type,
        "status": finding.status,
        "reason": finding.reason,
    }


def _details(finding: Finding) -> dict[str, Any]:
    example = finding.example
    fields = ("context", "instruction", "response")
    return {
        "rows": finding.rows,
        "good_rows": finding.good,
        "rate": finding.rate,
        "derivable": finding.derivable,
        "example": {name: getattr(example, name) for name in fields} if example else None,
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
