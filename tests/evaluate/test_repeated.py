"""What a second evaluation does again, and what it takes from the first."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tasks.core.files import read_json, sha256_file
from tests.conftest import Code
from tests.registered import evaluate_tiny


def test_evaluation_is_repeatable_and_resumes_by_model(finetuned: Any) -> None:
    params = finetuned("privacy")
    evaluate_tiny(params)
    before = {path.name: sha256_file(path) for path in Path("artifacts/evaluate").iterdir()}
    journal = [
        path
        for place in ("evaluate/journal", "evaluate/about_corpus", "baseline/journal")
        for path in sorted(Path(".work", place).glob("*/*.parquet"))
    ]
    assert len(journal) == 3, "adapted, its calibration, unadapted"
    stamps = {path: path.stat().st_mtime_ns for path in journal}
    journal[0].write_bytes(b"damaged")
    assert evaluate_tiny(params) == 0
    assert {path.name: sha256_file(path) for path in Path("artifacts/evaluate").iterdir()} == before
    assert journal[1].stat().st_mtime_ns == stamps[journal[1]], (
        "the undamaged model was not scored again"
    )


def test_a_change_of_the_training_loop_starts_afresh_and_a_comment_does_not(
    finetuned: Any, edited_code: Code, capsys: pytest.CaptureFixture[str]
) -> None:
    def continues(module: str, old: str, new: str) -> bool:
        edited_code.edit(module, old, new)
        finetuned("incidents")
        return "continuing from checkpoint-3" in capsys.readouterr().err

    finetuned("incidents")
    capsys.readouterr()
    assert continues("tasks.core.lock", "patience: float = 4.0", "patience: float = 5.0")
    assert not continues("tasks.lm.response_trainer", 'reduction="sum"', 'reduction="mean"')


def test_a_change_of_the_scoring_code_scores_again(finetuned: Any, edited_code: Code) -> None:
    def kept() -> set[Path]:
        assert evaluate_tiny(params) == 0
        places = ("*/journal", "evaluate/about_corpus")
        found = (Path(".work").glob(f"{place}/*/*.parquet") for place in places)
        return {path.parent for path in chain.from_iterable(found)}

    def merged() -> set[str]:
        return {path.name for path in Path("cache/merged").iterdir()}

    params = finetuned("privacy")
    first, models = kept(), merged()
    edited_code.edit("tasks.tracking.registry", "from __future__", "# A comment.\nfrom __future__")
    edited_code.edit("tasks.register.plots", "from __future__", "# A comment.\nfrom __future__")
    assert kept() == first and merged() == models
    edited_code.edit("tasks.scoring.ranking", "import torch\n", "import torch\n\nX = 1\n")
    assert len(kept() - first) == 3 and merged() == models
    edited_code.edit("tasks.lm.merged", "if module is head", "if module == head")
    assert evaluate_tiny(params) == 0 and len(merged() - models) == 2


def test_provenance_says_how_to_make_the_adapter_again(
    finetuned: Any, tiny_model: Path, instructions: Path
) -> None:
    finetuned("incidents")
    told = read_json(Path("artifacts/finetune/provenance.json"))
    assert (
        told["base"] == str(tiny_model)
        and told["prompt"] == "chat"
        and told["rows"] == 12
        and told["steps"] == 3
    )
    assert (
        told["instructions_sha256"] == sha256_file(instructions)
        and told["settings"]["lora_rank"] == 16
    )
    assert Path("artifacts/finetune/loss.csv").read_text().splitlines()[0] == "step,loss"
