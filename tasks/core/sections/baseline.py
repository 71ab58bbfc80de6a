"""The section ``baseline`` of ``params.yaml``."""

from __future__ import annotations

from pydantic import Field

from tasks.core.sections.base import Positive, Section, Seed
from tasks.core.setting_paths import NOTHING


class Baseline(Section):
    """The unadapted model, and the start alone if any, on the same items, and on general tasks that
    adaptation may harm.
    """

    general: str = Field(
        description=(
            "held-out prompted rows of general tasks (a remix's heldout.parquet), scored "
            f"before and after; {NOTHING}: none"
        )
    )
    general_rows: Positive = Field(
        description="rows of it to score, a seeded choice spread evenly over task types"
    )
    seed: Seed = Field(description="decides which general tasks general_rows draws")
