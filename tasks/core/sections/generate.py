"""The section ``generate`` of ``params.yaml``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from tasks.core.errors import PipelineError
from tasks.core.sections.base import (
    Count,
    GpuShare,
    Positive,
    Precision,
    Section,
    Seed,
    Tokens,
    TypeName,
    Workers,
)
from tasks.core.task_types import task_type


class Generate(Section):
    """Bonito over passages x task types."""

    generator: str = Field(
        description="adapter folder or model (path or hub name) that was trained as Bonito"
    )
    revision: str = Field("main", description="revision of a hub model")
    address: str = Field(
        "",
        description=(
            "supervise.source prompted: OpenAI-compatible address that serves the generator, "
            "such as http://127.0.0.1:8000/v1"
        ),
    )
    task_types: tuple[TypeName, ...] = Field(
        min_length=1, description="short or full names, see docs/datasets.md"
    )
    samples: int = Field(ge=1, le=1000, description="tasks to write for each passage and task type")
    max_passages: Count = Field(description="passages to use, a seeded choice; 0: all")
    engine: Literal["vllm", "transformers"] = Field(
        description="vllm, or transformers where vLLM cannot run"
    )
    precision: Literal[Precision, "fp8"] = Field(
        "auto",
        description="of the weights; fp8: vLLM rounds them as it loads them, on a GPU",
    )
    gpu_memory_utilization: GpuShare = 0.0
    temperature: float = Field(
        ge=0.0, le=2.0, description="sampling temperature; 0: always the likeliest token"
    )
    top_p: float = Field(
        gt=0.0, le=1.0, description="sample among the likeliest tokens that have this probability"
    )
    max_tokens: Tokens = Field(description="most tokens of a task; longer ones are cut off")
    retries: int = Field(
        0,
        ge=0,
        le=2,
        description=(
            "times that a task is sampled again whose response is cut off, missing, the passage "
            "itself or, in extraction, not in the passage or already in the question"
        ),
    )
    shard_rows: Positive = Field(
        description=(
            "most rows of one file that are generated and stored together: the unit of resuming, "
            "and of what a changed corpus generates again"
        )
    )
    workers: Workers = Field(
        0,
        description=(
            "Ray workers, each with the generator and, if there are GPUs, a GPU; 0: this "
            "process. On a CPU the rows do not depend on it"
        ),
    )
    ray_address: str = Field(
        "",
        description=(
            "Ray cluster of the workers, such as auto or 10.0.0.5:6379; empty: one on this "
            "machine that ends with the stage"
        ),
    )
    seed: Seed = Field(description="each row's own random seed is made from it")

    @field_validator("task_types", mode="before")
    @classmethod
    def _known(cls, names: Any) -> tuple[str, ...]:
        if not isinstance(names, tuple):
            raise ValueError("must be a list, such as [exqa]")
        try:
            types = tuple(task_type(str(name)) for name in names)
        except PipelineError as error:
            raise ValueError(str(error)) from error
        if len({*types}) < len(types):
            raise ValueError(f"names a type twice: {', '.join(map(str, names))}")
        return types
