"""The supervision sources, and mixes of them, as ``supervise.source`` writes them.

``bonito+constructed:0.5``: all rows of bonito, and of constructed as many that they are 0.5 of the
rows together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor

from tasks.core.errors import PipelineError, did_you_mean

#: Sources whose rows a generator writes: generate and validate have work to do for them alone.
_GENERATED = ("bonito", "prompted")
#: Sources whose rows are read from ``supervise.rows``.
_GIVEN = ("p3", "labelled")
SOURCES = (*_GENERATED, "tapt", *_GIVEN, "constructed", "none")
#: Sources that cannot be in one mix, and why.
_APART = {
    _GENERATED: "a run has one generator",
    _GIVEN: "both are read from supervise.rows",
}
_SHARE = re.compile(r"0?\.\d+", re.ASCII)
_NAMES = "|".join(name for name in SOURCES if name != "none")
#: What an editor marks as wrong; :func:`parse_mix` refuses more.
PATTERN = rf"^ *({_NAMES})( *\+ *({_NAMES})( *: *0?\.[0-9]+)?)* *$"


@dataclass(frozen=True)
class Mix:
    """One source or several: name -> share of the rows (None: all rows of the source), in order."""

    parts: tuple[tuple[str, Decimal | None], ...]

    def __str__(self) -> str:
        return "+".join(
            name if share is None else f"{name}:{share.normalize():f}" for name, share in self.parts
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The sources in order."""
        return tuple(name for name, _ in self.parts)

    @property
    def shares(self) -> dict[str, Fraction]:
        """Source -> share, of the sources that have one."""
        return {name: Fraction(share) for name, share in self.parts if share is not None}

    @property
    def generator(self) -> str:
        """The source whose rows a generator writes; empty where there is none."""
        return next((name for name in self.names if name in _GENERATED), "")

    @property
    def given(self) -> str:
        """The source whose rows are read from ``supervise.rows``; empty where there is none."""
        return next((name for name in self.names if name in _GIVEN), "")

    def allot(self, whole: int, most: int = 0) -> tuple[int, dict[str, int]]:
        """Return the rows to take of the sources without a share, together, and of each other one.

        ``whole``: how many rows the sources without a share have. ``most``: rows of the mix at
        most, 0: no limit. The rows of a share are rounded down.
        """
        total = whole / (1 - sum(self.shares.values(), Fraction()))
        if most:
            total = min(total, Fraction(most))
        shared = {name: floor(share * total) for name, share in self.shares.items()}
        return min(whole, ceil(total) - sum(shared.values())), shared


def parse_mix(text: str) -> Mix:
    """Parse a source or a mix; a :class:`PipelineError` says what is wrong with it."""
    parts: list[tuple[str, Decimal | None]] = []
    for part in text.split("+"):
        name, colon, share = (piece.strip() for piece in part.partition(":"))
        if name not in SOURCES:
            raise PipelineError(f"unknown supervision {name!r}{did_you_mean(name, SOURCES)}")
        if colon and not parts:
            raise PipelineError(f"the first source comes whole: write {name!r} without a share")
        if name in (known for known, _ in parts):
            raise PipelineError(f"{name!r} is in the mix twice")
        parts.append((name, _parse_share(name, share) if colon else None))
    mix = Mix(tuple(parts))
    if len(parts) > 1 and "none" in mix.names:
        raise PipelineError("none means no training: it cannot be in a mix")
    for apart, why in _APART.items():
        if set(apart) <= set(mix.names):
            raise PipelineError(f"{' and '.join(apart)} cannot be in one mix: {why}")
    if sum(mix.shares.values()) >= 1:
        raise PipelineError("the shares of a mix must sum to less than 1: the first has the rest")
    return mix


def _parse_share(name: str, text: str) -> Decimal:
    if not _SHARE.fullmatch(text) or not (share := Decimal(text)):
        raise PipelineError(
            f"the share of {name!r}, {text!r}, is not a number between 0 and 1, such as 0.5"
        )
    return share
