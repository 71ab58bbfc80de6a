"""The section ``verify`` of ``params.yaml``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.core.sections.base import (
    Count,
    Fraction,
    GpuShare,
    Positive,
    Section,
    Seed,
    Tokens,
    Workers,
)
from tasks.core.sections.finetune import Finetune
from tasks.core.setting_paths import NOTHING

#: A ``verify.reader`` that is no model: two are trained on the rows.
CROSS_FIT = "cross-fit"
#: A ``verify.reader`` that is none: rows pass as validate left them.
NO_READER = "none"


class Verify(Section):
    """A reader answers again what the generator was surest of; rows that it disagrees with are not
    kept.
    """

    reader: str = Field(
        description=(
            "model or adapter folder that answers, or a hub name; cross-fit: two readers, each "
            "trained on one half's rows for the other's; none: rows pass as validate left them"
        )
    )
    fit: Finetune | None = Field(
        None, description="cross-fit: how its readers are trained, a section as finetune"
    )
    revision: str = Field("main", description="revision of a hub model")
    address: str = Field(
        "",
        description=(
            "OpenAI-compatible address that serves the reader, such as http://127.0.0.1:8000/v1; "
            "labels are then asked for as text"
        ),
    )
    engine: Literal["vllm", "transformers"] = Field(
        "vllm", description="vllm, or transformers where vLLM cannot run"
    )
    gpu_memory_utilization: GpuShare = 0.0
    answers: int = Field(
        ge=1, le=1000, description="answers that the reader samples to each instruction"
    )
    temperature: float = Field(
        0.7, ge=0.0, le=2.0, description="sampling temperature of the reader's answers"
    )
    max_tokens: Tokens = Field(32, description="tokens of an answer")
    min_agreement: Fraction = Field(
        description=(
            "smallest share of the answers that agree with the row's response (token F1 of at "
            "least 0.5), and of those that are the same, also in their numbers, where adopt takes "
            "theirs. A label agrees where it is the reader's likeliest; adopt asks this "
            "probability of another"
        )
    )
    min_grounding: Fraction = Field(
        description=(
            "extraction: smallest share of the question's words in the sentence, or the table's "
            "row, that holds the answer; 0: not asked"
        ),
    )
    adopt: bool = Field(
        description=(
            "a row whose response the answers agree against takes their answer, where they agree "
            "with each other"
        ),
    )
    repair: Literal["none", "span", "answer"] = Field(
        "none",
        description=(
            "rows that validate dropped only because of their response. span: a response that is "
            "almost a span of the passage is replaced by that span, and judged; answer: the other "
            "ones, too, take the reader's answer where its answers agree; none: they stay dropped"
        ),
    )
    confident_share: float = Field(
        gt=0.0,
        le=1.0,
        description=(
            "share of each type's rows to ask the reader: those that the generator was surest of, "
            "by the log-probability of its tokens; the others are not kept; 1: all, and so without "
            "a reader"
        ),
    )
    keep_per_passage: Count = Field(
        0,
        description=(
            "best rows to keep of each passage and task type, by agreement and confidence; 0: all"
        ),
    )
    tests: str = Field(
        NOTHING,
        description=(
            "rows of people that test the reader (a remix's heldout.parquet); without them it is "
            "tested on claims and questions that rules make from the passages"
        ),
    )
    reviews: str = Field(
        NOTHING,
        description="verdicts of people on rows, JSON Lines: docs/review.md",
    )
    exclude_wrong: bool = Field(
        description="do not train on a row that a review found wrong (wrong_by_review)"
    )
    test_rows: Positive = Field(120, description="rows that test the reader in each task type")
    shard_rows: Positive = Field(
        256, description="rows that are asked and stored together: the unit of resuming"
    )
    workers: Workers = Field(
        0,
        description="Ray workers, each with the reader; 0: this process. On a CPU the rows do not "
        "depend on it",
    )
    ray_address: str = Field("", description="Ray cluster of the workers, as generate.ray_address")
    seed: Seed = Field(description="for the reader's sampled answers, and for drawing its tests")
