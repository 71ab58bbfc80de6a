"""The base and the value types of the sections of a parameter file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from tasks.core.task_types import TASK_TYPES

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
#: Upper bounds are far above what anyone needs: they refuse a typing error at the start.
Count = Annotated[int, Field(ge=0, le=10**9)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
#: Tokens of one row: of a passage, a prompt or a response.
Tokens = Annotated[int, Field(ge=1, le=10**6)]
#: Rows that are in memory together.
Batch = Annotated[int, Field(ge=1, le=100_000)]
GpuShare = Annotated[
    Fraction,
    Field(
        description="share of a GPU's memory that vLLM takes, less where something else needs "
        "some; 0: vLLM's own default"
    ),
]
#: Processes or workers; 0 has a meaning of its own.
Workers = Annotated[int, Field(ge=0, le=1024)]
#: A short or full name; validators check it, the schema offers all of them to an editor.
TypeName = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "enum": [name for kind in TASK_TYPES.values() for name in (kind.name, kind.full_name)],
        }
    ),
]
#: Key of a field's ``json_schema_extra``: its pattern in words, for our errors and for an editor's.
FORM = "patternErrorMessage"
Precision = Literal["auto", "float32", "bfloat16"]


class Section(BaseModel):
    """Base of every section: immutable, without unknown keys, infinite numbers or silent
    conversions of types.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False
    )
