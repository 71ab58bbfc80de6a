"""A working folder with a small corpus, and the stage ingest's command line in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from tasks.ingest import stage as ingest

ROOT = Path(__file__).resolve().parents[2]


SENTENCES = [
    (
        f"Pump {number} at the northern works was stopped on day {number * 7} because its "
        "bearing ran hot again."
    )
    for number in range(60)
]


DATASET = (
    "{name: pumps, task_type: exqa, context: passage, answers: answer, templates: [{name: a, "
    "instruction: '{{ context }} {{ question }}'}]}"
)


def item(passage: str) -> str:
    """Return a line of labelled items."""
    return json.dumps({"id": "1", "passage": passage, "question": "?", "answer": "Nothing"}) + "\n"


def save_tokenizer(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", eos_token="[UNK]"
    ).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")


def write_params(folder: Path, **changes: Any) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["ingest"].update(
        {"passage_tokens": 60, "min_tokens": 5, "workers": 2, "file_seconds": 20, **changes}
    )
    values["generate"]["generator"] = str(folder / "generator")
    values["evaluate"]["dataset"] = str(folder / "dataset.yaml")
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def run_ingest(corpus: str = "corpus", evaluation: str = "items.jsonl") -> int:
    inputs = ["--corpus", corpus, "--items", evaluation]
    return ingest.main(["--params", "params.yaml", *inputs, "--out", "artifacts/ingest"])


def read_rows(name: str) -> list[dict[str, Any]]:
    return pq.read_table(f"artifacts/ingest/{name}.parquet").to_pylist()


def read_summary() -> dict[str, Any]:
    return json.loads(Path("artifacts/ingest/summary.json").read_text())
