"""What a model prefers to answer, whatever it is asked: the prior of each choice.

It is estimated on claims and questions that rules make of the corpus (tasks/claims), as many of
each answer: no item of the evaluation is seen, and no claim that the adapter was trained on. So the
adapted model's can be kept beside the adapter and divided out of each answer as it comes, unlike
``prior_corrected``, which needs all items at once (batch calibration, arXiv 2309.17249).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.claims.claims import ENTAILED
from tasks.claims.construct import Claim, construct
from tasks.claims.passages import passages_of
from tasks.claims.questions import small_words, yes_no_question
from tasks.core.errors import PipelineError
from tasks.core.files import choose, fingerprint, row_seed
from tasks.core.parquet import Batches, read_table
from tasks.core.rows import INSTRUCTIONS, PASSAGES, require
from tasks.core.sections.evaluate import Evaluate
from tasks.scoring.datasets import Dataset, Item, Template, asked_columns
from tasks.scoring.f1 import choice_prior
from tasks.scoring.pieces import Meter
from tasks.scoring.predict import answer
from tasks.scoring.questions import Questions
from tasks.scoring.scoreable import Scoreable

log = logging.getLogger(__name__)
#: Task types whose items are a passage and one claim or yes-no question about it.
_CLAIMED = frozenset({"nli", "te", "ynqa"})
#: Fewest claims that a prior is estimated from, and most pairs of them from one passage.
_LEAST, _PER_PASSAGE = 20, 2
#: Template -> choice -> its mean probability (0-1).
Priors = dict[str, dict[str, float]]


def calibrate(
    models: Sequence[Scoreable],
    questions: Questions,
    passages: Path,
    trained: Path | None,
    params: Evaluate,
    journal: Path,
    meter: Meter,
) -> dict[str, Priors]:
    """Return each model's prior of each template's choices; empty where the dataset has no choices,
    or the corpus nothing to ask about.

    ``passages`` is a file of rows.PASSAGES, ``trained`` one of the training rows
    (rows.INSTRUCTIONS).
    """
    if not questions.dataset.classifies or not params.calibration_rows:
        return {}
    rows = Batches(trained, INSTRUCTIONS) if trained else ()
    corpus = require(read_table(passages), PASSAGES, passages)
    probes = make_probes(questions.dataset, corpus, params.calibration_rows, params.seed, rows)
    if len(probes) < _LEAST:
        log.warning(
            "no calibration: the corpus gives %d claims that were not trained on, %d are needed",
            len(probes),
            _LEAST,
        )
        return {}
    asked = Questions(questions.dataset, questions.templates, probes)
    return {
        model.name: priors(questions.templates, answer(model, asked, params, journal, meter))
        for model in models
    }


def make_probes(
    dataset: Dataset,
    passages: pa.Table,
    most: int,
    seed: int,
    trained: Iterable[pa.Table] = (),
) -> list[Item]:
    """Return at most ``most`` unlabelled items of the corpus in the dataset's own form, a seeded
    choice with as many of each answer; none where its templates show more than one claim or
    question beside the passage.

    A claim that ``trained`` (tables of rows.INSTRUCTIONS) states or asks on its passage is left
    out.
    """
    columns = asked_columns(dataset)
    if dataset.task_type not in _CLAIMED or len(columns) != 1:
        return []
    ids = passages["passage_id"].to_pylist()
    drawn = passages.take(choose(ids, 4 * most, seed, "probe passage"))
    try:
        # A seed of its own: supervise makes training rows of the same passages.
        own = row_seed(seed, "probe")
        claims = construct(
            passages_of(drawn), own, _PER_PASSAGE, shares={dataset.task_type: 1.0}
        ).claims
    except PipelineError as error:
        log.warning("no calibration: %s", error)
        return []
    told = _read_told(trained, drawn["passage_id"])
    small = small_words(drawn["text"].to_pylist())
    items: dict[str, dict[str, Item]] = defaultdict(dict)  # answer -> id -> item
    for claim in claims:
        question = yes_no_question(claim.text, small)
        text = question if dataset.task_type == "ynqa" else claim.text
        if text and not _is_known(claim, question, told):
            name = fingerprint("probe", claim.passage.passage_id, text)[:16]
            right = claim.label if dataset.task_type == "nli" else str(claim.label == ENTAILED)
            items[right][name] = Item(
                id=name,
                context=claim.passage.text,
                golds=("",),
                gold=0,
                columns={columns[0]: text},
            )
    answers = 3 if dataset.task_type == "nli" else 2
    each = min([most // answers, *map(len, items.values())]) if len(items) == answers else 0
    return [
        found[name]
        for _, found in sorted(items.items())
        for name in sorted(found, key=lambda name: row_seed(seed, "probe", name))[:each]
    ]


def _read_told(trained: Iterable[pa.Table], passages: pa.ChunkedArray) -> dict[str, str]:
    """Return passage id -> the instructions on it without the passage, in small letters."""
    found: dict[str, str] = defaultdict(str)
    for table in trained:
        mine = table.filter(pc.is_in(table["passage_id"], passages.combine_chunks()))
        for row in mine.select(["passage_id", "context", "instruction"]).to_pylist():
            told = row["instruction"].replace(row["context"], "\n").lower()
            found[row["passage_id"]] += f"\n{told}"
    return found


def _is_known(claim: Claim, question: str | None, told: Mapping[str, str]) -> bool:
    """Tell whether an instruction on the passage states the claim, or asks it."""
    instructions = told.get(claim.passage.passage_id, "")
    forms = filter(None, (claim.text.rstrip("."), question))
    return any(form.lower() in instructions for form in forms)


def priors(templates: Sequence[Template], answers: pa.Table) -> Priors:
    """Return the mean probability of each template's choices over ``answers`` (EVALUATIONS)."""
    found: Priors = {}
    for template in templates:
        own = answers.filter(pc.equal(answers["template"], template.name))
        means = np.exp(choice_prior(np.array(own["scores"].to_pylist())))
        rounded = (round(float(mean), 6) for mean in means)
        found[template.name] = dict(zip(template.choices, rounded, strict=True))
    return found


def as_arrays(templates: Sequence[Template], found: Priors) -> dict[str, Any]:
    """Return template -> log prior of its choices, in their order."""
    return {
        template.name: np.log([max(found[template.name][each], 1e-6) for each in template.choices])
        for template in templates
    }
