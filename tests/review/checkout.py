"""A checkout with a finished run of a profile, as a person who reviews it finds it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from tasks.core.parquet import write_table
from tasks.core.rows import INSTRUCTIONS, PASSAGES, UNVERIFIED, VERIFIED
from tasks.lm.loading import load_model
from tests.conftest import ROOT

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def context_of(number: int) -> str:
    return (
        f"Pump P-{number} of station {number * 7} failed at {number} minutes past noon, because "
        f"seal-{number} broke and nobody of shift {number % 5} had looked at it for {number} weeks."
    )


def row_of(number: int, kind: str = "nli") -> dict[str, Any]:
    context = context_of(number) + (f" {EVIL}" if number == 3 else "")
    label = ("True", "False", "Inconclusive")[number % 3]
    claim = f"Pump P-{number} failed at noon because of its motor."
    asked = {
        "nli": (f'{context} Is the claim "{claim}" true, false, or inconclusive?', label),
        "exqa": (f"{context}\n\nWhat broke in P-{number}?", f"seal-{number}"),
    }[kind]
    return {
        "row_id": f"{kind}-{number:03d}",
        "passage_id": f"{number:016x}",
        "document": f"contract-{number % 3}.md",
        "task_type": kind,
        "context": context,
        "instruction": asked[0],
        "response": asked[1],
        "agreement": 0.875,
        "confidence": -0.5,
        "answer": "True",
        "origin": "written",
    }


def passage_of(number: int) -> dict[str, Any]:
    text = row_of(number)["context"]
    return {
        "passage_id": f"{number:016x}",
        "document": f"contract-{number % 3}.md",
        "page": number % 2,
        "section": "Repairs",
        "start": 1000 * number,
        "end": 1000 * number + len(text),
        "tokens": 40,
        "sha256": f"{number:064x}",
        "in_evaluation": False,
        "text": text,
    }


def make_checkout(folder: Path, rows: int = 30, kind: str = "nli", **profile: Any) -> Path:
    """Return a main checkout whose profile ``mine`` has run in ``.runs/mine``."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "params.yaml", folder)
    for name in ("profiles", "datasets", "local/mine"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "datasets/contracts.yaml", folder / "datasets/mine.yaml")
    values = {
        "verify": {"reviews": "local/mine/reviews.jsonl"},
        "evaluate": {"dataset": "datasets/mine.yaml", "items": "local/mine/items.jsonl"},
        **profile,
    }
    (folder / "profiles/mine.yaml").write_text(yaml.safe_dump(values))
    made = [row_of(number, kind) for number in range(rows)]
    artifacts = folder / ".runs/mine/artifacts"
    write_rows(artifacts / "verify/instructions.parquet", made, VERIFIED)
    write_rows(artifacts / "validate/instructions.parquet", made, INSTRUCTIONS)
    write_rows(artifacts / "verify/quarantine.parquet", [], UNVERIFIED)
    write_rows(artifacts / "ingest/passages.parquet", map(passage_of, range(rows)), PASSAGES)
    return folder


def write_rows(path: Path, rows: Any, schema: pa.Schema) -> None:
    """Write rows that may have more columns than the schema."""
    picked = [{name: row[name] for name in schema.names} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, pa.Table.from_pylist(picked, schema=schema))


def save_adapter(model: Path, folder: Path, **kind: Any) -> Path:
    """Save a random adapter, which changes the model's answers, and return its folder."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **kind)
    get_peft_model(load_model(str(model), precision="float32"), config).save_pretrained(folder)
    return folder


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]
