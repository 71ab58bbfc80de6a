"""Which version of a model is the champion: paired tests over the evaluation items.

A new version becomes ``champion`` only if its F1 is better than the present champion's, or than the
unadapted model's where there is none, and if :func:`tasks.register.gate.find_faults` finds nothing:
it must beat the majority class and the prior-corrected unadapted model, and must not be below its
start.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.files import read_json
from tasks.core.parquet import read_table
from tasks.core.row_reader import read_rows
from tasks.core.stage import Stage
from tasks.register.gate import Comparison, Exam, find_faults, find_leaked_items
from tasks.scoring.datasets import has_items, load_dataset, load_items
from tasks.tracking.registry import Ledger

log = logging.getLogger(__name__)
CHALLENGER = "challenger"
#: How often a version is judged again because another became the champion meanwhile.
_JUDGEMENTS = 5
#: The answers that a run keeps, for comparisons with later ones.
_ANSWERS = "evaluation/predictions.parquet"
#: Tag of a run: a digest of what its models were asked.
QUESTIONS = "data.questions_sha256"


def load_questions(stage: Stage) -> Exam | None:
    """Return what the run's models were asked; None where there are no labelled items.

    A run of the stage loads it once: its resamples and its digest take time.
    """
    params = stage.params.evaluate
    if not has_items(Path(params.items)):
        return None
    dataset = load_dataset(Path(params.dataset))
    items = load_items(dataset, Path(params.items), params.max_items, params.seed)
    return Exam.make(dataset, items, params)


def choose_alias(
    stage: Stage, ledger: Ledger, name: str, version: Any, asked: Exam
) -> tuple[str, str]:
    """Judge the version and point its alias at it; return the alias and the verdict as a sentence.

    The verdict is stored before the alias moves. A registration that is killed after the move finds
    its own version as the champion, and no alias leads to the version that it was compared with.
    """
    champion, verdict = ledger.champion(name), ledger.tag("verdict")
    if verdict and champion is not None and str(champion.version) == str(version.version):
        return "champion", verdict
    for _ in range(_JUDGEMENTS):
        comparison = judge(stage, ledger, name, version, asked)
        # Another run may have become the champion in these seconds.
        present = ledger.champion(name)
        if getattr(present, "version", None) == getattr(champion, "version", None):
            break
        champion = present
    ledger.tags({"alias": comparison.alias, "verdict": comparison.describe()})
    ledger.alias(name, comparison.alias, version.version)
    return comparison.alias, comparison.describe()


def leave_unjudged(ledger: Ledger, name: str, version: Any) -> tuple[str, str]:
    """Make a version that nothing has measured the challenger; return alias and verdict."""
    verdict = "not measured: there are no labelled items (evaluate.items)"
    ledger.tags({"alias": CHALLENGER, "verdict": verdict})
    ledger.alias(name, CHALLENGER, version.version)
    return CHALLENGER, verdict


def judge(stage: Stage, ledger: Ledger, name: str, version: Any, asked: Exam) -> Comparison:
    """Compare with the champion on the same items and templates.

    Without a comparable champion, compare with the unadapted model.
    """
    predictions = read_table(stage.path("evaluate") / "predictions.parquet")
    scores = read_json(stage.path("evaluate") / "scores.json")
    adapted, zero_shot = (_of_model(predictions, model) for model in ("adapted", "zero_shot"))
    # ingest compares the whole file, however few of its items are asked.
    known = sum(1 for _ in read_rows(Path(stage.params.evaluate.items)))
    leaked = find_leaked_items(read_json(stage.path("ingest")), known)
    faults = (*find_faults(asked, adapted, zero_shot, scores), *leaked)
    champion = ledger.champion(name)
    if champion is None or str(champion.version) == str(version.version):
        comparison = _compare(asked, adapted, zero_shot, "the unadapted model")
    else:
        comparison = _judge_champion(stage, ledger, champion, asked, adapted, zero_shot)
    return replace(comparison, faults=faults)


def _judge_champion(
    stage: Stage,
    ledger: Ledger,
    champion: Any,
    asked: Exam,
    adapted: pa.Table,
    zero_shot: pa.Table,
) -> Comparison:
    """Compare with a champion; with the unadapted model where its answers do not compare."""
    holder = f"champion version {champion.version}"
    lost = ledger.find_lost(champion.run_id, _ANSWERS)
    if lost:
        return _judge_without_answers(
            _compare(asked, adapted, zero_shot, ""), holder, lost, ledger.has_model(champion)
        )
    answers = same_questions_answers(stage, ledger, champion.run_id, asked)
    if answers is not None:
        return _compare(asked, adapted, answers, holder)
    log.warning(
        "%s was scored on other items or templates, and stays: the new version is compared with "
        "the unadapted model",
        holder,
    )
    opponent = "the unadapted model (the champion's evaluation differs)"
    return replace(_compare(asked, adapted, zero_shot, opponent), champion_stays=True)


def _judge_without_answers(
    comparison: Comparison, holder: str, lost: str, has_model: bool
) -> Comparison:
    """Return the verdict where the champion's answers are lost: the new version was compared with
    the unadapted model in its place.

    While that champion can be served, nothing shows that the new version is better, so it stays.
    Where its model is lost too it can be neither served nor compared again, and would stay for
    ever: it counts as none.
    """
    if has_model:
        log.warning(
            "%s has lost its answers (%s) and stays: put the file back, or take the alias champion "
            "off that version in MLflow: the next one is then compared with the unadapted model",
            holder,
            lost,
        )
        opponent = f"the unadapted model ({holder} has lost its answers: {lost})"
        return replace(comparison, opponent=opponent, champion_stays=True)
    log.warning(
        "%s is lost (%s, and its model): the new version takes its place if it is better than the "
        "unadapted model",
        holder,
        lost,
    )
    return replace(comparison, opponent=f"the unadapted model ({holder} is lost: {lost})")


def compare_with_start(scores: dict[str, Any]) -> Comparison | None:
    """Return what evaluate measured over the start alone; None without a start."""
    if "start" not in scores:
        return None
    gain = scores["gain_over_start"]
    opponent = f"its start alone ({scores['start']['f1']:.1f})"
    return Comparison(opponent, gain["f1"], gain["f1_low"], gain["f1_high"])


def compare_with_tapt(
    stage: Stage, ledger: Ledger, asked: Exam | None, revision: str
) -> Comparison | None:
    """Compare with the experiment's newest TAPT run of the same target model, at that revision, on
    the same questions; return None if there is none.

    That run may have trained on another number of tokens: only a matrix compares equal training
    (``docs/matrix.md``).
    """
    params = stage.params
    if params.supervise.source in ("tapt", "none") or asked is None:
        return None
    same = {
        "supervise.source": "tapt",
        "finetune.model": params.finetune.model,
        "finetune.revision": revision,
    }
    run_id = ledger.newest(same, {QUESTIONS: asked.digest})
    if not run_id:
        return None
    answers = same_questions_answers(stage, ledger, run_id, asked)
    if answers is None:
        return None
    adapted = _of_model(read_table(stage.path("evaluate") / "predictions.parquet"), "adapted")
    return _compare(asked, adapted, answers, f"TAPT, run {run_id[:8]}")


def same_questions_answers(
    stage: Stage, ledger: Ledger, run_id: str, asked: Exam
) -> pa.Table | None:
    """Return the answers of another run's adapted model; None if the run has lost them, or if it
    was asked other questions than this one, or does not say which.
    """
    if ledger.tag(QUESTIONS, run_id) != asked.digest:
        return None
    path = ledger.download(run_id, _ANSWERS, stage.work)
    if path is None:
        return None
    return _of_model(read_table(path), "adapted")


def _compare(asked: Exam, new: pa.Table, old: pa.Table, opponent: str) -> Comparison:
    return asked.compare(asked.score(new), asked.score(old), opponent)


def _of_model(predictions: pa.Table, model: str) -> pa.Table:
    return predictions.filter(pc.equal(predictions.column("model"), model))
