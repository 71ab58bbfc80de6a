"""baseline: the unadapted target model on the labelled items (zero-shot) and on general tasks.

Where ``finetune.start`` names an adapter, that start alone answers the same, so that what a run
adds is not confused with what its start knew. Adaptation is measured against both. It is a stage of
its own because every run on the same model, start and items shares it.
"""

from __future__ import annotations

from pathlib import Path

from tasks.core.card import take_cards
from tasks.core.model_params import Finetune
from tasks.core.parquet import concat, write_table
from tasks.core.rows import EVALUATIONS
from tasks.core.stage import Stage, run_stage
from tasks.lm.models import load_tokenizer
from tasks.lm.pins import pin
from tasks.lm.prompts import prompt_form, trained_form
from tasks.scoring.predict import Questions, Scoreable, answer, answer_general


def baseline(stage: Stage) -> None:
    """Write ``predictions.parquet`` and ``general.parquet`` (rows.EVALUATIONS, models ``zero_shot``
    and, where there is one, ``start``) and ``summary.json``.
    """
    target = pin(stage.params.finetune)
    params, journal = stage.params.evaluate, stage.work / "journal"
    take_cards()
    questions = Questions.read(params, stage.path("items"))
    models = _models(target, stage.path("start"))
    answers = [answer(model, questions, params, journal, stage.progress) for model in models]
    write_table(stage.out / "predictions.parquet", concat(answers, EVALUATIONS))
    general = [
        answer_general(
            model, stage.path("general"), stage.params.baseline, params, journal, stage.progress
        )
        for model in models
    ]
    write_table(stage.out / "general.parquet", concat(general, EVALUATIONS))
    stage.summary(
        len(questions.items),
        len(questions.items),
        templates=len(questions.templates),
        general=len(general[0]),
        prompt={model.name: model.form for model in models},
        revision=target.revision,
        precision=target.precision,
    )


def _models(target: Finetune, start: Path) -> list[Scoreable]:
    """Return the unadapted model, and the start alone where there is one, over the same weights."""
    tokenizer = load_tokenizer(target.model, target.revision)
    asked: list[tuple[str, Path | None, str]] = [
        ("zero_shot", None, prompt_form(tokenizer, target.prompt, adapted=False))
    ]
    if not start.is_file():
        # Its import takes seconds, which a baseline without a start saves.
        from tasks.lm.training import start_adapter

        asked.append(
            ("start", start_adapter(target, start), trained_form(start, tokenizer, target.prompt))
        )
    return [
        Scoreable(
            name,
            target.model,
            target.revision,
            target.quantization,
            target.precision,
            adapter,
            form,
        )
        for name, adapter, form in asked
    ]


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
    )
