"""The section ``supervise`` of ``params.yaml``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema, field_validator

from tasks.core.errors import PipelineError
from tasks.core.mix import PATTERN, SOURCES, Mix, parse_mix
from tasks.core.sections.base import Count, Section, Seed
from tasks.core.setting_paths import NOTHING

#: A source or a mix; the validator parses it, the schema offers the sources to an editor.
SourceText = Annotated[
    str,
    WithJsonSchema({"anyOf": [{"enum": list(SOURCES)}, {"type": "string", "pattern": PATTERN}]}),
]


class Supervise(Section):
    """Which rows the target model is trained on: the paper's supervision sources."""

    source: SourceText = Field(
        description=(
            "bonito, prompted: what generate wrote; tapt: the raw passages, next-word; p3, "
            "labelled: supervise.rows; constructed: claims made from the passages by rules; "
            "none: no training (zero-shot, or finetune.start alone); or a mix, such as "
            "bonito+constructed:0.5"
        )
    )
    rows: str = Field(
        description=(
            "p3: prompted rows (a remix's train.parquet); labelled: training items in the "
            f"dataset's columns; others: {NOTHING}"
        )
    )
    prompts: str = Field(
        description="prompted: folder of the prompt texts, one YAML file a task type"
    )
    max_rows: Count = Field(description="rows to train on, a seeded choice; 0: all")
    seed: Seed = Field(description="decides which rows max_rows keeps, and their order")

    @field_validator("source")
    @classmethod
    def _parsed(cls, text: str) -> str:
        try:
            return str(parse_mix(text))
        except PipelineError as error:
            raise ValueError(str(error)) from error

    @property
    def mix(self) -> Mix:
        """The source, or the mix of sources."""
        return parse_mix(self.source)
