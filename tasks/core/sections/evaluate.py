"""The section ``evaluate`` of ``params.yaml``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.core.sections.base import Batch, Count, GpuShare, Section, Seed, Tokens
from tasks.core.setting_paths import NOTHING


class Evaluate(Section):
    """Base and adapted model over the labelled evaluation set."""

    dataset: str = Field(
        description="a file of datasets/: task type, columns, label set and prompt templates"
    )
    items: str = Field(
        description=(
            "labelled items, JSONL, CSV or Parquet, with the dataset file's columns; "
            f"{NOTHING}: there are none, and the run has no F1"
        )
    )
    max_items: Count = Field(description="items to score, a seeded choice; 0: all")
    templates: Count = Field(description="prompt templates to use, in file order; 0: all")
    engine: Literal["vllm", "transformers"] = Field(
        description="engine of the extractive answers; transformers always scores ranked choices"
    )
    gpu_memory_utilization: GpuShare = 0.0
    max_new_tokens: Tokens = Field(description="tokens of an extractive answer")
    batch_rows: Batch = Field(description="prompts whose choices are ranked together")
    bootstrap: int = Field(ge=100, le=1_000_000, description="resamples of the 95 % intervals")
    prior_correction: bool = Field(
        True,
        description=(
            "classification: also report F1 with each template's prior preference for a choice "
            "removed"
        ),
    )
    calibration_rows: Count = Field(
        60,
        description=(
            "classification: claims of the corpus that the adapted model's preference for a choice "
            "is estimated on, to be divided out when it is used; 0: none"
        ),
    )
    calibrated_models: Literal["adapted", "all"] = Field(
        "adapted",
        description=(
            "models whose preference is estimated: the adapted one; all: the unadapted one and "
            "the start as well, each on the same claims, so that their figures compare"
        ),
    )
    seed: Seed = Field(description="decides which items max_items draws; also for the resamples")
