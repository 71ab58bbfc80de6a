"""Inference engines: prompts (token ids) in, completions out.

vLLM (:mod:`tasks.lm.vllm_engine`), or transformers (:mod:`tasks.lm.transformers_engine`) where vLLM
cannot run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from tasks.core.errors import PipelineError
from tasks.lm.loading import need_card
from tasks.lm.models import resolve
from tasks.lm.precision import explain_float32
from tasks.lm.vllm_settings import need_share, vllm_settings

log = logging.getLogger(__name__)

#: Called with the number of prompts that were completed since the last call.
OnDone = Callable[[int], None]


@dataclass(frozen=True)
class Sampling:
    """How to sample; temperature 0 is greedy. Seeds are given with the prompts.

    ``logprobs`` asks for the tokens with their log-probabilities at temperature 1.
    """

    temperature: float
    top_p: float
    max_tokens: int
    logprobs: bool = False


@dataclass(frozen=True)
class Completion:
    """``text`` without special tokens; ``finished`` is False where the token budget cut it off.

    ``scored`` are the token ids, end mark included, with their log-probabilities (nats) where
    :class:`Sampling` asks for them and the engine can tell.
    """

    text: str
    tokens: int
    finished: bool
    scored: tuple[tuple[int, float], ...] = ()


class Engine(Protocol):
    """What generate and evaluate need of an inference engine."""

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        on_done: OnDone | None = None,
    ) -> list[Completion]:
        """Complete every prompt, in order, and call ``on_done`` with how many more are complete.

        The same call on the same machine gives the same completions.
        """
        ...

    def close(self) -> None:
        """Let go of the weights; :func:`tasks.lm.memory.free` calls this."""
        ...


def open_engine(
    kind: str,
    folder: Path | str,
    precision: str = "auto",
    max_length: int = 4096,
    gpu_memory_utilization: float = 0.0,
) -> Engine:
    """Start an engine on the folder of a plain checkpoint; merge an adapter first
    (:mod:`tasks.lm.merged`).

    ``gpu_memory_utilization`` is the share of the GPU's memory that vLLM takes, 0 its default.
    """
    _need_kind(kind, precision, gpu_memory_utilization)
    name = "the model" if kind == "transformers" else "vLLM"
    log.info("starting %s%s", name, explain_float32(precision))
    if kind == "transformers":
        # Its import takes a second, which vLLM's users save.
        from tasks.lm.transformers_engine import TransformersEngine

        return TransformersEngine(str(folder), precision)
    from tasks.lm.vllm_engine import VllmEngine

    settings = vllm_settings(precision, max_length, gpu_memory_utilization)
    return VllmEngine(str(folder), settings)


def need_engine(
    kind: str,
    name: str,
    revision: str = "main",
    precision: str = "auto",
    gpu_memory_utilization: float = 0.0,
) -> None:
    """Refuse what :func:`open_engine` would refuse of a model or adapter, before its weights are
    downloaded or merged.
    """
    _need_kind(kind, precision, gpu_memory_utilization)
    if kind == "transformers":
        model = resolve(name, revision)
        need_card(model.base, model.revision, "none", precision)


def _need_kind(kind: str, precision: str, share: float) -> None:
    if precision == "fp8" and (kind == "transformers" or not torch.cuda.is_available()):
        raise PipelineError(
            "precision fp8 needs vLLM and an NVIDIA GPU: set it to auto in params.yaml"
        )
    if kind != "transformers":
        need_share(share)
