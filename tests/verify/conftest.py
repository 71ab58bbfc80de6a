"""Rows about pumps, a reader that knows their seals, and the stage run on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.parquet import write_table
from tasks.core.rows import INSTRUCTIONS, PASSAGES, PREDICTIONS, QUARANTINE
from tasks.lm.engine import Completion
from tasks.lm.tokenizers import load_tokenizer
from tasks.verify import reader
from tasks.verify import stage as verify
from tests.conftest import ROOT

COUNT = 30
NONE = str(ROOT / "supervision/none")


def make_row(number: int, kind: str = "exqa", response: str = "") -> dict[str, Any]:
    context = f"Pump P-{number} failed at {number} past noon because seal-{number} broke."
    asked = {
        "exqa": f"Question: What broke in P-{number}?",
        "ynqa": f"Did P-{number} fail? Yes or no?",
        "summarization": "Sum it up in a few words.",
    }[kind]
    return {
        "row_id": f"{kind}-{number:03d}",
        "passage_id": f"{number:016x}",
        "document": "report.md",
        "task_type": kind,
        "context": context,
        "instruction": f"{context}\n\n{asked}",
        "response": response or f"seal-{number}",
    }


class RuleReader:
    """Answers with the seal of the passage; every fifth passage is answered wrongly."""

    def __init__(self, model: Path | str, die_after: int | None = None) -> None:
        self.tokenizer = load_tokenizer(str(model))
        self.calls, self.die_after = 0, die_after

    def generate(self, prompts: Any, sampling: Any, seeds: Sequence[int]) -> list[Completion]:
        if self.calls == self.die_after:
            raise KeyboardInterrupt
        self.calls += 1
        return [self.answer(self.tokenizer.decode(prompt)) for prompt in prompts]

    def answer(self, prompt: str) -> Completion:
        number = prompt.split("because seal-")[1].split(maxsplit=1)[0]
        return Completion("noon" if int(number) % 5 == 0 else f"seal-{number}", 3, True)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_params: Any, tiny_model: Path) -> Any:
    """Return a function that runs the stage on rows with settings and returns its exit status."""
    monkeypatch.chdir(tmp_path)
    made: list[RuleReader] = []

    def open_engine(kind: str, model: Path | str, *_: Any, **__: Any) -> RuleReader:
        made.append(RuleReader(model, call.die_after))  # type: ignore[attr-defined]
        return made[-1]

    def call(
        rows: Sequence[dict[str, Any]] | None = None,
        quarantine: Sequence[dict[str, Any]] = (),
        source: str = "bonito",
        out: str = "artifacts/verify",
        corpus: pa.Table | None = None,
        confidences: Mapping[str, float | None] | None = None,
        **settings: Any,
    ) -> int:
        if call.fake:  # type: ignore[attr-defined]
            monkeypatch.setattr(reader, "open_engine", open_engine)
        write_table(Path("passages.parquet"), corpus or PASSAGES.empty_table())
        rows = [make_row(number) for number in range(COUNT)] if rows is None else rows
        write_table(Path("rows.parquet"), pa.Table.from_pylist(list(rows), schema=INSTRUCTIONS))
        write_table(
            Path("quarantine.parquet"), pa.Table.from_pylist(list(quarantine), schema=QUARANTINE)
        )
        told = [
            {"row_id": row["row_id"], "confidence": (confidences or {}).get(row["row_id"])}
            for row in (*rows, *quarantine)
        ]
        write_table(Path("predictions.parquet"), pa.Table.from_pylist(told, schema=PREDICTIONS))
        params = make_params(
            supervise={"source": source},
            generate={"generator": str(tiny_model)},
            verify={
                **{"reader": str(tiny_model), "answers": 2, "min_agreement": 0.5},
                **{"tests": NONE, "reviews": NONE, "shard_rows": 8, "confident_share": 1.0},
                "adopt": False,
                **settings,
            },
        )
        inputs = {"instructions": "rows", "quarantine": "quarantine", "passages": "passages"}
        inputs["predictions"] = "predictions"
        arguments = [
            part for name, file in inputs.items() for part in (f"--{name}", f"{file}.parquet")
        ]
        return verify.main(["--params", str(params), *arguments, "--out", out])

    call.die_after, call.fake, call.made = None, True, made  # type: ignore[attr-defined]
    return call
