"""Diagnose each template: was it converted, and what did its sample rows give?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bonito.sources import AnnotatedDataset
from bonito.templating.render import OK, Rendering
from bonito.templating.templates import PromptTemplate, TemplateKey, source_name
from bonito.templating.workers import Renderers, RenderJob
from tasks.core.files import fingerprint

#: Statuses that are no fault: the template is not part of the remix.
LEFT_OUT = ("no_passage", "left_out")
#: Statuses of which one row condemns a template.
_FATAL = ("refused", "timeout", "memory")


@dataclass(frozen=True)
class Finding:
    """One template's diagnosis.

    ``rows`` were rendered and ``good`` of them gave an example; ``derivable`` is a share, None if
    unknown.
    """

    template: PromptTemplate
    status: str
    reason: str = ""
    rows: int = 0
    good: int = 0
    derivable: float | None = None
    example: Rendering | None = None

    @property
    def rate(self) -> float | None:
        """Share of the rows that gave an example, 0-1; None without rows."""
        return self.good / self.rows if self.rows else None


def diagnose(
    templates: Sequence[PromptTemplate],
    datasets: Mapping[tuple[str, str], AnnotatedDataset],
    rows: Mapping[tuple[str, str], list[dict[str, Any]]],
    renderers: Renderers,
) -> list[Finding]:
    """Return a finding for each template, in order.

    ``renderers`` holds the same templates; ``rows`` are samples by dataset configuration.
    """
    outcomes: dict[int, list[Rendering]] = {}
    # One row of each first: a template that hangs would cost its time limit on every row.
    first = [
        job
        for index, samples in _rows(templates, datasets, rows)
        for job in (RenderJob(index), *(RenderJob(index, *row) for row in samples[:1]))
    ]
    _render(first, renderers, outcomes)
    condemned = {
        index
        for index, results in outcomes.items()
        if any(outcome.status in _FATAL for outcome in results)
    }
    _render(
        [
            RenderJob(index, *row)
            for index, samples in _rows(templates, datasets, rows)
            if index not in condemned
            for row in samples[1:]
        ],
        renderers,
        outcomes,
    )
    return [
        _finding(template, datasets.get(template.key[:2]), outcomes.get(index, []))
        for index, template in enumerate(templates)
    ]


def find_absent(
    templates: Sequence[PromptTemplate], types: Mapping[TemplateKey, str]
) -> list[Finding]:
    """Return a finding for each typed template that the templates' datasets lack, as in a renamed
    or older file.
    """
    present = {template.key for template in templates}
    known = {key[:2] for key in present}
    missing = [key for key in sorted(types) if key[:2] in known and key not in present]
    return [
        Finding(
            PromptTemplate(*key, jinja="", task_type=types[key]),
            "absent",
            "it has a task type, but is not in the templates folder",
        )
        for key in missing
    ]


def _rows(
    templates: Sequence[PromptTemplate],
    datasets: Mapping[tuple[str, str], AnnotatedDataset],
    rows: Mapping[tuple[str, str], list[dict[str, Any]]],
) -> Iterator[tuple[int, list[tuple[str, dict[str, Any]]]]]:
    """Yield (index of a template whose dataset is known, its sample rows with their ids)."""
    for index, template in enumerate(templates):
        if template.key[:2] in datasets:
            yield index, [(fingerprint(row)[:20], row) for row in rows.get(template.key[:2], [])]


def _render(
    jobs: list[RenderJob], renderers: Renderers, outcomes: dict[int, list[Rendering]]
) -> None:
    received = (
        outcome
        for batch in renderers.map(jobs[start : start + 64] for start in range(0, len(jobs), 64))
        for outcome in batch
    )
    for job, outcome in zip(jobs, received, strict=True):
        outcomes.setdefault(job.template, []).append(outcome)


def _finding(
    template: PromptTemplate, dataset: AnnotatedDataset | None, outcomes: list[Rendering]
) -> Finding:
    if dataset is None:
        return Finding(
            template,
            "no_dataset",
            f"no passage is known for {source_name(*template.key[:2])}: add it to a datasets file",
        )
    if template.name in dataset.leave_out:
        return Finding(template, "left_out", "the datasets file leaves it out")
    converted, *rendered = outcomes
    if converted.status != OK:
        return Finding(template, converted.status, converted.detail)
    if not template.task_type:
        return Finding(
            template,
            "untyped",
            "it has no task type: add it to a task types file, or to leave_out of its dataset",
        )
    counts = Counter(outcome.status for outcome in rendered)
    judged = [
        outcome.derivable
        for outcome in rendered
        if outcome.status == OK and outcome.derivable is not None
    ]
    derivable = sum(judged) / len(judged) if judged else None
    status, reason = _verdict(counts, rendered, derivable)
    place, example = next(
        (
            (place, outcome)
            for place, outcome in enumerate(rendered, start=1)
            if outcome.status == status
        ),
        (0, None),
    )
    if place and status != OK:
        reason += f"; first on sample row {place}"
    return Finding(template, status, reason, len(rendered), counts[OK], derivable, example)


def _verdict(
    counts: Counter[str], rendered: list[Rendering], derivable: float | None
) -> tuple[str, str]:
    """Return status and reason of a template from its rows.

    One hang condemns it. Else it is good if it gives examples, leaks less than half the time and
    can be answered.
    """
    details = {outcome.status: outcome.detail for outcome in reversed(rendered)}
    for status in _FATAL:
        if counts[status]:
            return status, details[status]
    if counts["passage_leak"] and 2 * counts["passage_leak"] >= len(rendered):
        reason = f"{counts['passage_leak']} of {len(rendered)} rows: {details['passage_leak']}"
        return "passage_leak", reason
    if rendered and not counts[OK]:
        status, number = max(counts.items(), key=lambda item: (item[1], item[0]))
        return status, f"{number} of {len(rendered)} rows: {details[status]}"
    if derivable is not None and derivable < 0.5:
        where = "the passage, the instruction or the answer choices"
        return "not_derivable", f"{derivable:.0%} of the responses are in {where}"
    others = ", ".join(
        f"{number} {status}" for status, number in sorted(counts.items()) if status != OK
    )
    if not rendered:
        return OK, "converted; no sample rows to render"
    return OK, f"of {len(rendered)} rows: {others}" if others else ""
