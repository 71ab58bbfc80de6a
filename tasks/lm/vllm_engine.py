"""vLLM as an engine. Only this module and :mod:`tasks.lm.nucleus` import vLLM."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch

from tasks.core.errors import PipelineError
from tasks.lm.engine import Completion, OnDone, Sampling
from tasks.lm.vllm_settings import set_vllm_environment


class VllmEngine:
    """vLLM in this process, without worker processes.

    Nothing outlives a kill, the memory is free when the engine is closed, and the scheduler sees
    all prompts of a call before it begins: the same call gives the same batches.
    """

    def __init__(self, folder: str, settings: dict[str, Any]) -> None:
        """``settings`` are those of :func:`vllm_settings`."""
        set_vllm_environment(torch.cuda.is_available())
        try:
            from vllm import LLM
        except ImportError as error:
            raise PipelineError(
                f"vLLM cannot be imported here ({error}): set engine: transformers in "
                "params.yaml, or run make setup"
            ) from error
        from tasks.lm.nucleus import Nucleus

        self._gpu = torch.cuda.is_available()
        processors = [] if self._gpu else [Nucleus]
        try:
            self._llm: Any = LLM(model=folder, logits_processors=processors, **settings)
        except (ValueError, torch.OutOfMemoryError) as error:
            # A model of a kind that vLLM lacks, or no room for keys and values beside the weights.
            raise PipelineError(
                f"vLLM cannot start on {folder} ({' '.join(str(error).split())[:400]}): set "
                "engine: transformers in params.yaml, or take a larger card or another model"
            ) from error

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        on_done: OnDone | None = None,
    ) -> list[Completion]:
        """See :meth:`Engine.generate`.

        The prefix cache is emptied first: earlier prompts must not change low bits of this call.
        """
        from vllm import SamplingParams, TokensPrompt

        from tasks.lm.nucleus import TOP_P

        top_p = {"top_p": sampling.top_p} if self._gpu else {"extra_args": {TOP_P: sampling.top_p}}
        self._llm.reset_prefix_cache()
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts],
            [
                SamplingParams(
                    temperature=sampling.temperature,
                    max_tokens=sampling.max_tokens,
                    logprobs=0 if sampling.logprobs else None,  # of the sampled token alone
                    seed=seed,
                    **top_p,
                )
                for seed in seeds
            ],
            use_tqdm=_counter(on_done) if on_done else False,
        )
        return [_completion(output.outputs[0]) for output in outputs]

    def close(self) -> None:
        """See :meth:`Engine.close`."""
        if self._llm is None:
            return
        engine = self._llm.llm_engine
        # A hook of torch.compile holds the compiled model until this runs.
        if unhook := getattr(engine, "_finalizer", None):
            unhook()
        # vLLM hides what it made at its start from the garbage collector; its own shutdown undoes
        # that.
        engine.engine_core.shutdown()
        self._llm = engine = None
        if self._gpu:
            forget_graph_pool()


def forget_graph_pool() -> None:
    """Let the next engine of this process capture its CUDA graphs in a pool of its own.

    vLLM keeps one for the process. That pool ends with the first engine's graphs, and torch refuses
    to capture into it again.
    """
    from vllm.platforms import current_platform

    type(current_platform)._global_graph_pool = None


def _completion(output: Any) -> Completion:
    ids = list(output.token_ids)
    found = zip(ids, output.logprobs or [], strict=False)
    scored = tuple((token, chances[token].logprob) for token, chances in found)
    return Completion(output.text, len(ids), output.finish_reason == "stop", scored)


def _counter(on_done: OnDone) -> type[Any]:
    """Return a progress bar for vLLM that draws nothing and calls ``on_done``.

    With it, vLLM still gets all prompts in one call.
    """
    from tqdm import tqdm

    class Counter(tqdm):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            # A disabled bar has no elapsed time, by which vLLM divides.
            super().__init__(*arguments, **{**options, "disable": False, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            on_done(int(n or 0))
            return super().update(n)

    return Counter
