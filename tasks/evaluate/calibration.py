"""What the adapted model prefers to answer, whatever it is asked: the prior of each choice.

It is estimated on claims and questions that rules make of the corpus (tasks/claims): no item of the
evaluation is seen, and no label. So it can be kept beside the adapter and divided out of each
answer as it comes, unlike ``prior_corrected``, which needs all items at once (batch calibration,
arXiv 2309.17249).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.claims.construct import Claim, construct
from tasks.claims.passages import passages_of
from tasks.claims.patterns import load_patterns
from tasks.claims.questions import yes_no_question
from tasks.core.errors import PipelineError
from tasks.core.files import choose, fingerprint
from tasks.core.model_params import Evaluate
from tasks.core.parquet import read_table
from tasks.core.rows import PASSAGES, require
from tasks.scoring.datasets import Dataset, Item, Template, asked_columns
from tasks.scoring.f1 import choice_prior
from tasks.scoring.pieces import Meter
from tasks.scoring.predict import Questions, Scoreable, answer

log = logging.getLogger(__name__)
#: Task types whose items are a passage and one claim or yes-no question about it.
_CLAIMED = frozenset({"nli", "te", "ynqa"})
_LEAST = 20
#: Template -> choice -> its mean probability (0-1).
Priors = dict[str, dict[str, float]]


def calibrate(
    model: Scoreable,
    questions: Questions,
    passages: Path,
    params: Evaluate,
    journal: Path,
    meter: Meter,
) -> Priors:
    """Return the model's prior of each template's choices; empty where the dataset has no choices,
    or the corpus nothing to ask about.
    """
    if not questions.dataset.classifies or not params.calibration_rows:
        return {}
    probes = make_probes(questions.dataset, _read(passages), params.calibration_rows, params.seed)
    if len(probes) < _LEAST:
        log.warning(
            "no calibration: the corpus gives %d probes, %d are needed", len(probes), _LEAST
        )
        return {}
    asked = Questions(questions.dataset, questions.templates, probes)
    return priors(questions.templates, answer(model, asked, params, journal, meter))


def make_probes(dataset: Dataset, passages: pa.Table, most: int, seed: int) -> list[Item]:
    """Return at most ``most`` unlabelled items of the corpus in the dataset's own form, a seeded
    choice; none where its templates show more than one claim or question beside the passage.
    """
    columns = asked_columns(dataset)
    if dataset.task_type not in _CLAIMED or len(columns) != 1:
        return []
    ids = passages["passage_id"].to_pylist()
    premises = passages_of(passages.take(choose(ids, 4 * most, seed, "probe passage")))
    try:
        claims = construct(premises, seed, 1, shares={dataset.task_type: 1.0}).claims
    except PipelineError as error:
        log.warning("no calibration: %s", error)
        return []
    items = {}
    for claim in claims:
        text = _asked(claim, dataset.task_type)
        if text:
            name = fingerprint("probe", claim.passage.passage_id, text)[:16]
            items[name] = Item(
                id=name,
                context=claim.passage.text,
                golds=("",),
                gold=0,
                columns={columns[0]: text},
            )
    names = sorted(items)
    return [items[names[place]] for place in choose(names, most, seed, "probe")]


def priors(templates: Sequence[Template], answers: pa.Table) -> Priors:
    """Return the mean probability of each template's choices over ``answers`` (EVALUATIONS)."""
    scores: dict[str, list[list[float]]] = {template.name: [] for template in templates}
    for row in answers.select(["template", "scores"]).to_pylist():
        scores[row["template"]].append(row["scores"])
    return {
        template.name: dict(
            zip(
                template.choices,
                (round(float(each), 6) for each in np.exp(choice_prior(np.array(found)))),
                strict=True,
            )
        )
        for template in templates
        for found in [scores[template.name]]
    }


def _asked(claim: Claim, task_type: str) -> str | None:
    if task_type != "ynqa":
        return claim.text
    return yes_no_question(claim.text, claim.passage.text, load_patterns())


def _read(path: Path) -> pa.Table:
    return require(read_table(path), PASSAGES, path)


def as_arrays(templates: Sequence[Template], found: Priors) -> dict[str, Any]:
    """Return template -> log prior of its choices, in their order."""
    return {
        template.name: np.log([max(found[template.name][each], 1e-6) for each in template.choices])
        for template in templates
    }
