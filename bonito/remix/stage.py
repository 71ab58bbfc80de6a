"""Remix annotated rows and meta-templates into the generator's training rows: passage ->
instruction and response.

Rows are streamed: each dataset's draw, one template for each row chosen by the row's content, then
``train.parquet`` and ``heldout.parquet``. The result depends only on rows, templates and
parameters, not on the number of workers.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import cast

from bonito.params import GeneratorParams, Remix
from bonito.remix.card import write_card
from bonito.remix.draw import Draw
from bonito.remix.output import Output
from bonito.sources import AnnotatedDataset, load_datasets, load_sources, read_sources
from bonito.templating.diagnosis import LEFT_OUT, Finding, diagnose, find_absent
from bonito.templating.render import FAULTS, OK, Rendering
from bonito.templating.templates import PromptTemplate, load_task_types, load_templates, source_name
from bonito.templating.workers import Renderers, RenderJob, RenderLimits
from tasks.core.errors import PipelineError
from tasks.core.files import row_seed, sha256_folder
from tasks.core.stage import Stage, format_reasons, run_stage

#: Rows that are sent to a worker together. The result does not depend on it.
_BATCH = 64


@dataclass
class RemixCounts:
    """Rows read, rows dropped by reason, unused templates, and templates that failed on rows."""

    rows_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: list[Finding] = field(default_factory=list)
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)


def remix_datasets(stage: Stage) -> None:
    """Write ``train.parquet``, ``heldout.parquet``, ``rejects.parquet``, ``summary.json`` and
    ``CARD.md``.
    """
    params = cast(GeneratorParams, stage.params).remix
    datasets = load_datasets([Path(path) for path in params.datasets])
    sources = load_sources(stage.path("sources"), datasets)
    types = load_task_types([Path(path) for path in params.task_types])
    templates = [
        template
        for template in load_templates(stage.path("templates"), types)
        if template.key[:2] in sources
    ]
    passages = {key: dataset.passage for key, dataset in datasets.items()}
    limits = RenderLimits(params.render_seconds, params.render_megabytes)
    tally = RemixCounts(left_out=find_absent(templates, types))
    progress = stage.progress(0, "rows")
    with (
        Renderers(templates, passages, limits, params.seed, params.workers) as renderers,
        Output(stage.work / "rendered", params) as output,
    ):
        remixer = Remixer(params, templates, renderers, output, tally)
        for key, parts in sources.items():
            draw = Draw(
                read_sources(parts, stage.path("sources").parent, datasets[key]),
                key,
                params.max_rows_per_dataset,
                params.seed,
                stage.work / "draw.jsonl",
            )
            if not draw.seen:
                raise PipelineError(f"{stage.path('sources')}: {source_name(*key)} has no rows")
            progress.total += len(draw)
            for done in remixer.remix(datasets[key], draw):
                progress.advance(done, dataset=source_name(*key))
        kept = output.finish(stage.out, tally.dropped)
    (stage.work / "draw.jsonl").unlink(missing_ok=True)
    if not kept["train_rows"] + kept["held_out_rows"]:
        raise PipelineError(
            f"none of {tally.rows_in} rows gave an example ({format_reasons(tally.dropped)}): see "
            "the template doctor"
        )
    facts = {
        **kept,
        "templates": [
            {"template": str(finding.template), "status": finding.status, "reason": finding.reason}
            for finding in tally.left_out
        ],
        "faults_by_template": {
            f"{template}: {status}": count
            for (template, status), count in sorted(tally.faults.items())
        },
        "templates_sha256": sha256_folder(stage.path("templates")),
        "params": params.model_dump(mode="json", exclude={"workers"}),
    }
    stage.summary(
        tally.rows_in, kept["train_rows"] + kept["held_out_rows"], dict(tally.dropped), **facts
    )
    write_card(stage.out / "CARD.md", facts, tally.rows_in, tally.dropped, datasets)


@dataclass
class Remixer:
    """Renders one dataset after the other through its templates."""

    params: Remix
    templates: list[PromptTemplate]
    renderers: Renderers
    output: Output
    tally: RemixCounts

    def remix(self, dataset: AnnotatedDataset, draw: Draw) -> Iterator[int]:
        """Render a dataset's drawn rows into the output; yield the number of rows of each batch."""
        self.tally.rows_in += draw.seen
        self.tally.dropped.update(draw.dropped)
        usable = self.usable(dataset, draw)
        if not usable:
            self.tally.dropped["no_usable_template"] += len(draw)
            return
        sent: list[list[RenderJob]] = []
        for outcomes in self.renderers.map(self.batches(draw, usable, sent)):
            jobs = sent.pop(0)
            for job, outcome in zip(jobs, outcomes, strict=True):
                self.keep(job, outcome)
            yield len(jobs)

    def usable(self, dataset: AnnotatedDataset, draw: Draw) -> list[int]:
        """Try the dataset's templates on a sample of its rows; return the indices of the usable
        ones.

        Raises :class:`PipelineError` at a faulty template, unless those are to be skipped.
        """
        mine = [
            index
            for index, template in enumerate(self.templates)
            if template.key[:2] == dataset.key
        ]
        if not mine:
            raise PipelineError(
                f"the templates folder has no templates of {source_name(*dataset.key)}: add them "
                "(promptsource's: docs/generator.md), or remove it from the sources"
            )
        trial = draw.sample(self.params.trial_rows)
        findings = diagnose(
            self.templates, {dataset.key: dataset}, {dataset.key: trial}, self.renderers
        )
        self.tally.left_out += [findings[index] for index in mine if findings[index].status != OK]
        stops = self.params.unusable_templates == "stop"
        bad = [
            findings[index] for index in mine if findings[index].status not in (*_USED, *LEFT_OUT)
        ]
        if bad and stops:
            more = f" (and {len(bad) - 1} more of this dataset)" if len(bad) > 1 else ""
            raise PipelineError(
                f"template '{bad[0].template}' cannot be used: {bad[0].status}: "
                f"{bad[0].reason}{more}. {_GO_ON}"
            )
        usable = [
            index
            for index in mine
            if findings[index].status in _USED
            and self.params.weights.get(self.templates[index].task_type, 1.0) > 0
        ]
        if not usable and stops:
            raise PipelineError(
                f"{source_name(*dataset.key)} has no usable template: see the template doctor, or "
                f"remove it from the sources. {_GO_ON}"
            )
        return usable

    def batches(
        self, draw: Draw, usable: list[int], sent: list[list[RenderJob]]
    ) -> Iterator[list[RenderJob]]:
        """Yield batches of rows, each with the template it draws; append each batch to ``sent``."""
        types = (self.templates[index].task_type for index in usable)
        shares = list(accumulate(self.params.weights.get(name, 1.0) for name in types))
        rows = iter(draw)
        while batch := [
            RenderJob(usable[self.lot(row_id, shares)], row_id, row)
            for row_id, row in islice(rows, _BATCH)
        ]:
            sent.append(batch)
            yield batch

    def lot(self, row_id: str, shares: list[float]) -> int:
        """Return the place of the template that a row draws, by its content and the seed, in
        proportion to the weights.
        """
        number = row_seed(self.params.seed, row_id, "template") / 2**31 * shares[-1]
        return min(bisect.bisect_right(shares, number), len(shares) - 1)

    def keep(self, job: RenderJob, outcome: Rendering) -> None:
        """Write a row, or reject it with its reason; a template's fault stops the run unless faulty
        templates are skipped.
        """
        template = self.templates[job.template]
        status, detail = (
            self.too_long(outcome) if outcome.status == OK else (outcome.status, outcome.detail)
        )
        if status in FAULTS:
            if self.params.unusable_templates == "stop":
                raise PipelineError(
                    f"template '{template}' fails on row {job.row_id}: {status}: {detail}. {_GO_ON}"
                )
            self.tally.faults[str(template), status] += 1
        if status == OK:
            self.output.row(job.row_id, template, outcome)
        else:
            self.tally.dropped[status] += 1
            self.output.reject(job.row_id, template, status, detail, outcome)

    def too_long(self, outcome: Rendering) -> tuple[str, str]:
        """Return the status of a good rendering under the length limits."""
        for name, text, most in (
            ("context_too_long", outcome.context, self.params.max_context_chars),
            ("response_too_long", outcome.response, self.params.max_response_chars),
        ):
            if most and len(text) > most:
                return name, f"{len(text)} characters, {most} are allowed"
        return OK, ""


#: Statuses of usable templates. Some datasets have free answers: "not derivable" only goes to the
#: card.
_USED = (OK, "not_derivable")
_GO_ON = "To skip it, set remix.unusable_templates to skip; the card then says so"


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    inputs = ("templates", "sources")
    return run_stage("remix", remix_datasets, inputs, argv, model=GeneratorParams, package="bonito")
