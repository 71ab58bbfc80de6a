"""Source ``constructed``: claims and questions, right by construction, from the corpus itself."""

from __future__ import annotations

import logging
from collections import Counter

import pyarrow as pa

from tasks.claims.construct import SHARES, construct
from tasks.claims.passages import passages_of
from tasks.claims.spans import SPANS, construct_spans
from tasks.core.errors import PipelineError
from tasks.core.rows import INSTRUCTIONS

log = logging.getLogger(__name__)
#: Pairs of claims, and questions with spans, that one passage gives at most.
_PER_PASSAGE, _SPANS_PER_PASSAGE = 2, 5


def construct_rows(
    passages: pa.Table, task_types: tuple[str, ...], seed: int
) -> tuple[pa.Table, Counter[str]]:
    """Return training rows (rows.INSTRUCTIONS) and the rows left out by reason.

    ``passages`` is a table of rows.PASSAGES. No generator and no person wrote the responses: rules
    edit sentences of the passages, so that each response is known (:mod:`tasks.claims`).

    Raises :class:`PipelineError` where no task type is one that rows can be constructed of, where
    no sentence serves, and where labels show without the passage.
    """
    shares = {kind: SHARES[kind] for kind in task_types if kind in SHARES}
    if not shares and SPANS not in task_types:
        raise PipelineError(
            f"supervise.source constructed makes rows of {', '.join((SPANS, *SHARES))}; "
            f"generate.task_types names {', '.join(task_types)}"
        )
    premises, tables, dropped = passages_of(passages), [INSTRUCTIONS.empty_table()], Counter[str]()
    if SPANS in task_types:
        tables.append(construct_spans(premises, seed, _SPANS_PER_PASSAGE))
    if shares:
        whole = sum(shares.values())
        constructed = construct(
            premises,
            seed,
            _PER_PASSAGE,
            shares={kind: share / whole for kind, share in shares.items()},
        )
        tables.append(constructed.table)
        dropped += constructed.dropped
        for kind, figures in constructed.probes.items():
            log.info("labels without the passage, %s: %s", kind, figures)
    if not any(len(table) for table in tables):
        raise PipelineError(
            "no sentence of these passages can be made a question: they need plain statements with"
            " numbers, dates, names or a simple subject"
        )
    return pa.concat_tables(tables).combine_chunks(), dropped
