"""How many rows rules would make of a corpus: what ``make start`` proposes, or names beside it."""

from __future__ import annotations

from tasks.claims.construct import FEW_ROWS, SHARES, construct
from tasks.claims.passages import passages_of
from tasks.core.errors import PipelineError
from tasks.start.survey import Survey

#: Where such rows gained in some trainings: with yes-no questions in none (docs/results.md).
_GAINING = ("nli",)
#: The task types that ``make start`` writes a dataset file for, and rules make rows of.
_KINDS = ("nli", "ynqa")
#: Passages of the sample that are looked at: some seconds.
_LOOKED_AT = 1000


def expect_claims(found: Survey, kind: str) -> int:
    """Return about how many rows of a task type ``supervise.source: constructed`` has of the whole
    corpus; 0 for a type that never gained by them, and where there would be too few to train on.
    """
    rows = count_claims(found, kind) if kind in _GAINING else 0
    return rows if rows >= FEW_ROWS else 0


def choose_claims(found: Survey) -> tuple[str, str]:
    """Return the task type that rules make claims for in a corpus, and why: one that gained by them
    where there are enough rows of it, else the one with the most rows.
    """
    counts = {kind: count_claims(found, kind) for kind in _KINDS}
    enough = [kind for kind in _GAINING if counts[kind] >= FEW_ROWS]
    kind = enough[0] if enough else max(counts, key=counts.__getitem__)
    few = "" if counts[kind] >= FEW_ROWS else ", too few to train on"
    return kind, f"rules make about {counts[kind]:,} rows of it{few}: docs/claims.md"


def need_claims(kind: str) -> None:
    """Raise :class:`PipelineError` for a task type that rules make no rows of."""
    if kind not in SHARES:
        raise PipelineError(
            f"rules make rows of {', '.join(SHARES)}, not of {kind} (docs/claims.md): choose "
            "another TASK or other items, or leave MODEL out for a generator"
        )


def count_claims(found: Survey, kind: str) -> int:
    """Return about how many rows of a task type rules make of the whole corpus."""
    passages = found.passages.slice(0, _LOOKED_AT)
    try:
        rows = construct(passages_of(passages), seed=1, shares={kind: 1.0}).table
    except PipelineError:  # no plain sentence, or labels that the claims give away
        return 0
    return round(len(rows) * found.expected_passages / len(passages))
