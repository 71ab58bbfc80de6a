"""Inference engines: prompts (token ids) in, completions out.

vLLM, or transformers (:mod:`tasks.lm.transformers_engine`) where vLLM cannot run. Only this module
and :mod:`tasks.lm.nucleus` import vLLM.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from tasks.core.errors import PipelineError
from tasks.lm.loading import need_card
from tasks.lm.memory import need_free
from tasks.lm.models import resolve
from tasks.lm.precision import dtype, explain_float32

log = logging.getLogger(__name__)

#: Tokens of a block of the key-value cache on the CPU. Prompts that begin alike share whole blocks,
#: and vLLM's default of 128 tokens is most of a prompt.
_CPU_BLOCK = 32
#: vLLM's own default of gpu_memory_utilization.
_VLLM_SHARE = 0.92
#: Compute capability of Blackwell's data centre cards.
_BLACKWELL = 10
#: vLLM reads the files that transformers reads. Beside a consolidated.safetensors it would take
#: configuration and tokenizer from Mistral's own files, which can say something else.
_FORMATS = {"load_format": "safetensors", "config_format": "hf", "tokenizer_mode": "hf"}
#: Variables whose values a run's promises rest on: what the environment has is overridden.
_FORCED = frozenset(
    {
        # The same tokens again, and nothing that outlives a kill.
        "VLLM_ENABLE_V1_MULTIPROCESSING",
        # A start without a CUDA toolkit: 1 compiles the sampler, or ends the run where it cannot.
        "VLLM_USE_FLASHINFER_SAMPLER",
        # A start without a C++ compiler; and compiled code sums log-probabilities in another order.
        "TORCHDYNAMO_DISABLE",
        # The same rows: bound threads are others in number, and stay so when the engine is closed.
        "VLLM_CPU_OMP_THREADS_BIND",
    }
)
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
    model: Path | str,
    revision: str = "main",
    precision: str = "auto",
    max_length: int = 4096,
    gpu_memory_utilization: float = 0.0,
) -> Engine:
    """Start an engine on a plain checkpoint; merge an adapter first (:mod:`tasks.lm.merged`).

    ``gpu_memory_utilization`` is the share of the GPU's memory that vLLM takes, 0 its default.
    """
    _need_kind(kind, precision, gpu_memory_utilization)
    name = "the model" if kind == "transformers" else "vLLM"
    log.info("starting %s%s", name, explain_float32(precision))
    if kind == "transformers":
        # Its import takes a second, which vLLM's users save.
        from tasks.lm.transformers_engine import TransformersEngine

        return TransformersEngine(str(model), revision, precision)
    settings = vllm_settings(precision, max_length, gpu_memory_utilization)
    return VllmEngine(str(model), revision, settings)


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


def serve_command(
    weights: Path,
    name: str,
    host: str,
    port: int,
    max_length: int,
    precision: str,
    gpu_memory_utilization: float = 0.0,
) -> tuple[list[str], dict[str, str]]:
    """Return the command line of vLLM's OpenAI-compatible server, and its environment."""
    gpu = torch.cuda.is_available()
    need_share(gpu_memory_utilization)
    _set_environment(gpu)
    options: dict[str, object] = {
        "model": weights,
        "host": host,
        "port": port,
        "dtype": str(dtype(precision)).removeprefix("torch."),
        "max-model-len": max_length,
        "served-model-name": name,
        **{option.replace("_", "-"): value for option, value in _FORMATS.items()},
    }
    on_gpu = memory_share(gpu, gpu_memory_utilization) | attention(gpu)
    options |= {option.replace("_", "-"): value for option, value in on_gpu.items()}
    flags = []
    if not gpu:
        options |= {"max-num-seqs": 16, "max-num-batched-tokens": max(8192, max_length)}
        flags += ["--enforce-eager", "--no-enable-chunked-prefill"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags]
    for option, value in options.items():
        command += [f"--{option}", str(value)]
    return command, {"VLLM_LOGGING_LEVEL": "WARNING"}


class VllmEngine:
    """vLLM in this process, without worker processes.

    Nothing outlives a kill, the memory is free when the engine is closed, and the scheduler sees
    all prompts of a call before it begins: the same call gives the same batches.
    """

    def __init__(self, model: str, revision: str, settings: dict[str, Any]) -> None:
        """``settings`` are those of :func:`vllm_settings`."""
        _set_environment(torch.cuda.is_available())
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
        self._llm: Any = LLM(
            model=model, revision=revision, logits_processors=processors, **settings
        )

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
        # The compiled model hangs on a hook of torch.compile until this runs.
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

    vLLM keeps one for the process. With the first engine's graphs that pool ends, and torch refuses
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


def vllm_settings(
    precision: str, max_length: int, gpu_memory_utilization: float = 0.0
) -> dict[str, Any]:
    """Return the arguments of vLLM's ``LLM`` on this machine, for ``max_length`` tokens."""
    gpu = torch.cuda.is_available()
    # No chunks: vLLM 0.32 on the CPU fails on a seeded request whose prompt is cut into them ("CPU
    # Generator does not use offset").
    on_cpu = {
        "block_size": _CPU_BLOCK,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(8192, max_length),
    }
    return {
        "dtype": str(dtype(precision)).removeprefix("torch."),
        "max_model_len": max_length,
        "enforce_eager": not gpu,
        "seed": 0,
        "quantization": "fp8" if precision == "fp8" else None,
        # The time until the last row counts, not the time until the first.
        "performance_mode": "throughput",
        **_FORMATS,
        "trust_remote_code": False,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "max_num_seqs": 256 if gpu else 64,
        **({} if gpu else on_cpu),
        **memory_share(gpu, gpu_memory_utilization),
        **attention(gpu),
    }


def need_share(share: float) -> None:
    """Refuse to start vLLM where something else has the memory that it takes of a GPU."""
    if torch.cuda.is_available():
        share = share or _VLLM_SHARE
        total = torch.cuda.mem_get_info()[1]
        remedy = "set a smaller share (GPU_MEMORY for make serve)"
        need_free(f"vLLM with gpu_memory_utilization {share:g}", share * total, remedy)


def memory_share(gpu: bool, share: float) -> dict[str, float]:
    """Return vLLM's argument for its share of the GPU's memory; none for its default or a CPU."""
    return {"gpu_memory_utilization": share} if gpu and share else {}


def attention(gpu: bool) -> dict[str, str]:
    """Return vLLM's argument for its attention kernels; none where its own choice will do.

    On data centre cards of the Blackwell kind (B200) that is FlashInfer's, which a CUDA toolkit
    compiles at the first start, or which come from NVIDIA's server then. Its second choice there is
    in the package.
    """
    blackwell = gpu and torch.cuda.get_device_capability()[0] == _BLACKWELL
    return {"attention_backend": "FLASH_ATTN"} if blackwell else {}


def vllm_environment(gpu: bool) -> dict[str, str]:
    """Return the environment variables vLLM runs under in our processes.

    A user's own values of what vLLM logs and of its memory on a CPU stay. A small memory computes
    fewer rows together, so their last digits can differ.
    """
    everywhere = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CONFIGURE_LOGGING": "1",
        # In this process, on a GPU too: vLLM promises the same tokens again only so.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    # FlashInfer's sampler is compiled at the first start, with a CUDA toolkit that few machines
    # have. It takes no rows with seeds, and ours all have one.
    cuda = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
    cpu = {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # vLLM compiles how log-probabilities are ranked, which needs a C++ compiler.
        "TORCHDYNAMO_DISABLE": "1",
    }
    return everywhere | (cuda if gpu else cpu)


def _set_environment(gpu: bool) -> None:
    for name, value in vllm_environment(gpu).items():
        given = os.environ.setdefault(name, value)
        if name in _FORCED and given != value:
            log.warning(
                "%s=%s of the environment is overridden: it has to be %s", name, given, value
            )
            os.environ[name] = value
