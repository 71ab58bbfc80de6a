"""Undecided claims by a detail: what a passage says, with a date that it does not give."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.claims import patterns
from tasks.claims.claims import Premise
from tasks.claims.edits import is_participle
from tasks.claims.sentences import WORD, finite_verb, statements
from tasks.core.files import row_seed

_YEAR = re.compile(
    r"\b(?:1[5-9]|20)\d\ds?\b|\b(?:century|centuries|decades?|today|yesterday|ago|years?|now)\b"
)
_MOST_WORDS = 20


class Details:
    """Dates that end claims, and passages that tell of an event and of no date at all.

    A claim of another passage gives the date: "... on 3 May." ends claims of all labels alike.
    """

    def __init__(self, passages: Sequence[Premise], seed: int) -> None:
        months = "|".join(patterns.listed("months"))
        days = "|".join(patterns.listed("weekdays"))
        year = r"(?:,? \d{4})?"
        date = rf"(?:\d{{1,2}} (?:{months}){year}|(?:{months}) \d{{1,2}}{year}|{days})"
        self._tail = re.compile(rf"\b(?:in (?:(?:{months}) )?\d{{4}}|on {date})\.$")
        self._dated = re.compile(rf"\b(?:{months}|{days})\b")
        self._seed = seed
        self._hosts = [
            (passage.passage_id, statement)
            for passage in sorted(passages, key=lambda passage: passage.passage_id)
            for statement in self._events(passage)[:1]
        ]
        self._used: set[str] = set()

    def undecided(self, claim: str, origin: str) -> tuple[str, str] | None:
        """Return (passage, statement with the date of the claim), or None."""
        tail = self._tail.search(claim)
        if tail is None or len(self._used) == len(self._hosts):
            return None
        first = row_seed(self._seed, "detail", origin, claim) % len(self._hosts)
        for place in range(len(self._hosts)):
            passage, statement = self._hosts[(first + place) % len(self._hosts)]
            if passage != origin and passage not in self._used:
                self._used.add(passage)
                return passage, f"{statement.rstrip('.')} {tail[0]}"
        return None

    def _events(self, passage: Premise) -> list[str]:
        if _YEAR.search(passage.text) or self._dated.search(passage.text):
            return []
        return [text for _, text in statements(passage.text) if self._is_event(text)]

    def _is_event(self, statement: str) -> bool:
        """Tell whether a statement tells of one event: "was closed", "opened"."""
        verb = finite_verb(statement)
        if verb is None or len(statement.split()) > _MOST_WORDS:
            return False
        if patterns.negation().search(statement) or re.search(r", ", statement):
            return False
        after = WORD.search(statement, verb.end())
        passive = verb[0] in ("was", "were") and after and is_participle(after[0])
        past = patterns.verb_bases().get(verb[0].lower(), ("", ""))[1] == "did"
        return bool(passive or past)
