"""Which of the kept rows a person is asked to read: a seeded draw, each task type in its share."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any

from tasks.core.files import row_seed

#: Rows that ``make review`` draws.
SAMPLE = 100


class Draw:
    """At most ``most`` rows, each task type in its share and at least once.

    Which ones depends on the seed and on the rows' texts alone, not on their order, and memory does
    not grow with their number.
    """

    def __init__(self, most: int, seed: int) -> None:
        self._most, self._seed = most, seed
        self._heaps: dict[str, list[tuple[int, str, dict[str, Any]]]] = {}
        #: Rows offered, by task type.
        self.counts: Counter[str] = Counter()

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Offer a row; ``key`` is that of its text (:func:`tasks.scoring.reviews.review_key`)."""
        heap = self._heaps.setdefault(row["task_type"], [])
        self.counts[row["task_type"]] += 1
        entry = (-row_seed(self._seed, "review", key), key, row)
        full = len(heap) == self._most
        if (full and _place(entry) <= _place(heap[0])) or any(key == one for _, one, _ in heap):
            return
        (heapq.heapreplace if full else heapq.heappush)(heap, entry)

    def rows(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the drawn rows with their keys, in the draw's order."""
        shares = allocate(self.counts, self._most)
        chosen = [
            entry
            for kind, heap in self._heaps.items()
            for entry in sorted(heap, key=_place, reverse=True)[: shares[kind]]
        ]
        return [(key, row) for _, key, row in sorted(chosen, key=_place, reverse=True)]


def _place(entry: tuple[int, str, dict[str, Any]]) -> tuple[int, str]:
    return entry[:2]


def allocate(counts: dict[str, int], most: int) -> dict[str, int]:
    """Share ``most`` rows out by the counts: largest remainders, at least one each."""
    total = sum(counts.values())
    if total <= most:
        return counts
    exact = {kind: most * count / total for kind, count in counts.items()}
    shares = {kind: max(1, int(share)) for kind, share in exact.items()}
    while sum(shares.values()) < most:
        kind = max(exact, key=lambda kind: (exact[kind] - shares[kind], kind))
        shares[kind] += 1
    while sum(shares.values()) > most:  # rare types took one each
        shares[max(shares, key=lambda kind: (shares[kind], kind))] -= 1
    return shares
