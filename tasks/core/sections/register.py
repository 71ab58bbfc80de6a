"""The section ``register`` of ``params.yaml``."""

from __future__ import annotations

from pydantic import Field

from tasks.core.sections.base import FORM, Count, Fraction, Section


class Register(Section):
    """MLflow: run, metrics, adapter, alias."""

    experiment: str = Field(
        pattern=r"\S",
        json_schema_extra={FORM: "must not be empty"},
        description="MLflow experiment of the runs",
    )
    model_name: str = Field(
        "",
        # MLflow refuses "/" and ":", and has no way to ask for a name with quotes.
        pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._ -]*)?$",
        json_schema_extra={
            FORM: "must be letters, digits, _ and -, and after the first of them also . and spaces"
        },
        description="registered model; empty: <target model>-<dataset>",
    )
    parity_items: Count = Field(
        6,
        description=(
            "evaluation items that the 4-bit adapter, the merged and the served model all "
            "answer; 0: no check"
        ),
    )
    parity_floor: Fraction = Field(
        0.0,
        description=(
            "smallest share of them on which all agree; below it nothing is registered; 0: "
            "report only"
        ),
    )
