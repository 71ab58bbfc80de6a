"""How vLLM runs here: its arguments, its environment, and the command line of its server."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch

from tasks.lm.memory import need_free
from tasks.lm.precision import dtype_name

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
#: Variables whose values are needed for the reasons given here: the environment's are overridden.
_FORCED = frozenset(
    {
        # The same tokens again, and nothing that outlives a kill.
        "VLLM_ENABLE_V1_MULTIPROCESSING",
        # A start without a CUDA toolkit: 1 compiles the sampler, or ends the run where it cannot.
        "VLLM_USE_FLASHINFER_SAMPLER",
        # A start without a C++ compiler; and compiled code sums log-probabilities in another order.
        "TORCHDYNAMO_DISABLE",
        # The same rows: binding changes the number of threads, also after the engine is closed.
        "VLLM_CPU_OMP_THREADS_BIND",
    }
)


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
        "dtype": dtype_name(precision),
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
        **_gpu_options(gpu_memory_utilization),
    }


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
    set_vllm_environment(gpu)
    shared = _FORMATS | _gpu_options(gpu_memory_utilization)
    options: dict[str, object] = {
        "model": weights,
        "host": host,
        "port": port,
        "dtype": dtype_name(precision),
        "max-model-len": max_length,
        "served-model-name": name,
        **{option.replace("_", "-"): value for option, value in shared.items()},
    }
    flags = []
    if not gpu:
        options |= {"max-num-seqs": 16, "max-num-batched-tokens": max(8192, max_length)}
        flags += ["--enforce-eager", "--no-enable-chunked-prefill"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags]
    for option, value in options.items():
        command += [f"--{option}", str(value)]
    return command, {"VLLM_LOGGING_LEVEL": "WARNING"}


def need_share(share: float) -> None:
    """Refuse to start vLLM where something else has the memory that it takes of a GPU."""
    if torch.cuda.is_available():
        share = share or _VLLM_SHARE
        total = torch.cuda.mem_get_info()[1]
        remedy = "set a smaller share (GPU_MEMORY for make serve)"
        need_free(f"vLLM with gpu_memory_utilization {share:g}", share * total, remedy)


def _gpu_options(share: float) -> dict[str, Any]:
    """Return vLLM's arguments for its share of a GPU's memory and for its attention kernels; none
    where its own choice will do, or without a GPU.

    On data centre cards of the Blackwell kind (B200) its choice is FlashInfer's kernels, which a
    CUDA toolkit compiles at the first start, or which come from NVIDIA's server then. Its second
    choice there is in the package.
    """
    options: dict[str, Any] = {}
    if torch.cuda.is_available():
        if share:
            options["gpu_memory_utilization"] = share
        if torch.cuda.get_device_capability()[0] == _BLACKWELL:
            options["attention_backend"] = "FLASH_ATTN"
    return options


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


def set_vllm_environment(gpu: bool) -> None:
    """Set :func:`vllm_environment` for this process; what it overrides is logged."""
    for name, value in vllm_environment(gpu).items():
        given = os.environ.setdefault(name, value)
        if name in _FORCED and given != value:
            log.warning(
                "%s=%s of the environment is overridden: it has to be %s", name, given, value
            )
            os.environ[name] = value
