"""Rows with labels by construction, for a set of passages: balanced, and the same in whatever order
the passages come.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa

from tasks.claims import patterns
from tasks.claims.claims import (
    CONTRADICTED,
    ENTAILED,
    FALSE_DENIALS,
    TRUE_DENIALS,
    UNDECIDED,
    Premise,
    Twins,
    make_twins,
)
from tasks.claims.details import Details
from tasks.claims.duties import DUTIES
from tasks.claims.neighbours import Neighbours
from tasks.claims.probe import Probed, balanced
from tasks.claims.questions import small_words
from tasks.claims.sentences import WORD, content_words, stem
from tasks.claims.wordings import Family, instruction, load_wordings
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, row_seed
from tasks.core.rows import INSTRUCTIONS

#: Fewer rows than this teach a model to repeat itself.
FEW_ROWS = 50
#: Words that mean somebody else in another document.
_OURS = frozenset(("we", "our", "ours", "us"))
_THIS = frozenset(("this", "these"))
#: Shares of the task types among constructed rows.
SHARES: Mapping[str, float] = {"nli": 0.5, "te": 0.15, "ynqa": 0.35}


@dataclass(frozen=True)
class Claim:
    """One labelled claim about a passage; ``origin`` is the passage its words come from."""

    text: str
    label: str
    kind: str
    passage: Premise
    origin: str


@dataclass(frozen=True)
class _Worded:
    """A claim, and the wording that it is put into."""

    claim: Claim
    task_type: str
    family: Family
    wording: str

    @property
    def probed(self) -> Probed:
        """What the probe sees; of te and ynqa it tells whether the claim is entailed."""
        label = self.claim.label
        answer = label if self.task_type == "nli" else str(label == ENTAILED)
        return Probed(self.claim.text, answer, self.claim.origin)


@dataclass(frozen=True)
class Constructed:
    """Rows (rows.INSTRUCTIONS), the claim of each, rows dropped by reason, the probe's figures."""

    table: pa.Table
    claims: list[Claim]
    dropped: Counter[str]
    probes: dict[str, dict[str, float]]


def construct(
    passages: Sequence[Premise],
    seed: int,
    per_passage: int = 2,
    most_excess: float = 0.05,
    shares: Mapping[str, float] = SHARES,
) -> Constructed:
    """Return rows with right labels, at most ``per_passage`` pairs of claims a passage.

    ``shares`` weigh the task types; their sum does not matter.

    Raises :class:`PipelineError` where no passage has a sentence to construct from, and where the
    labels can be told without the passage by more than ``most_excess`` over the commonest one.
    """
    dropped: Counter[str] = Counter()
    distinct = _distinct(passages, dropped)
    twins = [pair for passage in distinct for pair in make_twins(passage, per_passage, seed)]
    twins = _even_negations(twins, seed, dropped)
    if not twins:
        raise PipelineError(
            "no sentence of these passages can be made a claim:"
            " they need plain statements with numbers, names or verbs"
        )
    groups = _claims(twins, distinct, seed, dropped)
    worded = [each for group in groups for each in _worded(group, seed, shares)]
    kept, probes = _probed(worded, most_excess, seed, dropped)
    small = small_words(passage.text for passage in distinct)
    made: dict[str, tuple[dict[str, str], Claim]] = {}
    for each in kept:
        row = _row(each, small)
        made[row["row_id"]] = row, each.claim
    dropped["same_row"] += len(kept) - len(made)
    rows = [made[row_id] for row_id in sorted(made)]
    table = pa.Table.from_pylist([row for row, _ in rows], schema=INSTRUCTIONS)
    return Constructed(table, [claim for _, claim in rows], dropped, probes)


def _distinct(passages: Sequence[Premise], dropped: Counter[str]) -> list[Premise]:
    """Return passages of different texts, in the order of their ids."""
    by_text: dict[str, Premise] = {}
    for passage in sorted(passages, key=lambda passage: passage.passage_id):
        by_text.setdefault(" ".join(passage.text.split()), passage)
    dropped["same_text"] += len(passages) - len(by_text)
    return list(by_text.values())


def _even_negations(twins: list[Twins], seed: int, dropped: Counter[str]) -> list[Twins]:
    """Return as many twins that a negation makes false as twins that it makes true."""
    drawn = sorted(
        twins, key=lambda pair: row_seed(seed, "negation", pair.passage_id, pair.entailed)
    )
    least = min(
        sum(pair.kind in kinds for pair in twins) for kinds in (TRUE_DENIALS, FALSE_DENIALS)
    )
    used: Counter[bool] = Counter()
    kept = []
    for pair in drawn:
        negation = pair.kind in TRUE_DENIALS | FALSE_DENIALS
        used[pair.kind in TRUE_DENIALS] += negation
        if not negation or used[pair.kind in TRUE_DENIALS] <= least:
            kept.append(pair)
    dropped["uneven_negation"] += len(twins) - len(kept)
    return sorted(kept, key=lambda pair: (pair.passage_id, pair.kind, pair.entailed))


def _claims(
    twins: Sequence[Twins], passages: Sequence[Premise], seed: int, dropped: Counter[str]
) -> list[tuple[Claim, ...]]:
    """Return (entailed, contradicted, undecided) for each pair of twins; a pair for which no
    undecided claim is found is left out.
    """
    by_id = {passage.passage_id: passage for passage in passages}
    index, details = Neighbours(passages), Details(passages, seed)
    groups: list[tuple[Claim, ...]] = []
    for pair in twins:
        open_claim = _open_claim(pair, index, details, seed)
        if open_claim is None:
            dropped["no_neighbour"] += 1
            continue
        other, kind, text = open_claim
        home = by_id[pair.passage_id]
        groups.append(
            (
                Claim(pair.entailed, ENTAILED, pair.kind, home, pair.passage_id),
                Claim(pair.contradicted, CONTRADICTED, pair.kind, home, pair.passage_id),
                Claim(text, UNDECIDED, kind, by_id[other], pair.passage_id),
            )
        )
    return groups


def _open_claim(
    pair: Twins, index: Neighbours, details: Details, seed: int
) -> tuple[str, str, str] | None:
    """Return (passage, kind, claim) that the passage leaves open, or None.

    The claim is one of the twins, drawn, about another passage, so that its words tell nothing; or
    a statement of another passage with the twin's date.
    """
    lot = row_seed(seed, "undecided", pair.passage_id, pair.entailed)
    text = (pair.entailed, pair.contradicted)[lot % 2]
    words = {word.lower() for word in WORD.findall(text)}
    if _points_away(text):
        return None
    if lot % 3 and (found := details.undecided(text, pair.passage_id)):
        return found[0], "detail", found[1]
    # Another contract's clause may say the same in its own words, and decide it; and its "we" is
    # somebody else.
    at_home = pair.kind in DUTIES or bool(words & _OURS)
    # A passage that holds a word of the pair tells which of the two is so.
    differing = content_words(pair.entailed) ^ content_words(pair.contradicted)
    lacking = differing if pair.kind == "opposite" else frozenset()
    other = index.undecided(text, pair.passage_id, at_home, lacking)
    return (other, pair.kind, text) if other else None


def _points_away(text: str) -> bool:
    """Tell whether a claim would be about something else in another passage: "such reports" where
    it has named no reports, "this paragraph", but not "this agreement".
    """
    words = [word.lower() for word in WORD.findall(text)]
    return any(
        (
            word in patterns.words("carried_along")
            or (word in _THIS and after not in patterns.words("whole_documents"))
        )
        and stem(after) not in map(stem, words[:place])
        for place, (word, after) in enumerate(pairwise(words))
    )


def _worded(group: tuple[Claim, ...], seed: int, shares: Mapping[str, float]) -> list[_Worded]:
    """Return the claims that one wording takes, the same number for each answer."""
    lot = row_seed(seed, "wording", group[0].origin, group[0].text)
    task_type = _drawn(lot / 2**31, shares)
    options = load_wordings().of(task_type)
    family, wording = options[row_seed(lot, "family") % len(options)]
    claims = [claim for claim in group if claim.label in family.labels]
    if not family.decides:  # two labels share an answer: one of them is drawn
        denied = claims[1 + row_seed(lot, "denied") % 2]
        claims = [claims[0], denied]
    return [_Worded(claim, task_type, family, wording) for claim in claims]


def _drawn(lot: float, shares: Mapping[str, float]) -> str:
    total, reached = sum(shares.values()), 0.0
    for task_type, share in shares.items():
        reached += share / total
        if lot < reached:
            return task_type
    return [*shares][-1]


def _probed(
    worded: list[_Worded], most_excess: float, seed: int, dropped: Counter[str]
) -> tuple[list[_Worded], dict[str, dict[str, float]]]:
    """Return the rows that the probe leaves, and its figures by task type."""
    by_type: dict[str, list[_Worded]] = defaultdict(list)
    for each in worded:
        by_type[each.task_type].append(each)
    kept: list[_Worded] = []
    figures: dict[str, dict[str, float]] = {}
    for task_type, rows in sorted(by_type.items()):
        places, verdict = balanced([row.probed for row in rows], most_excess, seed)
        dropped["telling"] += len(rows) - len(places)
        kept += [rows[place] for place in places]
        if verdict:
            figures[task_type] = {
                "accuracy": round(verdict.accuracy, 4),
                "majority": round(verdict.majority, 4),
                "rows": len(places),
            }
    return kept, figures


def _row(worded: _Worded, small: frozenset[str]) -> dict[str, str]:
    claim, task_type = worded.claim, worded.task_type
    passage, response = claim.passage, worded.family.labels[claim.label]
    text = instruction(worded.wording, claim.text, passage.text, small)
    return {
        "row_id": fingerprint("claim", passage.passage_id, task_type, text, response)[:20],
        "passage_id": passage.passage_id,
        "document": passage.document,
        "task_type": task_type,
        "context": passage.text,
        "instruction": text,
        "response": response,
    }
