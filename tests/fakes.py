"""The one thing that is faked: what the language model says. Everything around it is the real
code.
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.lm.engine import Completion, OnDone, Sampling


class FakeEngine:
    """Answers by a rule of its prompt tokens and seed alone, and remembers every batch it was
    sent.
    """

    def __init__(self, die_after: int | None = None) -> None:
        self.batches: list[list[list[int]]] = []
        self.die_after = die_after

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        on_done: OnDone | None = None,
    ) -> list[Completion]:
        if self.die_after is not None and len(self.batches) >= self.die_after:
            raise KeyboardInterrupt
        self.batches.append([list(prompt) for prompt in prompts])
        return [self._complete(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _complete(self, prompt: list[int], seed: int) -> Completion:
        number = (sum(prompt) + seed) % 7
        if number == 0:
            return Completion("no mark here", 3, True)
        if number == 1:
            return Completion("cut off in the mid", 9, False)
        return Completion(
            (
                f"{{{{context}}}}\n\nQuestion: Why did the pump fail "
                f"({number})?\n<|pipe|>\nits seal broke"
            ),
            12,
            True,
        )
