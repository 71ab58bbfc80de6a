"""The section ``run`` of ``params.yaml``."""

from __future__ import annotations

from pydantic import Field

from tasks.core.sections.base import Count, Section


class Limits(Section):
    """When a run ends on purpose. The results do not depend on it."""

    max_minutes: float = Field(
        ge=0.0,
        le=10**6,
        description=(
            "the run ends after this many minutes, even in the middle of a stage; the same command "
            "again continues it. 0: no limit"
        ),
    )
    min_rows: Count = Field(
        0,
        description=(
            "fewer rows kept by verify (by supervise where no generator writes them): the run ends "
            "before the training"
        ),
    )
    min_rows_per_passage: float = Field(
        0.0,
        ge=0.0,
        le=10**6,
        description="the same, as kept rows for each passage; the higher floor counts",
    )
