"""Which other passage shares words with a claim and does not decide it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from tasks.claims.claims import Premise
from tasks.claims.patterns import Patterns
from tasks.claims.sentences import content_words, split_sentences

#: Most of a claim's words that one sentence of the other passage may hold.
_MOST_IN_SENTENCE = 0.5
_TRIED = 12


class Neighbours:
    """An index of passages by their words; their order does not matter."""

    def __init__(self, passages: Sequence[Premise], patterns: Patterns) -> None:
        self._patterns = patterns
        self._passages = {passage.passage_id: passage for passage in passages}
        self._words = {
            key: content_words(passage.text, patterns) for key, passage in self._passages.items()
        }
        self._holders: dict[str, list[str]] = defaultdict(list)
        for key in sorted(self._passages):
            for word in self._words[key]:
                self._holders[word].append(key)
        self._sentences: dict[str, list[frozenset[str]]] = {}
        self._most = max(20, len(passages) // 12)

    def undecided(
        self,
        claim: str,
        origin: str,
        used: Counter[str],
        at_home: bool = False,
        lacking: frozenset[str] = frozenset(),
    ) -> str | None:
        """Return the passage that shares most with another's claim and leaves it open, or None.

        ``used`` counts how often a passage served before: each serves at most three times.
        ``at_home``: only a passage of the same document. ``lacking``: one with none of these words
        (:func:`content_words`).
        """
        words = self._telling(claim)
        if len(words) < 3:
            return None
        scores: dict[str, float] = defaultdict(float)
        for word in sorted(words):  # a sum of floats depends on its order, a set's on the hash seed
            holders = self._holders.get(word, [])
            if len(holders) <= self._most:
                for key in holders:
                    scores[key] += math.log((1 + len(self._passages)) / len(holders))
        scores = {key: scores[key] for key in scores if not lacking & self._words[key]}
        home = self._passages[origin].document
        if at_home:
            scores = {key: scores[key] for key in scores if self._passages[key].document == home}
        for key in scores:
            scores[key] += 3.0 if home and self._passages[key].document == home else 0.0
        best = sorted(scores, key=lambda key: (-scores[key], key))[:_TRIED]
        return next(
            (
                key
                for key in best
                if key != origin and used[key] < 3 and self._open(words, key, origin)
            ),
            None,
        )

    def _telling(self, claim: str) -> frozenset[str]:
        return frozenset(
            word for word in content_words(claim, self._patterns) if not word[0].isdigit()
        )

    def _open(self, words: frozenset[str], key: str, origin: str) -> bool:
        """Tell whether no sentence of the passage speaks of what the claim says."""
        held = words & self._words[key]
        if not held or len(words - held) < max(2, 0.34 * len(words)):
            return False
        if len(self._words[key] & self._words[origin]) > 0.6 * min(
            len(self._words[key]), len(self._words[origin])
        ):
            return False
        return all(
            len(words & sentence) <= _MOST_IN_SENTENCE * len(words) for sentence in self._of(key)
        )

    def _of(self, key: str) -> list[frozenset[str]]:
        if key not in self._sentences:
            parts = split_sentences(self._passages[key].text, self._patterns)
            self._sentences[key] = [content_words(part, self._patterns) for part in parts]
        return self._sentences[key]
