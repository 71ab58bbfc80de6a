"""baseline: the unadapted target model on the labelled items (zero-shot) and on general tasks.

Where ``finetune.start`` names an adapter, that start alone answers the same, so that what a run
adds is not confused with what its start knew. Adaptation is measured against both. It is a stage of
its own because every run on the same model, start and items shares it. Without labelled items there
is nothing to share: evaluate then asks these models itself.
"""

from __future__ import annotations

from tasks.core.card import take_cards
from tasks.core.parquet import concat, write_table
from tasks.core.rows import EVALUATIONS
from tasks.core.stage import Stage, run_stage
from tasks.lm.pins import pin
from tasks.lm.preflight import check_run
from tasks.scoring.datasets import has_items
from tasks.scoring.general import answer_general
from tasks.scoring.predict import answer
from tasks.scoring.questions import Questions
from tasks.scoring.scoreable import models_before


def baseline(stage: Stage) -> None:
    """Write ``predictions.parquet`` and ``general.parquet`` (rows.EVALUATIONS, models ``zero_shot``
    and, where there is one, ``start``) and ``summary.json``.
    """
    target = pin(stage.params.finetune)
    params, journal = stage.params.evaluate, stage.work / "journal"
    # A champion to start from was an adapted model, which evaluate has asked.
    others = stage.work.with_name("evaluate") / "journal"
    take_cards()
    models = models_before(target, stage.path("start"))
    items = templates = 0
    answers = []
    if has_items(stage.path("items")):
        questions = Questions.read(params, stage.path("items"))
        items, templates = len(questions.items), len(questions.templates)
        answers = [
            answer(model, questions, params, journal, stage.progress, others) for model in models
        ]
    write_table(stage.out / "predictions.parquet", concat(answers, EVALUATIONS))
    general = [
        answer_general(
            model,
            stage.path("general"),
            stage.params.baseline,
            params,
            journal,
            stage.progress,
            others,
        )
        for model in models
    ]
    write_table(stage.out / "general.parquet", concat(general, EVALUATIONS))
    stage.summary(
        items,
        items,
        templates=templates,
        general=len(general[0]),
        prompt={model.name: model.form for model in models},
        revision=target.revision,
        precision=target.precision,
    )


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage(
        "baseline",
        baseline,
        (),
        argv,
        settings={
            "items": "evaluate.items",
            "general": "baseline.general",
            "start": "finetune.start",
        },
        check=check_run,
    )
