"""Which rows count as trained, and which the next training takes for known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.files import read_json
from tasks.core.params import Params
from tasks.core.parquet import read_table, write_table
from tasks.core.rows import CHAMPION_FILE
from tasks.finetune.continuation import begin, digest_rows
from tasks.finetune.stage import choose_rows
from tasks.lm.examples import training_order
from tasks.lm.training_set import TrainingSet
from tests.conftest import instruction_table

_OUT = Path("artifacts/finetune")


def _used(table: pa.Table, settings: Any) -> set[str]:
    """Return the ids of the rows in the batches of a training on ``table``."""
    write_table(Path("used.parquet"), table)
    chosen = table.take(choose_rows(Path("used.parquet"), np.arange(len(table)), settings))
    lengths = [len(e) for e in TrainingSet.of(chosen.to_pylist, settings, None).examples]
    order = training_order(lengths, settings)
    ids = chosen["row_id"].to_pylist()
    return {ids[place] for place in order}


@pytest.mark.parametrize(
    ("limit", "count", "reason"),
    [
        ({"max_steps": 2}, 8, "beyond_max_steps"),
        ({"max_steps": 0, "max_tokens": 100}, None, "beyond_max_tokens"),
        ({"max_steps": 0, "epochs": 0.25}, 10, "beyond_epochs"),
        ({"max_steps": 0, "epochs": 2.0}, 40, ""),
    ],
)
def test_only_rows_of_the_batches_count_as_trained(
    finetuned: Any,
    params: Params,
    tiny_model: Path,
    instructions: Path,
    limit: dict[str, Any],
    count: int | None,
    reason: str,
) -> None:
    table = instruction_table(40)
    write_table(instructions, table)
    finetuned("incidents", **limit)
    told = read_json(_OUT / "provenance.json")
    settings = params.finetune.model_copy(
        update={"model": str(tiny_model), "batch_rows": 4, "micro_batch_rows": 4, **limit}
    )
    used = _used(table, settings)
    assert count in (None, len(used)) and 0 < len(used) <= 40
    assert told["rows"] == len(used)
    summary = read_json(_OUT / "summary.json")
    assert summary["rows_in"] == 40 and summary["rows_kept"] == len(used)
    assert {name: n for name, n in summary["dropped"].items() if n} == (
        {reason: 40 - len(used)} if reason else {}
    )
    digests = dict(
        zip(digest_rows(table)["row_sha256"].to_pylist(), table["row_id"].to_pylist(), strict=True)
    )
    trained = read_table(_OUT / "trained.parquet")["row_sha256"].to_pylist()
    assert sorted(digests[name] for name in trained if name) == sorted(used)


def test_what_the_steps_left_over_is_new_to_the_next_training(
    finetuned: Any, tiny_model: Path, instructions: Path, params: Params
) -> None:
    table = instruction_table(40)
    write_table(instructions, table)
    finetuned("incidents", max_steps=2)
    (_OUT / CHAMPION_FILE).write_text('{"name": "model", "version": "1"}')
    settings = params.finetune.model_copy(update={"model": str(tiny_model), "restart_share": 0.3})
    found = begin(digest_rows(table), settings, _OUT)
    assert found.continues and found.facts is not None, "no passage is new or gone"
    assert found.facts["moved_share"] == 0 and found.facts["new_rows"] == 32
    assert found.facts["replayed"] == 8 and len(found.places) == 40


def test_no_checkpoint_of_a_removed_passage_stays(finetuned: Any, instructions: Path) -> None:
    for table in (instruction_table(12), instruction_table(12).slice(1), instruction_table(14)):
        write_table(instructions, table)
        finetuned("incidents")
    noted = map(read_json, Path(".work/finetune").rglob("learned.json"))
    kept = [len(note["passages"]) for note in noted]
    assert sorted(kept) == [11, 14], "all passages of the second are still there"
