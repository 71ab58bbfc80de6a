"""The section ``validate`` of ``params.yaml``."""

from __future__ import annotations

from pydantic import Field

from tasks.core.sections.base import Count, Fraction, Positive, Section, Seed


class Validate(Section):
    """Great Expectations over instruction/response rows."""

    min_yield: Fraction = Field(
        description="the run fails when a smaller share of the predictions is kept"
    )
    max_instruction_chars: Positive = Field(description="a longer instruction is dropped")
    max_response_chars: Positive = Field(description="a longer response is dropped")
    max_label_share: Fraction = Field(
        description=(
            "largest share of a label among a classification type's kept rows; the surplus is "
            "dropped (label_balance)"
        )
    )
    max_rows: Count = Field(description="rows to keep, a seeded choice; 0: all")
    labels: tuple[str, ...] = Field(
        (),
        description=(
            "custom label set for the classification types; empty: the family the instruction "
            "offers"
        ),
    )
    skip: tuple[str, ...] = Field((), description="names of expectations to leave out")
    seed: Seed = Field(description="decides which rows max_rows and max_label_share keep")
