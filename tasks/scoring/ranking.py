"""Ranked choices: the sum of each choice's token log-probabilities after a prompt.

The end mark counts, and sums are not normalised by length.

Nothing is computed twice. A sequence holds a prompt and all its choices; prompts with the same
beginning (questions about one passage) share it; and an attention mask lets a token see only the
segments that lead to it, see :class:`Tree`. The vocabulary head is applied at scored places only.
A model with layers that follow no mask gets each choice in a sequence of its own.

A bfloat16 model's scores are off by some tenths of a nat, enough to reverse a ranking. So its
residual stream is kept in float32, which costs little and removes most of that. Where the best two
choices are still closer than ``NEAR``, the prompt is scored again in float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from tasks.lm.loading import vocabulary_logits
from tasks.lm.memory import full_card
from tasks.scoring.float32 import compute_in_float32, wide_residual
from tasks.scoring.tree import Choices, Tree

#: Choices whose scores are closer than this (in nats) are scored again in float32. In a trial of 50
#: prompts on the 135M model the difference of two scores was off by 0.15 (standard deviation), at
#: most by 0.31.
NEAR = 0.4

#: Most tokens of a pass, with padding: of Mistral-7B, whose layers widen 4,096 values to 14,336,
#: about 3 GB beside the weights in bfloat16, and twice that in float32. A longer prompt goes alone.
_BATCH_TOKENS = 16_384
#: Most places at which the head is applied together: 0.3 GB of logits of 32,000 tokens.
_HEAD_PLACES = 2_048
#: Rows of a sliding window's mask that are made together.
_MASK_ROWS = 1_024

#: Layers that follow the mask. Convolutions, recurrent layers and GPT-Neo's local ones follow the
#: order of the tokens.
_MASKED = {"full_attention", "sliding_attention", "global"}


@torch.no_grad()
def rank(
    model: Any,
    prompts: Sequence[list[int]],
    choices: Sequence[Choices],
    batch_rows: int,
    pad_token: int,
    on_done: Callable[[int], None] = lambda prompts: None,
) -> list[list[float]]:
    """Return, for every prompt, the summed log-probability of each of its choices.

    ``choices[i]`` are the token ids of prompt ``i``'s choices, end mark last. A pass takes
    ``batch_rows`` prompts, fewer where they are long (``_BATCH_TOKENS``). ``on_done`` gets the
    number of prompts scored since its last call. Log-probabilities are computed and summed in
    float32.
    """
    with full_card("ranking", f"or lower batch_rows ({batch_rows})"):
        return _rank(Scorer(model, batch_rows, pad_token), prompts, choices, on_done)


def _rank(
    scorer: Scorer,
    prompts: Sequence[list[int]],
    choices: Sequence[Choices],
    on_done: Callable[[int], None],
) -> list[list[float]]:
    model = scorer.model
    with wide_residual(model) as narrow:
        scores = scorer.rank(model.dtype, prompts, choices, on_done)
    near = [index for index, row in enumerate(scores) if narrow and margin(row) < NEAR]
    if near:
        with compute_in_float32(model):
            again = scorer.rank(
                torch.float32,
                [prompts[index] for index in near],
                [choices[index] for index in near],
                lambda prompts: None,  # counted already
            )
        for index, row in zip(near, again, strict=True):
            scores[index] = row
    return scores


@dataclass(frozen=True)
class Scorer:
    """A model, the most prompts of a pass, and what fills the shorter ones."""

    model: Any
    batch_rows: int
    pad_token: int

    def rank(
        self,
        compute: torch.dtype,
        prompts: Sequence[list[int]],
        choices: Sequence[Choices],
        on_done: Callable[[int], None],
    ) -> list[list[float]]:
        """Return the scores of every prompt's choices, with ``compute`` as the mask's dtype."""
        if _goes_by_mask(self.model):
            return self._score(compute, prompts, choices, on_done)
        each = [prompt for prompt, own in zip(prompts, choices, strict=True) for _ in own]
        alone = [[choice] for own in choices for choice in own]
        found = iter(self._score(None, each, alone, lambda done: None))
        scores = [[next(found)[0] for _ in own] for own in choices]
        on_done(len(prompts))
        return scores

    def _score(
        self,
        compute: torch.dtype | None,
        prompts: Sequence[list[int]],
        choices: Sequence[Choices],
        on_done: Callable[[int], None],
    ) -> list[list[float]]:
        """Return the scores; ``compute`` None: of one choice for each prompt, without a mask."""
        scores: list[list[float]] = [[] for _ in prompts]
        groups = _groups(prompts, choices, self.batch_rows if compute else 1)
        trees = [Tree.of(group, shared, prompts, choices) for group, shared in groups]
        trees.sort(key=lambda tree: len(tree.ids))
        for batch in _batches(trees, self.batch_rows):
            states = _hidden(self.model, compute, batch, self.pad_token)
            for tree, hidden in zip(batch, states, strict=True):
                rows = _sums(self.model, hidden, tree.scored)
                for index, row in zip(tree.prompts, rows, strict=True):
                    scores[index] = row
                on_done(len(tree.prompts))
        return scores


def _goes_by_mask(model: Any) -> bool:
    """Tell whether every layer follows the mask and the positions that it is given.

    ALiBi counts positions in the sequence itself.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = [getattr(config, name, None) or () for name in ("layer_types", "attention_layers")]
    is_placed = "position_ids" in inspect.signature(model.get_decoder().forward).parameters
    in_order = getattr(model, "_is_stateful", False) or getattr(config, "alibi", False)
    return is_placed and not in_order and _MASKED.issuperset(chain(*kinds))


def _groups(
    prompts: Sequence[list[int]], choices: Sequence[Choices], most: int
) -> Iterator[tuple[list[int], int]]:
    """Yield groups of prompts (indices) with a common beginning, and its length in tokens.

    Prompts share at least half of the shorter one. A group is at most twice as long as its longest
    prompt, because attention is quadratic, and with its choices no longer than a pass.
    """
    order = sorted(range(len(prompts)), key=lambda index: prompts[index])
    group: list[int] = []
    shared = length = longest = 0
    for index in order:
        prompt = prompts[index]
        # Never a whole prompt: the choices begin at its last token, which must be its own.
        common = min(shared, _common(prompts[group[-1]], prompt), len(prompt) - 1) if group else 0
        joined = length + (len(group) - 1) * (shared - common) + len(prompt) - common
        longest = max(longest, len(prompt))
        if (
            group
            and len(group) < most
            and 2 * common >= min(len(prompt), *(len(prompts[i]) for i in group))
            and joined <= 2 * longest
            and joined + sum(len(c) for i in (*group, index) for c in choices[i]) <= _BATCH_TOKENS
        ):
            group, shared, length = [*group, index], common, joined
            continue
        if group:
            yield group, shared if len(group) > 1 else 0
        group, shared, length, longest = [index], len(prompt) - 1, len(prompt), len(prompt)
    if group:
        yield group, shared if len(group) > 1 else 0


def _common(one: list[int], other: list[int]) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def _batches(trees: list[Tree], most: int) -> Iterator[list[Tree]]:
    """Yield the trees, which are ordered by length, in batches of at most ``most`` prompts and
    ``_BATCH_TOKENS`` tokens, or one tree.
    """
    batch: list[Tree] = []
    for tree in trees:
        padded = (len(batch) + 1) * len(tree.ids)
        rows = sum(len(one.prompts) for one in (*batch, tree))
        if batch and (rows > most or padded > _BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def _hidden(
    model: Any, compute: torch.dtype | None, trees: list[Tree], pad_token: int
) -> torch.Tensor:
    """Return the last hidden states, [trees, longest, width].

    Without ``compute`` there is no mask: a causal layer sees no padding, which is on the right.
    """
    length, device = max(len(tree.ids) for tree in trees), model.device
    ids = torch.full((len(trees), length), pad_token)
    for row, tree in enumerate(trees):
        ids[row, : len(tree.ids)] = torch.tensor(tree.ids)
    placed = _place(model.config, compute, trees, length, device) if compute else {}
    hidden: torch.Tensor = model.get_decoder()(
        input_ids=ids.to(device), use_cache=False, **placed
    ).last_hidden_state
    return hidden


def _place(
    config: Any, compute: torch.dtype, trees: list[Tree], length: int, device: torch.device
) -> dict[str, Any]:
    """Return what tells a model where in its tree each token is, and which tokens it sees."""
    positions = torch.zeros((len(trees), length), dtype=torch.long)
    # Every position sees at least itself: a row of the mask without any key would give NaN.
    # It is made where it is used: of long prompts it is the largest of these.
    seen = torch.eye(length, dtype=torch.bool, device=device).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        size = len(tree.ids)
        positions[row, :size] = torch.tensor(tree.positions)
        seen[row, :size, :size] = tree.visible(device)
    positions = positions.to(device)
    return {
        "attention_mask": _masks(config, compute, seen, positions),
        "position_ids": positions,
    }


def _masks(
    config: Any, compute: torch.dtype, seen: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return what is added to the attention's scores, [trees, 1, length, length], or one such mask
    for each kind of layer.

    A model takes a ready mask as it is, so its sliding window must be in it: a token sees the last
    ``sliding_window`` tokens, itself included.
    """

    def mask(seen: torch.Tensor) -> torch.Tensor:
        zeros = torch.zeros(seen.shape, dtype=compute, device=seen.device)
        return zeros.masked_fill_(~seen, torch.finfo(compute).min)[:, None]

    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if not window or (kinds and "sliding_attention" not in kinds) or int(positions.max()) < window:
        return mask(seen)
    near = seen.clone()
    for start in range(0, seen.shape[1], _MASK_ROWS):  # all distances at once would take gigabytes
        rows = slice(start, start + _MASK_ROWS)
        near[:, rows] &= positions[:, rows, None] - positions[:, None, :] < window
    if kinds:
        return {"full_attention": mask(seen), "sliding_attention": mask(near)}
    return mask(near)


def _sums(
    model: Any, hidden: torch.Tensor, scored: list[list[list[tuple[int, int]]]]
) -> list[list[float]]:
    """Apply the head at the scored places only; hidden is [length, width]."""
    pairs = sorted({pair for prompt in scored for choice in prompt for pair in choice})
    places = sorted({place for place, _ in pairs})
    logs: dict[tuple[int, int], float] = {}
    for start in range(0, len(places), _HEAD_PLACES):
        row = {place: index for index, place in enumerate(places[start : start + _HEAD_PLACES])}
        found = torch.log_softmax(vocabulary_logits(model, hidden[list(row)]), dim=-1)
        asked = [pair for pair in pairs if pair[0] in row]
        rows, tokens = [row[place] for place, _ in asked], [token for _, token in asked]
        # One transfer from the device, not one for each token.
        logs.update(zip(asked, found[rows, tokens].tolist(), strict=True))
    return [[sum(logs[pair] for pair in choice) for choice in prompt] for prompt in scored]


def margin(scores: Sequence[float]) -> float:
    """Return how far the best score is above the second; infinite if there is no second."""
    best = sorted(scores, reverse=True)
    return best[0] - best[1] if len(best) > 1 else float("inf")
