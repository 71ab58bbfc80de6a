"""Top-p sampling on the CPU for vLLM, whose own sorts the whole vocabulary for every token.

For a model of 135M parameters that sort takes longer than the model itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

if TYPE_CHECKING:
    from vllm.v1.sample.logits_processor import BatchUpdate

#: The argument of a request (``SamplingParams.extra_args``) that holds its top-p.
TOP_P = "top_p"
#: Likeliest tokens that are looked at first; nearly always they hold the share that is kept.
_FIRST = 64


class Nucleus(LogitsProcessor):
    """Keeps the tokens of each request that top-p keeps, those as likely as the last one too."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Called by vLLM."""
        self._shares: dict[int, float] = {}

    def is_argmax_invariant(self) -> bool:
        """The likeliest token always stays."""
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests to their places in the batch."""
        process_dict_updates(self._shares, batch_update, _share_of)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return ``logits`` (requests x vocabulary), changed in place."""
        if not self._shares:
            return logits
        shares = [self._shares.get(place, torch.inf) for place in range(len(logits))]
        return keep_nucleus(logits, torch.tensor(shares).unsqueeze(1))


def _share_of(params: Any, *_: Any) -> float | None:
    """Return a request's top-p; None where all tokens stay."""
    share = (params.extra_args or {}).get(TOP_P, 1.0)
    return share if share < 1 else None


def keep_nucleus(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Set logits outside the likeliest tokens that hold ``shares`` of the probability to -inf.

    ``logits`` (rows x vocabulary, float32) are changed in place; ``shares`` is rows x 1.
    """
    total = logits.logsumexp(dim=1, keepdim=True)
    first = logits.topk(min(_FIRST, logits.shape[1]), dim=1).values
    least, found = _find_least(first, total, shares)
    if not found.all():
        wide = ~found.squeeze(1)
        everything = logits[wide].sort(dim=1, descending=True).values
        least[wide], _ = _find_least(everything, total[wide], shares[wide])
    return logits.masked_fill_(logits < least, -torch.inf)


def _find_least(
    ordered: torch.Tensor, total: torch.Tensor, shares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least logit to keep, and whether the ``ordered`` ones hold the share.

    A token stays while those before it hold less than the share.
    """
    held = (ordered - total).exp().cumsum(dim=1)
    count = (held < shares).sum(dim=1, keepdim=True)
    last = ordered.shape[1] - 1
    return ordered.gather(1, count.clamp(max=last)), count <= last
