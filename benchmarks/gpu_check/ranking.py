"""The paths of ranked scoring: against float32, how fast, and how many near ties need float32."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.evaluate import BATCH_ROWS, float32_scores, ranking_gate
from benchmarks.gpu_check.outcome import Figures
from benchmarks.gpu_check.setting import Setting
from benchmarks.harness import PASSED
from benchmarks.inputs import prompter_of
from benchmarks.roofline import Need, read_weights
from tasks.lm.loading import load_model
from tasks.lm.memory import freed_after
from tasks.scoring import ranking
from tasks.scoring.float32 import wide_residual
from tasks.scoring.tree import Choices

_QUESTIONS, _COMPARED = 48, 16


def rank_like_float32(setting: Setting) -> Figures:
    """Rank choices, and compare with float32 without padding or shared prompts."""
    most = min(_COMPARED, 2 * setting.shape.prompts)
    asked = [*setting.questions(most - 1), setting.long_question()]
    reference = float32_scores(str(setting.compared), asked)
    found = _rank(setting, setting.compared, asked)
    off = max(
        abs(one - other)
        for row, others in zip(reference, found.scores, strict=True)
        for one, other in zip(row, others, strict=True)
    )
    note = f"scores off by {off:.2g} at most; {found.describe_near()}"
    return Figures(ranking_gate(reference, found.scores), note)


def rank_speed(setting: Setting) -> Figures:
    """Rank choices on the merged model."""
    folder = setting.merged()
    asked = setting.questions(min(_QUESTIONS, setting.shape.prompts))
    found = _rank(setting, folder, asked)
    finite = bool(torch.tensor(found.scores).isfinite().all())
    need = Need(found.tokens, found.scored, passes=-(-len(asked) // BATCH_ROWS))
    return Figures(
        PASSED if finite else "the scores are not finite",
        found.describe_near(),
        found.tokens,
        found.seconds,
        need,
        read_weights(str(folder)),
    )


@dataclass(frozen=True)
class _Ranked:
    """Scores by prompt and choice; all tokens, and those that were scored; seconds. ``near`` is the
    number of prompts that were scored again in float32, None for a model that computes in it.
    """

    scores: list[list[float]]
    tokens: int
    scored: int
    seconds: float
    near: int | None

    def describe_near(self) -> str:
        """Return the share of near ties in words."""
        if self.near is None:
            return "all in float32"
        share = self.near / len(self.scores)
        return (
            f"near ties, scored again in float32: {self.near} of {len(self.scores)} ({share:.0%})"
        )


def _rank(setting: Setting, folder: Path, asked: list[dict[str, Any]]) -> _Ranked:
    prompter = prompter_of(str(folder))
    prompts = [prompter.prompt(str(one["instruction"])) for one in asked]
    choices = [[prompter.response(choice) for choice in one["choices"]] for one in asked]
    with freed_after(load_model(str(folder), precision=setting.shape.precision).eval()) as model:
        # Also the warm-up of what is timed.
        near = _count_near(model, prompts, choices, setting.pad_token)
        start = time.perf_counter()
        scores = ranking.rank(model, prompts, choices, BATCH_ROWS, setting.pad_token)
        seconds = time.perf_counter() - start
    scored = sum(len(choice) for row in choices for choice in row)
    return _Ranked(scores, sum(map(len, prompts)) + scored, scored, seconds, near)


@torch.no_grad()
def _count_near(
    model: Any, prompts: list[list[int]], choices: list[Choices], pad_token: int
) -> int | None:
    """Return how many prompts ``rank`` scores again in float32; None where it scores none again.

    It does not tell. This is its first pass.
    """
    scorer = ranking.Scorer(model, BATCH_ROWS, pad_token)
    with wide_residual(model) as narrow:
        if not narrow:
            return None
        first = scorer.rank(model.dtype, prompts, choices, lambda prompts: None)
    return sum(ranking.margin(row) < ranking.NEAR for row in first)
