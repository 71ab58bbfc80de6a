"""A fair draw of a number of rows from a stream of any length, in bounded memory.

It does not depend on the order of the stream: every row has a hash of its content, and the rows
with the smallest hashes are drawn. Rows that are in the draw so far wait on the disk.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bonito.sources import dump_row
from tasks.core.files import fingerprint

Drawn = tuple[str, dict[str, Any]]
#: Characters of a row's id. A waiting line begins with it: ``["<id>", {...}]``.
_ID = 20


class Draw:
    """Rows drawn from one dataset; iterates over (row id, row) in the order of the stream.

    ``dropped`` counts the other rows by reason.
    """

    def __init__(
        self,
        rows: Iterable[dict[str, Any]],
        key: tuple[str, str],
        most: int,
        seed: int,
        spill: Path,
    ) -> None:
        """Read all ``rows`` and draw ``most`` of them (0: all).

        ``spill`` is a file for the waiting rows; it is overwritten.
        """
        self.seen = 0
        self.dropped: Counter[str] = Counter()
        self._spill = spill
        self._drawn = self._read(rows, key, most, seed)

    def __len__(self) -> int:
        return len(self._drawn)

    def __iter__(self) -> Iterator[Drawn]:
        return self._find(self._drawn)

    def sample(self, count: int) -> list[dict[str, Any]]:
        """Return ``count`` drawn rows, or all if there are fewer: those with the smallest ids.

        Ids are hashes: the sample is fair where the rows are sorted, and knows no order either.
        """
        found = self._find(set(heapq.nsmallest(count, self._drawn)))
        return [row for _, row in sorted(found, key=lambda drawn: drawn[0])]

    def _find(self, wanted: set[str]) -> Iterator[Drawn]:
        with self._spill.open(encoding="utf-8") as lines:
            for line in lines:
                if line[2 : 2 + _ID] in wanted:
                    row_id, row = json.loads(line)
                    yield row_id, row

    def _read(
        self, rows: Iterable[dict[str, Any]], key: tuple[str, str], most: int, seed: int
    ) -> set[str]:
        drawn: set[str] = set()
        largest: list[tuple[int, str]] = []  # heap: the drawn row with the largest number on top
        with self._spill.open("w", encoding="utf-8") as waiting:
            for row in rows:
                self.seen += 1
                content = dump_row(row)
                row_id = fingerprint(*key, content)[:_ID]
                number = -int(fingerprint(seed, row_id)[:16], 16) if most else 0
                if row_id in drawn:
                    self.dropped["duplicate_row"] += 1
                    continue
                if most and len(largest) == most:
                    self.dropped["over_dataset_cap"] += 1
                    if number < largest[0][0]:
                        continue
                    drawn.remove(heapq.heapreplace(largest, (number, row_id))[1])
                elif most:
                    heapq.heappush(largest, (number, row_id))
                drawn.add(row_id)
                waiting.write(f"[{json.dumps(row_id)}, {content}]\n")
        return drawn
