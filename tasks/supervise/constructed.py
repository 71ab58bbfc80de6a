"""Source ``constructed``: claims with labels by construction, from the corpus itself."""

from __future__ import annotations

import logging
from collections import Counter

import pyarrow as pa

from tasks.claims.construct import FEW_ROWS, SHARES, construct
from tasks.claims.passages import passages_of
from tasks.core.errors import PipelineError

log = logging.getLogger(__name__)


def construct_rows(
    passages: pa.Table, task_types: tuple[str, ...], seed: int
) -> tuple[pa.Table, Counter[str]]:
    """Return training rows (rows.INSTRUCTIONS) and the rows left out by reason.

    ``passages`` is a table of rows.PASSAGES. No generator and no person wrote the labels: rules
    edit sentences of the passages, so that each label is known (:mod:`tasks.claims`).

    Raises :class:`PipelineError` where claims are made for none of the task types, where no
    sentence can become a claim, and where the labels can be told without the passage.
    """
    shares = {kind: SHARES[kind] for kind in task_types if kind in SHARES}
    if not shares:
        raise PipelineError(
            f"supervise.source constructed makes rows of {', '.join(SHARES)}; "
            f"generate.task_types names {', '.join(task_types)}"
        )
    constructed = construct(passages_of(passages), seed, shares=shares)
    if len(constructed.table) < FEW_ROWS:
        log.warning(
            "constructed: only %d rows from %d passages: few of their sentences are plain enough "
            "for the rules, and so few rows teach a model to repeat itself (docs/claims.md)",
            len(constructed.table),
            len(passages),
        )
    for kind, figures in constructed.probes.items():
        log.info("labels without the passage, %s: %s", kind, figures)
    return constructed.table, constructed.dropped
