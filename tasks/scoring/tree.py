"""Prompts and their choices in one sequence, in which nothing is computed twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

#: The token ids of each choice, end mark last.
Choices = list[list[int]]


@dataclass
class Tree:
    """Prompts and their choices as one sequence of segments.

    The segments are the shared beginning, the rest of each prompt, and each choice without its last
    token. ``owner`` is each token's segment, ``parents`` each segment's parent (-1: none),
    ``scored`` holds the (place, next token) pairs by prompt and choice.
    """

    prompts: list[int]
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    scored: list[list[list[tuple[int, int]]]] = field(default_factory=list)

    @classmethod
    def of(
        cls, group: list[int], shared: int, prompts: Sequence[list[int]], choices: Sequence[Choices]
    ) -> Tree:
        """Return the tree of a group of prompts that share their first ``shared`` tokens."""
        tree = cls(group)
        root = tree._add(prompts[group[0]][:shared], 0, -1)
        for index in group:
            prompt = prompts[index]
            rest = tree._add(prompt[shared:], shared, root)
            last = len(tree.ids) - 1
            tree.scored.append([])
            for choice in choices[index]:
                start = len(tree.ids)
                tree._add(choice[:-1], len(prompt), rest)
                tree.scored[-1].append(
                    list(zip([last, *range(start, len(tree.ids))], choice, strict=True))
                )
        return tree

    def _add(self, tokens: list[int], position: int, parent: int) -> int:
        self.ids += tokens
        self.positions += range(position, position + len(tokens))
        self.owner += [len(self.parents)] * len(tokens)
        self.parents.append(parent)
        return len(self.parents) - 1

    def visible(self, device: torch.device) -> torch.Tensor:
        """Return which token (row) sees which (column): those before it in its segment and in the
        segments above.
        """
        above = torch.eye(len(self.parents), dtype=torch.bool)
        for segment, parent in enumerate(self.parents):
            if parent >= 0:
                above[segment] |= above[parent]
        owner = torch.tensor(self.owner, device=device)
        return above.to(device)[owner][:, owner].tril()
