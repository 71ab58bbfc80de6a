"""Top-p without a sort: the tokens that vLLM's own keeps, and the same draws."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def nucleus() -> ModuleType:
    """``tasks.lm.nucleus``, which imports vLLM: six seconds, which collecting the tests saves."""
    pytest.importorskip("vllm", reason="vLLM has no build for this platform")
    from tasks.lm import nucleus

    return nucleus


def _kept(logits: torch.Tensor) -> torch.Tensor:
    return logits > -torch.inf


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_it_keeps_what_vllm_keeps(nucleus: ModuleType, spread: float) -> None:
    """Where few tokens make up the share that is kept, and where it takes more than 64."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    logits = torch.randn(8, 3000, generator=torch.manual_seed(1)) * spread
    shares = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99])
    ours = nucleus.keep_nucleus(logits.clone(), shares.unsqueeze(1))
    theirs = apply_top_k_top_p_pytorch(logits.clone(), None, shares)
    assert torch.equal(_kept(ours), _kept(theirs))
    assert torch.equal(ours[_kept(ours)], logits[_kept(ours)])


def test_tokens_as_likely_as_the_last_one_stay(nucleus: ModuleType) -> None:
    """Which of two equal ones goes would depend on a sort."""
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, -5.0]])
    assert _kept(nucleus.keep_nucleus(logits, torch.tensor([[0.6]]))).tolist() == [
        [True] * 4 + [False]
    ]


def test_a_request_keeps_its_share_when_its_place_changes(nucleus: ModuleType) -> None:
    shares = enumerate((0.5, 0.5, 1))
    added: list[Any] = [
        (place, SimpleNamespace(extra_args={nucleus.TOP_P: share}), None, [])
        for place, share in shares
    ]
    update = SimpleNamespace(batch_size=2, removed=[1], added=added, moved=[])
    processor = nucleus.Nucleus(None, torch.device("cpu"), False)
    even = torch.zeros(3, 10)
    assert torch.equal(processor.apply(even.clone()), even)
    processor.update_state(update)  # type: ignore[arg-type]
    assert processor._shares == {0: 0.5}
    processor.update_state(None)
    first, *others = processor.apply(torch.tensor([[9.0, 0.0, 0.0]] * 3))
    assert first.tolist() == [9.0, -torch.inf, -torch.inf]
    assert all(torch.equal(row, torch.tensor([9.0, 0.0, 0.0])) for row in others)
