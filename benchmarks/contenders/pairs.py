"""What the gate of the bench ``validate`` compares: a digest of each (instruction, response), in
order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def digests(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return one digest a pair that has both, leaving out those that lack either."""
    return [
        hashlib.sha256(f"{len(one)};{one}{other}".encode()).hexdigest()[:16]
        for one, other in pairs
        if one and other
    ]
