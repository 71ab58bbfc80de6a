"""How many rows rules would make of a corpus: an alternative that ``make start`` names."""

from __future__ import annotations

from tasks.claims.construct import FEW_ROWS, construct
from tasks.claims.passages import passages_of
from tasks.core.errors import PipelineError
from tasks.start.survey import Survey

#: Where such rows gained in some trainings: with yes-no questions in none (docs/results.md).
_GAINING = ("nli",)
#: Passages of the sample that are looked at: some seconds.
_LOOKED_AT = 1000


def expect_claims(found: Survey, kind: str) -> int:
    """Return about how many rows of a task type ``supervise.source: constructed`` has of the whole
    corpus; 0 for a type that never gained by them, and where there would be too few to train on.
    """
    if kind not in _GAINING:
        return 0
    passages = found.passages.slice(0, _LOOKED_AT)
    try:
        rows = construct(passages_of(passages), seed=1, shares={kind: 1.0}).table
    except PipelineError:  # no plain sentence, or labels that the claims give away
        return 0
    expected = round(len(rows) * found.expected_passages / len(passages))
    return expected if expected >= FEW_ROWS else 0
