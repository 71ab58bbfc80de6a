"""The YAML block of a version's card: what the hub lists and filters models by.

What the pipeline does not know is left out: an address on the hub for what is a folder here, or a
dataset's name for documents that may be private.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from tasks.core.languages import count_languages
from tasks.core.parquet import Batches, rows_at
from tasks.core.rows import INSTRUCTIONS
from tasks.core.stage import Stage
from tasks.lm.licence import hub_name
from tasks.register.made_of import Part, join_licences

#: Training rows whose language is looked at, and the share of them (0-1) that one needs: a short
#: passage is easily taken for another language.
_LOOKED_AT = 200
_LEAST_SHARE = 0.1
_HUB = "hf://"


def yaml_block(
    stage: Stage,
    provenance: dict[str, Any],
    scores: dict[str, Any],
    told: dict[str, Any],
    parts: list[Part],
) -> str:
    """Return the block with its marks; ``told`` is what ``registration.json`` says of the version,
    ``parts`` what it was made of.
    """
    values: dict[str, Any] = join_licences(parts)
    if languages := find_languages(_contexts(stage), stage.params.ingest.languages):
        values["language"] = languages
    values |= {"library_name": "peft", "pipeline_tag": "text-generation"}
    if base := hub_name(provenance["base"]):
        values |= {"base_model": base, "base_model_relation": "adapter"}
    if dataset := _hub_corpus(stage.params.ingest.corpus):
        values["datasets"] = [dataset]
    values["tags"] = ["bonito", "lora", "peft"] + [
        f"{part.kind}-license:{part.licence.replace(': ', '-').replace(' ', '-')}" for part in parts
    ]
    if "adapted" in scores:
        metric = {"type": "f1", "name": scores["metric"], "value": scores["adapted"]["f1"]}
        result = {
            "task": {"type": "text-generation", "name": scores["task_type"]},
            "dataset": {"name": scores["dataset"], "type": scores["dataset"]},
            "metrics": [metric],
        }
        values["model-index"] = [{"name": told["model_name"], "results": [result]}]
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def find_languages(texts: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Return the ISO 639-1 codes of the languages that at least a tenth of the texts are in, the
    commonest first; only ``wanted`` ones, where ingest kept those alone.
    """
    counts = count_languages(texts)
    chosen, least = set(wanted), _LEAST_SHARE * sum(counts.values())
    return [
        code for code, count in counts.items() if count >= least and (not chosen or code in chosen)
    ]


def _contexts(stage: Stage) -> list[str]:
    """Return the passages of some training rows, evenly drawn, each once."""
    path = stage.path("supervise") / "instructions.parquet"
    rows = Batches(path, pa.schema([INSTRUCTIONS.field("context")]))
    places = np.unique(np.linspace(0, max(len(rows) - 1, 0), _LOOKED_AT).astype(np.int64))
    texts = (row["context"] for row in rows_at(rows, places[: len(rows)]))
    return list(dict.fromkeys(text for text in texts if text))


def _hub_corpus(address: str) -> str:
    """Return the hub's name of a corpus that is a dataset there; empty for any other."""
    name = address.removeprefix(_HUB).removeprefix("datasets/").partition("?")[0]
    return name if address.startswith(_HUB) and hub_name(name) == name else ""
