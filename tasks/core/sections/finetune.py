"""The section ``finetune`` of ``params.yaml``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from tasks.core.sections.base import (
    Batch,
    Count,
    Fraction,
    Positive,
    Precision,
    Section,
    Seed,
    Tokens,
)
from tasks.core.setting_paths import NOTHING

#: The value of finetune.start that names the last champion, and the folder that it is written to.
CHAMPION = "champion"


class Finetune(Section):
    """Q-LoRA of the target model."""

    model: str = Field(
        description="target model: embedded:smollm2-135m-instruct, a path, or a hub name"
    )
    revision: str = Field("main", description="revision of a hub model")
    start: str = Field(
        NOTHING,
        description=(
            f"adapter folder to start from, which is also scored alone; {NOTHING}: a new "
            "adapter; champion: the last champion of this model, with new rows and some old ones"
        ),
    )
    restart: str = Field(
        NOTHING,
        description=(
            "where start is champion: the adapter folder to begin again from, when too much has "
            f"changed; {NOTHING}: a new adapter"
        ),
    )
    restart_share: Fraction = Field(
        0.2,
        description=(
            "where start is champion: share of passages, new or gone, above which training "
            "begins again from restart; 0: at every change"
        ),
    )
    replay_share: float = Field(
        0.5,
        ge=0.0,
        lt=1.0,
        description="where start is champion: share of old rows among those that are trained on",
    )
    prompt: Literal["auto", "bonito", "chat"] = Field(
        description="auto: the chat template if the model has one, else <|input|>/<|output|>"
    )
    quantization: Literal["nf4", "none"] = Field(
        description="nf4 with double quantisation, or none (LoRA on unquantised weights)"
    )
    resident: Literal["nf4", "dequantized"] = Field(
        "nf4",
        description=(
            "4-bit weights in memory: nf4, dequantised at every pass; dequantized, once, to "
            "the same values: faster, 4 times the memory"
        ),
    )
    precision: Precision = Field(
        "auto",
        description="number format of the model; auto: bfloat16 if the machine can, else float32",
    )
    lora_rank: int = Field(ge=1, le=4096, description="rank of the adapter's matrices")
    lora_alpha: int = Field(
        ge=1, le=100_000, description="the adapter's change is scaled by alpha / rank"
    )
    lora_dropout: Fraction = Field(description="share of the adapter's inputs left out in training")
    learning_rate: float = Field(gt=0.0, le=10.0, description="highest learning rate of AdamW")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="how the learning rate falls after the warm-up"
    )
    warmup_steps: Count = Field(0, description="steps in which the learning rate rises")
    max_grad_norm: float = Field(
        gt=0.0, le=10**6, description="longer gradients are cut to this norm"
    )
    batch_rows: Batch = Field(description="rows per optimiser step (effective batch)")
    micro_batch_rows: Batch = Field(description="rows per forward pass; must divide batch_rows")
    epochs: float = Field(gt=0.0, le=10_000.0, description="passes over the rows")
    max_steps: Count = Field(description="most steps; 0: those of the epochs")
    max_tokens: int = Field(
        0,
        ge=0,
        le=10**11,
        description=(
            "tokens of prompts and responses to train on, in as many epochs as needed; 0: "
            "those of the epochs"
        ),
    )
    max_prompt_tokens: Tokens = Field(
        description="the middle of a longer prompt is cut out; with the answer, the row is left out"
    )
    max_response_tokens: Tokens = Field(description="a row with a longer response is left out")
    checkpoint_steps: Positive = Field(
        description="steps between checkpoints: the most that a kill loses"
    )
    checkpoints_gb: float = Field(
        1.0,
        gt=0.0,
        le=10**6,
        description=(
            "GB of earlier trainings' checkpoints that stay in .work; the last one of an "
            "unfinished training stays always"
        ),
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations twice, to hold fewer in memory"
    )
    processes: int = Field(
        1,
        ge=1,
        le=1024,
        description=(
            "GPUs that train together, each with a copy of the model; without a GPU, CPU processes"
        ),
    )
    seed: Seed = Field(description="for the order of the rows, and for new adapter weights")

    @field_validator("micro_batch_rows")
    @classmethod
    def _divides(cls, rows: int, others: ValidationInfo) -> int:
        """Checked here, it cannot stop the run after hours of generation."""
        whole = others.data.get("batch_rows", rows)
        if whole % rows:
            raise ValueError(f"must divide finetune.batch_rows = {whole}")
        return rows

    @field_validator("processes")
    @classmethod
    def _share(cls, processes: int, others: ValidationInfo) -> int:
        """Each process takes its own micro batches of every batch."""
        rows, whole = (others.data.get(name) for name in ("micro_batch_rows", "batch_rows"))
        if rows and whole and whole % (rows * processes):
            raise ValueError(
                f"times micro_batch_rows = {rows} must divide finetune.batch_rows = {whole}"
            )
        return processes
