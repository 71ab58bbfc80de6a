"""The stage generate with an engine that answers by rule: all of the stage is real but the language
model, which is not what is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import tasks.lm.engine
from tasks.lm.engine import Completion, OnDone, Sampling


class _RuleEngine:
    """Every fifth answer cannot be parsed."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        on_done: OnDone | None = None,
    ) -> list[Completion]:
        return [self._complete(seed) for seed in seeds]

    def _complete(self, seed: int) -> Completion:
        text = f"{{{{context}}}}\n\nQuestion: What stands in row {seed}?\n<|pipe|>\nnumber {seed}"
        return Completion("no mark" if seed % 5 == 0 else text, 24, True)


def main() -> Any:
    """Run the stage; its import of the engine comes after the exchange."""
    tasks.lm.engine.open_engine = _RuleEngine  # type: ignore[assignment]
    from tasks.generate.stage import main as generate

    return generate()


if __name__ == "__main__":
    sys.exit(main())
