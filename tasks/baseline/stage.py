"""baseline: the unadapted target model on the labelled items (zero-shot) and on general tasks.

Adaptation is measured against it. It is a stage of its own because every run on the same model and
items shares it.
"""

from __future__ import annotations

from tasks.core.card import take_cards
from tasks.core.parquet import write_table
from tasks.core.stage import Stage, run_stage
from tasks.lm.models import load_tokenizer
from tasks.lm.pins import pin
from tasks.lm.prompts import prompt_form
from tasks.scoring.predict import Questions, Scoreable, answer, answer_general


def baseline(stage: Stage) -> None:
    """Write ``predictions.parquet`` and ``general.parquet`` (rows.EVALUATIONS, model ``zero_shot``)
    and ``summary.json``.
    """
    target = pin(stage.params.finetune)
    params, journal = stage.params.evaluate, stage.work / "journal"
    take_cards()
    questions = Questions.read(params, stage.path("items"))
    form = prompt_form(load_tokenizer(target.model, target.revision), target.prompt, adapted=False)
    model = Scoreable(
        "zero_shot",
        target.model,
        target.revision,
        target.quantization,
        target.precision,
        None,
        form,
    )
    write_table(
        stage.out / "predictions.parquet", answer(model, questions, params, journal, stage.progress)
    )
    general = answer_general(
        model, stage.path("general"), stage.params.baseline, params, journal, stage.progress
    )
    write_table(stage.out / "general.parquet", general)
    stage.summary(
        len(questions.items),
        len(questions.items),
        templates=len(questions.templates),
        general=len(general),
        prompt=form,
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
        settings={"items": "evaluate.items", "general": "baseline.general"},
    )
