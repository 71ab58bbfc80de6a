"""``bonito/params.yaml``: how the generator itself is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from tasks.core.errors import PipelineError
from tasks.core.sections.base import (
    Batch,
    Count,
    Fraction,
    Positive,
    Precision,
    Section,
    Seed,
    Tokens,
    Workers,
)
from tasks.core.sections.finetune import Finetune
from tasks.core.task_types import task_type


def short_types(names: Iterable[str]) -> tuple[str, ...]:
    """Return task types by their short names. One that is unknown or named twice is a ValueError:
    under both of its names, too.
    """
    try:
        short = tuple(task_type(name) for name in names)
    except PipelineError as error:
        raise ValueError(str(error)) from error
    _refuse_twice(short)
    return short


def short_groups(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of the form task type or task type/dataset with the type's short name."""
    parts = [name.partition("/") for name in names]
    short = tuple(short_types([kind])[0] + slash + dataset for kind, slash, dataset in parts)
    _refuse_twice(short)
    return short


def _refuse_twice(short: tuple[str, ...]) -> None:
    twice = sorted(name for name, count in Counter(short).items() if count > 1)
    if twice:
        raise ValueError(f"names a type twice: {', '.join(twice)}")


class Remix(Section):
    """Annotated datasets into Bonito's training rows."""

    datasets: tuple[str, ...] = Field(
        min_length=1,
        description="files with each dataset's passage and licence; a later file wins",
    )
    task_types: tuple[str, ...] = Field(
        min_length=1, description="tables with each template's task type; a later file wins"
    )
    max_rows_per_dataset: Count = Field(
        100_000,
        description="rows drawn from a dataset configuration, by hash; 0: all (the paper: 100,000)",
    )
    weights: dict[str, Annotated[float, Field(ge=0.0, le=10**6)]] = Field(
        default_factory=dict,
        description="task type -> weight of its templates in a row's draw; default 1, 0: never",
    )
    caps: dict[str, Count] = Field(
        default_factory=dict, description="task type -> most rows kept, drawn by hash"
    )
    max_context_chars: Count = Field(0, description="longer passages are dropped; 0: no limit")
    max_response_chars: Count = Field(0, description="longer responses are dropped; 0: no limit")
    held_out: Fraction = Field(
        0.0, description="share of the passages whose rows go to heldout.parquet"
    )
    unusable_templates: Literal["stop", "skip"] = Field(
        "stop",
        description="what to do about a template that fails: stop and name it, or skip it",
    )
    trial_rows: Positive = Field(
        20, description="rows on which a dataset's templates are tried before its remix"
    )
    render_seconds: float = Field(
        2.0, gt=0.0, le=10**6, description="most CPU seconds for a row in a template"
    )
    render_megabytes: int = Field(
        512, ge=1, le=10**7, description="most memory for a row in a template"
    )
    workers: Workers = Field(
        0,
        description="processes that render; 0: one for each core. The result is the same",
    )
    seed: Seed

    @field_validator("weights", "caps")
    @classmethod
    def _by_task_type(cls, values: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(short_types(values), values.values(), strict=True))


class Mixture(Section):
    """Which remixed rows are drawn, see :func:`bonito.finetune.stage.draw_mixture`."""

    mixture: dict[str, Count] = Field(
        default_factory=dict,
        description="rows by task type or task type/dataset, drawn by hash; empty: all (the paper)",
    )
    balance: tuple[str, ...] = Field(
        (), description="task types whose rows are drawn in turns over their responses"
    )
    max_context_chars: Count = Field(
        0, description="rows with longer passages are left out; 0: no limit"
    )
    seed: Seed = Field(
        description="decides which rows are drawn, and their order; also for new adapter weights"
    )

    @field_validator("mixture")
    @classmethod
    def _known(cls, values: dict[str, int]) -> dict[str, int]:
        return dict(zip(short_groups(values), values.values(), strict=True))

    @field_validator("balance")
    @classmethod
    def _balanced(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return short_types(values)


class GeneratorFinetune(Mixture, Finetune):
    """The generator's training: the target models' settings, and the mixture of rows."""

    start: str = Field("", description="adapter folder to continue from; empty: a fresh adapter")


class GeneratorEvaluate(Section):
    """Evaluation of the generator on passages it was not trained on."""

    generator: str = Field(
        "",
        description="adapter folder, model folder or hub name; --generator overrides it",
    )
    revision: str = Field("main", description="revision of a hub model")
    rows_per_type: Positive = Field(
        16, description="held-out passages for each task type, drawn by hash"
    )
    max_context_chars: Count = Field(8000, description="longer passages are not drawn; 0: no limit")
    engine: Literal["vllm", "transformers"] = Field(
        "vllm", description="vllm, or transformers where vLLM cannot run"
    )
    precision: Precision = "auto"
    gpu_memory_utilization: Fraction = Field(
        0.0,
        description=(
            "share of a GPU's memory that vLLM takes, less where something else needs some; 0: "
            "vLLM's own default"
        ),
    )
    temperature: float = Field(0.5, ge=0.0, le=2.0)
    top_p: float = Field(0.95, gt=0.0, le=1.0)
    max_tokens: Tokens = 256
    judge: str = Field(
        "embedded:smollm2-135m-instruct",
        description="second model that answers the tasks; empty: none",
    )
    judge_revision: str = "main"
    judge_tokens: Tokens = Field(
        32, description="tokens of the judge's answer to an extractive question"
    )
    batch_rows: Batch = Field(
        8, description="rows in a forward pass of the held-out loss and the judge's ranking"
    )
    max_instruction_chars: Positive = Field(10000, description="as in stage validate")
    max_response_chars: Positive = Field(4000, description="as in stage validate")
    experiment: str = Field("bonito-generator", description="MLflow experiment")
    seed: Seed = 1


class GeneratorParams(Section):
    """The whole file."""

    remix: Remix
    finetune: GeneratorFinetune | None = Field(None, description="needed to train, not to remix")
    evaluate: GeneratorEvaluate = Field(
        default_factory=lambda: GeneratorEvaluate.model_validate({}),
        description="needed to evaluate",
    )
