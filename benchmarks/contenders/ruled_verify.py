"""The stage verify with a reader that answers by rule: all of the stage is real but the language
model, which is not what is measured.

Of made rows (:mod:`benchmarks.made`) it knows the right answer: the three words that stand behind
those that the question names. Labels have random scores.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import tasks.lm.engine
import tasks.lm.loading
import tasks.scoring.ranking
from tasks.lm.engine import Completion, Sampling
from tasks.lm.tokenizers import load_tokenizer

_ASKED = "What stands right behind "


class _RuleReader:
    """Every fifth answer is wrong."""

    def __init__(self, kind: str, model: str, *_: object, **__: object) -> None:
        self._tokenizer = load_tokenizer(str(model))

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        texts = self._tokenizer.batch_decode(prompts)
        return [Completion(*done, True) for done in map(_answer, texts, seeds)]


def _answer(prompt: str, seed: int) -> tuple[str, int]:
    passage, _, asked = prompt.partition(_ASKED)
    words = asked.partition("?")[0]
    behind = passage.partition(words)[2].split()[:3] if words and seed % 5 else []
    return " ".join(behind) or "no idea", 3


class _NoModel:
    def eval(self) -> _NoModel:
        return self


def _rank(
    model: Any, prompts: Sequence[list[int]], choices: Sequence[Sequence[Any]], *_: Any
) -> list[list[float]]:
    return [
        [random.Random(str(prompt[-40:]) + str(place)).gauss(-2, 1) for place in range(len(each))]
        for prompt, each in zip(prompts, choices, strict=True)
    ]


def main() -> Any:
    """Run the stage; its imports of the models come after the exchange."""
    tasks.lm.engine.open_engine = _RuleReader  # type: ignore[assignment]
    tasks.lm.loading.load_model = lambda *_, **__: _NoModel()  # type: ignore[assignment]
    tasks.scoring.ranking.rank = _rank  # type: ignore[assignment]
    from tasks.verify.stage import main as verify

    return verify()


if __name__ == "__main__":
    sys.exit(main())
