"""Which other passage shares words with a claim and does not decide it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from tasks.claims.claims import Premise
from tasks.claims.sentences import content_words, split_sentences

#: Most of a claim's words that one sentence of the other passage may hold.
_MOST_IN_SENTENCE = 0.5
#: Best passages that are looked at, and how often a passage serves.
_TRIED, _MOST_USES = 12, 3


class Neighbours:
    """An index of passages by their words; their order does not matter."""

    def __init__(self, passages: Sequence[Premise]) -> None:
        self._passages = {passage.passage_id: passage for passage in passages}
        self._words = {key: content_words(passage.text) for key, passage in self._passages.items()}
        self._holders: dict[str, list[str]] = defaultdict(list)
        for key in sorted(self._passages):
            for word in self._words[key]:
                self._holders[word].append(key)
        self._sentences: dict[str, list[frozenset[str]]] = {}
        self._used: Counter[str] = Counter()
        self._most = max(20, len(passages) // 12)

    def undecided(
        self,
        claim: str,
        origin: str,
        at_home: bool = False,
        lacking: frozenset[str] = frozenset(),
    ) -> str | None:
        """Return the passage that shares most with another's claim and leaves it open, or None.

        A passage serves at most three times. ``at_home``: only a passage of the same document.
        ``lacking``: one with none of these words (:func:`content_words`).
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
        for key in best:
            if key != origin and self._used[key] < _MOST_USES and self._open(words, key, origin):
                self._used[key] += 1
                return key
        return None

    def _telling(self, claim: str) -> frozenset[str]:
        return frozenset(word for word in content_words(claim) if not word[0].isdigit())

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
            parts = split_sentences(self._passages[key].text)
            self._sentences[key] = [content_words(part) for part in parts]
        return self._sentences[key]
