"""A million rows must not fill the memory: finetune chooses rows by their ids, and reads the texts
of those that it trains on.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.files import choose, fingerprint, read_json
from tasks.core.params import Params, load_params
from tasks.core.parquet import Batches, TableWriter, column_values, read_table, write_table
from tasks.core.rows import INSTRUCTIONS, TRAINED
from tasks.finetune import stage as finetune
from tasks.lm.examples import Example, Examples
from tasks.lm.tokenizers import load_tokenizer
from tasks.lm.training import Trained, training_key
from tasks.lm.training_set import TrainingSet
from tests.conftest import instruction_table
from tests.registered import NONE

_COUNT, _STEPS, _BATCH = 10_000, 2, 4
#: Twice what the batches hold.
_CHOSEN = 2 * _STEPS * _BATCH


@pytest.fixture
def run(
    workplace: Path, make_params: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Return a function that runs the stage on ``rows.parquet``, all but the training."""
    monkeypatch.setattr(finetune, "_train", lambda *_: Trained([(1, 1.0)], _STEPS, 1))

    def call(**settings: Any) -> Params:
        values = {"model": str(tiny_model), "start": str(NONE), "restart": str(NONE), "epochs": 1.0}
        values |= {"batch_rows": _BATCH, "micro_batch_rows": _BATCH, "max_steps": _STEPS}
        path = make_params(finetune={**values, **settings})
        arguments = ["--params", str(path), "--instructions", "rows.parquet", "--out", "out"]
        assert finetune.main(arguments) == 0
        return load_params(path)

    return call


def test_of_many_rows_those_that_are_trained_on_are_held(
    run: Any, tiny_model: Path, bounded_arrow: Any
) -> None:
    """40 MB of rows; all of them as Python objects were more, and held three times."""
    text = "A pump stood still. " * 100
    row = instruction_table(1).to_pylist()[0]
    with TableWriter(Path("rows.parquet"), INSTRUCTIONS) as writer:
        for number in range(_COUNT):
            context = f"Passage {number}. {text}"
            ids = {"row_id": f"row-{number}", "passage_id": f"{number}"}
            writer.add({**row, **ids, "context": context, "instruction": f"{context}\n\nWhy?"})
    load_tokenizer(str(tiny_model))  # its imports are not counted below
    with bounded_arrow(50e6):
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    summary = read_json(Path("out/summary.json"))
    assert summary["rows_kept"] == _STEPS * _BATCH
    assert summary["dropped"] == {"beyond_max_steps": _COUNT - _STEPS * _BATCH}
    assert peak < 40e6


def test_the_rows_and_their_digests_are_those_of_the_whole_table(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = instruction_table(300)
    write_table(Path("rows.parquet"), table)
    seen: list[dict[str, Any]] = []
    made: list[TrainingSet] = []
    of = TrainingSet.of

    def note(read: Any, *rest: Any) -> Any:
        seen.extend(read())
        made.append(of(read, *rest))
        return made[0]

    monkeypatch.setattr(TrainingSet, "of", note)
    params = run()
    places = choose(table["row_id"].to_pylist(), _CHOSEN, params.finetune.seed, "finetune")
    rows = table.take(places).to_pylist()
    assert seen == rows
    names = ("task_type", "context", "instruction", "response")
    trained = [rows[place] for place in made[0].rows_trained(_STEPS)]
    digests = {
        (fingerprint(*(row[name] for name in names)), fingerprint(row["context"]))
        for row in trained
    }
    held = {passage for _, passage in digests}
    passages = {fingerprint(context) for context in table["context"].to_pylist()}
    digests |= {("", passage) for passage in passages - held}
    wanted = pa.table([list(column) for column in zip(*sorted(digests), strict=True)], TRAINED)
    write_table(Path("wanted.parquet"), wanted)
    assert Path("out/trained.parquet").read_bytes() == Path("wanted.parquet").read_bytes()
    ids = list(column_values(Batches(Path("rows.parquet"), INSTRUCTIONS), "row_id"))
    assert ids == read_table(Path("rows.parquet"))["row_id"].to_pylist()


def test_examples_are_packed_and_come_out_as_they_went_in(params: Params) -> None:
    made = [Example([0, *range(10, 14 + number % 5)], [20 + number, 1]) for number in range(9)]
    packed = Examples()
    for example in made:
        packed.append(example)
    assert len(packed) == 9 and list(packed) == made
    assert packed[-1] == made[-1] and packed[2:5] == made[2:5]
    with pytest.raises(IndexError):
        packed[9]
    assert training_key(params.finetune, packed, "") == training_key(params.finetune, made, "")
