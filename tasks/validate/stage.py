"""validate: Great Expectations over the predictions; good rows become instructions, all others go
to quarantine with their reasons.

Two passes over the predictions in bounded batches: the first measures and judges every row, the
second writes it to its file.
"""

from __future__ import annotations

import logging
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.page import BASE, Page, stage_links, write_page
from tasks.core.parquet import write_batches
from tasks.core.rows import INSTRUCTIONS, QUARANTINE
from tasks.core.sections.validate import Validate
from tasks.core.stage import Stage, run_stage
from tasks.core.task_types import CLASSIFICATION
from tasks.validate.expectations import LABEL_BALANCE, select_checks
from tasks.validate.judging import judge
from tasks.validate.predictions import write_rows
from tasks.validate.report import write_report
from tasks.validate.suites import Suites
from tasks.validate.verdicts import MAX_ROWS, Verdicts

log = logging.getLogger(__name__)
_DOCS = ("Great Expectations", "data_docs/index.html")
_OUTPUTS = ("instructions.parquet", "quarantine.parquet", "report.html")


def validate(stage: Stage) -> None:
    """Judge every prediction; write instructions, quarantine, report and Data Docs.

    A yield under ``validate.min_yield`` is a :class:`PipelineError`. There is no output then, but
    the instructions, the quarantine and the report are left in ``stage.work`` to look at.
    """
    params, predictions = stage.params.validate, stage.path("predictions")
    for name in _OUTPUTS:
        (stage.work / name).unlink(missing_ok=True)
    if not stage.params.supervise.mix.generator:
        return write_nothing(stage)
    suites = Suites(select_checks(params), stage.out / "data_docs")
    verdicts = judge(predictions, suites, params, stage)
    verdicts.select_rows(params.skip, params.max_label_share, params.max_rows)
    balanced = record_balance(verdicts, suites, params)
    share = usable_share(verdicts)
    good = share >= params.min_yield
    folder = stage.out if good else stage.work
    samples = write_rows(predictions, verdicts, folder)
    links = [*stage_links("validate"), _DOCS] if good else []
    write_report(
        folder / "report.html", verdicts, suites, samples, balanced, share, params.min_yield, links
    )
    if not good:
        raise PipelineError(_describe_low_yield(verdicts, share, params.min_yield, stage.work))
    suites.write_docs()
    summarise(stage, verdicts, suites, share)


def write_nothing(stage: Stage) -> None:
    """Write empty files: the supervision source has no generator, so there are no predictions."""
    source = stage.params.supervise.source
    write_batches(stage.out / "instructions.parquet", [], INSTRUCTIONS)
    write_batches(stage.out / "quarantine.parquet", [], QUARANTINE)
    lead = f"supervise.source is {source}: no generator wrote rows."
    page = Page("Validation", lead, links=stage_links("validate"))
    write_page(stage.out / "report.html", BASE, page)
    write_json(stage.out / "metrics.json", {"yield": None})
    stage.summary(0, 0, by_task_type={}, labels={}, failures={})


def record_balance(verdicts: Verdicts, suites: Suites, params: Validate) -> dict[str, bool]:
    """Let Great Expectations record the label balance of the classification types.

    Return task type -> whether its labels are balanced.
    """
    counts = {name: labels for name, labels in _count_labels(verdicts).items() if labels}
    if LABEL_BALANCE in params.skip or not counts:
        return {}
    balanced = suites.record_balance(counts, params.max_label_share)
    for name in (name for name, good in balanced.items() if not good):
        log.warning(
            "%s: the labels that were generated cannot be balanced to a share of %.0f %%: %s",
            name,
            100 * params.max_label_share,
            counts[name],
        )
    return balanced


def _count_labels(verdicts: Verdicts) -> dict[str, dict[str, int]]:
    """Return label -> kept rows of every classification type."""
    names = [name for name in verdicts.types.names if name in CLASSIFICATION]
    return {name: verdicts.count_labels(name) for name in names}


def usable_share(verdicts: Verdicts) -> float:
    """Return the yield in 0-1; rows that only ``max_rows`` leaves out count as good."""
    return (int(verdicts.kept().sum()) + verdicts.count_reasons()[MAX_ROWS]) / len(verdicts)


def _describe_low_yield(verdicts: Verdicts, share: float, floor: float, folder: Path) -> str:
    name, rows = min(verdicts.count_reasons().items(), key=lambda item: (-item[1], item[0]))
    return (
        f"yield {share:.1%} of {len(verdicts)} predictions is under validate.min_yield "
        f"{floor:.1%}; most frequent reason: {name} ({rows} rows); look at "
        f"{folder / 'quarantine.parquet'} and {folder / 'report.html'}, then mend the generator's "
        "settings, or lower the floor"
    )


def summarise(stage: Stage, verdicts: Verdicts, suites: Suites, share: float) -> None:
    """Write summary.json and metrics.json, and log the counts."""
    kept, reasons = verdicts.kept(), verdicts.count_reasons()
    write_json(stage.out / "metrics.json", {"yield": round(share, 4)})
    stage.summary(
        len(verdicts),
        int(kept.sum()),
        dict(verdicts.count_reasons(first_only=True)),
        **{"yield": round(share, 4)},
        by_task_type={name: _count_rows(verdicts, name) for name in verdicts.types.names},
        labels=_count_labels(verdicts),
        failures={
            name: reasons.get(name, 0)
            for name in (*(check.name for check in suites.checks), LABEL_BALANCE)
        },
    )
    log.info(
        "kept %d of %d rows; not kept: %s",
        kept.sum(),
        len(verdicts),
        ", ".join(f"{name} {rows}" for name, rows in reasons.most_common()) or "none",
    )


def _count_rows(verdicts: Verdicts, task_type: str) -> dict[str, float]:
    is_type = verdicts.of_type(task_type)
    rows, kept = int(is_type.sum()), int((is_type & verdicts.kept()).sum())
    return {
        "predictions": rows,
        "parsed": int((is_type & (verdicts.unparsed < 0)).sum()),
        "kept": kept,
        "yield": round(kept / rows, 4),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the stage from its command line and return its exit status."""
    return run_stage("validate", validate, ["predictions"], argv)
