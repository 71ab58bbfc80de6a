"""Versions of the tiny model: made step by step as a run makes them (trained, scored, registered in
a real store), or names in a store alone.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tasks.baseline import stage as baseline
from tasks.core.files import read_json, write_json
from tasks.core.parquet import write_table
from tasks.evaluate import stage as evaluate
from tasks.finetune import stage as finetune
from tasks.register import stage as register
from tests.conftest import ROOT
from tests.supervise.test_constructed import passages

NONE = ROOT / "supervision/none"
#: The counts of a stage's summary, and ingest's whole one, where a test is not about them.
COUNTED: dict[str, Any] = {"rows_in": 30, "rows_kept": 30, "dropped": {}}
INGESTED = COUNTED | {
    **{"documents": 3, "formats": {"text": 3}, "unread": {}, "passages_sha256": "0" * 64},
    **{"in_evaluation": None, "leaked_items": None},
}
EVIL_NAME = "a|b](http://evil.example) <img src=x onerror=alert(1)>\n# Injected\n| x | y |"


def register_names(folder: Path, empty_store: Path) -> str:
    """Register two names without files in a store of a folder, a copy of ``empty_store``; return
    its address.

    ``incidents-qa`` has versions 1 and 2, which is its champion; ``contracts`` has version 1.
    """
    from mlflow import MlflowClient

    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    run = client.create_run(client.create_experiment("names", (folder / "files").as_uri()))
    for name in ("contracts", "incidents-qa"):
        client.create_registered_model(name)
    for name in ("contracts", "incidents-qa", "incidents-qa"):
        client.create_model_version(name, str(folder / "gone"), run.info.run_id)
    client.set_registered_model_alias("incidents-qa", "champion", "2")
    return uri


def registered(
    make_params: Any, tiny_model: Path, instructions: Path, kind: str = "privacy", **finetune: Any
) -> dict[str, Any]:
    """Train, score and register; return what ``registration.json`` says."""
    write_judged(instructions)
    params = finetune_tiny(make_params, tiny_model, instructions, kind, **finetune)
    assert evaluate_tiny(params) == 0
    assert register_tiny(params, instructions) == 0
    told: dict[str, Any] = read_json(Path("artifacts/register/registration.json"))
    return told


def finetune_tiny(
    make_params: Any,
    tiny_model: Path,
    instructions: Path,
    kind: str,
    source: str = "bonito",
    **finetuning: Any,
) -> Path:
    """Train an adapter of the tiny model; return its parameter file, with items of ``kind``."""
    Path("items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in _items(kind)))
    path = make_params(
        supervise={"source": source},
        finetune={
            "model": str(tiny_model),
            "precision": "float32",
            "max_steps": 3,
            "batch_rows": 4,
            "micro_batch_rows": 4,
            "start": str(NONE),
            **finetuning,
        },
        evaluate={
            "dataset": str(ROOT / f"datasets/{kind}.yaml"),
            "items": "items.jsonl",
            "templates": 2,
            "engine": "transformers",
            "bootstrap": 200,
        },
    )
    assert (
        finetune.main(
            [
                "--params",
                str(path),
                "--instructions",
                str(instructions),
                "--out",
                "artifacts/finetune",
            ]
        )
        == 0
    )
    return Path(path)


def _items(kind: str) -> list[dict[str, Any]]:
    context = "Pump P-1 failed at noon because its seal broke."
    if kind == "privacy":
        return [
            {
                "id": str(n),
                "context": f"{context} {n // 2}",
                "question": f"Did it fail ({n})?",
                "answer": "yes" if n % 2 else "no",
            }
            for n in range(6)
        ]
    return [
        {
            "id": str(n),
            "context": f"{context} {n // 2}",
            "question": f"Why did it fail ({n})?",
            "answers": ["its seal broke"],
        }
        for n in range(6)
    ]


def evaluate_tiny(params: Path, general: Path = NONE, trained: Path | None = None) -> int:
    """Score the unadapted and the adapted model; return the exit status."""
    asked = ["--params", str(params), "--items", "items.jsonl", "--general", str(general)]
    assert baseline.main([*asked, "--out", "artifacts/baseline"]) == 0
    write_table(Path("passages.parquet"), passages())
    return evaluate.main(
        [
            *asked,
            "--adapter",
            "artifacts/finetune",
            "--baseline",
            "artifacts/baseline",
            "--passages",
            "passages.parquet",
            *(["--instructions", str(trained)] if trained else []),
            "--out",
            "artifacts/evaluate",
        ]
    )


def write_judged(instructions: Path) -> None:
    """Write what register reads of validate, verify and supervise."""
    for name in ("validated", "verified"):
        folder = instructions.parent / name
        folder.mkdir()
        (folder / "report.html").write_text("<p>report</p>")
        write_json(folder / "metrics.json", {"yield": 0.8, "agreed": 0.5})
        reviewed = {"right": 0.4, "right_low": 0.3, "right_high": 0.5}
        reviewed |= {"reviewed": 99, "reviewed_of": 99}
        write_json(folder / "summary.json", COUNTED | {"agreed": 0.5, "readers": []} | reviewed)
    write_json(instructions.parent / "summary.json", COUNTED)


def register_tiny(params: Path, instructions: Path) -> int:
    """Register what is trained and scored; return the exit status."""
    ingested = instructions.parent / "ingested.json"
    write_json(ingested, INGESTED | {"in_evaluation": 12, "leaked_items": 0})
    generated = instructions.parent / "generated.json"
    write_json(generated, {"generator": f"sha256:{'0' * 64}"})
    arguments = [
        "--ingest",
        str(ingested),
        "--generate",
        str(generated),
        "--finetune",
        "artifacts/finetune",
        "--evaluate",
        "artifacts/evaluate",
        "--validate",
        str(instructions.parent / "validated"),
        "--verify",
        str(instructions.parent / "verified"),
        "--supervise",
        str(instructions.parent),
    ]
    return register.main(["--params", str(params), *arguments, "--out", "artifacts/register"])
