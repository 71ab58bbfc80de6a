"""verify.reader: cross-fit: no reader has seen what it judges, and a training that died goes on."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.files import read_json, sha256_file, sha256_folder
from tasks.core.parquet import read_table
from tasks.core.rows import PASSAGES
from tasks.lm import training_set
from tasks.verify import cross_fit
from tasks.verify.cross_fit import half_of
from tests.conftest import passage_table
from tests.verify.conftest import NONE, make_row


def _fit(folder: Path, **given: Any) -> dict[str, Any]:
    return {
        **{"model": str(folder), "prompt": "auto", "quantization": "none", "lora_rank": 2},
        **{"lora_alpha": 2, "lora_dropout": 0.0, "learning_rate": 0.01, "max_grad_norm": 1.0},
        **{"batch_rows": 4, "micro_batch_rows": 4, "epochs": 1, "max_steps": 0, "start": NONE},
        **{"max_prompt_tokens": 256, "max_response_tokens": 32, "checkpoint_steps": 1, "seed": 1},
        **given,
    }


def test_each_half_is_judged_by_a_reader_of_the_other(
    run: Any,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[list[dict[str, Any]]] = []
    build = training_set.build_examples
    monkeypatch.setattr(
        training_set,
        "build_examples",
        lambda rows, *rest: trained.append([*rows]) or build(trained[-1], *rest),
    )
    asked: list[list[str]] = []
    monkeypatch.setattr(
        cross_fit.Reader,
        "load",
        lambda self: asked.append([self.params.reader]) or str(tiny_model),
    )
    assert run(reader="cross-fit", fit=_fit(tiny_model)) == 0
    kept = read_table(Path("artifacts/verify/instructions.parquet")).to_pylist()
    dropped = read_table(Path("artifacts/verify/quarantine.parquet")).to_pylist()
    assert (len(kept), len(dropped)) == (24, 6), "the readers of this test know the seals"
    halves = Counter(half_of(row, 1) for row in (*kept, *dropped))
    assert min(halves.values()) >= 8
    assert [{half_of(row, 1) for row in rows} for rows in trained] == [{1}, {0}]
    folders = [Path(folder) for (folder,) in asked]
    assert len(set(folders)) == 2, "two readers were opened"
    counts = [read_json(folder / "provenance.json")["rows"] for folder in folders]
    assert counts == [halves[1], halves[0]], "the first reader learned the second half"
    assert not list(Path(".work").rglob("checkpoint-*")), "nothing goes on from them any more"
    contexts = [row["context"] for row in (*kept, *dropped)]
    texts = [
        passage | {"text": context}
        for passage, context in zip(passage_table(30).to_pylist(), contexts, strict=True)
    ]
    assert run(reader="none", corpus=pa.Table.from_pylist(texts, schema=PASSAGES)) == 0
    assert all(folder.exists() for folder in folders)
    assert run(reader="none", corpus=pa.Table.from_pylist(texts[1:], schema=PASSAGES)) == 0
    left = [folder.exists() for folder in folders]
    assert sorted(left) == [False, True], "a removed passage's reader goes, without cross-fit too"


def test_a_training_that_died_goes_on_to_the_same_readers(
    run: Any,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = _fit(tiny_model)
    assert run(reader="cross-fit", fit=fit, out="whole") == 0
    first = sorted(map(sha256_folder, Path(".work/verify/cross_fit").glob("*/adapter")))
    shutil.rmtree(".work")
    steps = cross_fit.Stage.progress

    def die(self: Any, total: int, unit: str) -> Any:
        progress = steps(self, total, unit)
        if unit == "steps":
            monkeypatch.setattr(cross_fit.Stage, "progress", steps)

            def stop(step: int, last: int, **_: Any) -> None:
                if step == 3:
                    raise KeyboardInterrupt

            monkeypatch.setattr(progress, "step", stop)
        return progress

    monkeypatch.setattr(cross_fit.Stage, "progress", die)
    with pytest.raises(KeyboardInterrupt):
        run(reader="cross-fit", fit=fit)
    assert list(Path(".work/verify/cross_fit").rglob("checkpoint-2"))
    assert run(reader="cross-fit", fit=fit) == 0
    assert sorted(map(sha256_folder, Path(".work/verify/cross_fit").glob("*/adapter"))) == first
    for name in ("instructions.parquet", "quarantine.parquet", "summary.json"):
        assert sha256_file(Path("whole") / name) == sha256_file(Path("artifacts/verify") / name)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "give verify.fit"),
        ({"fit": {"model": "nowhere/at-all"}}, "verify.fit"),
        ({"fit": {"start": "models"}}, "error: verify: verify.fit.start = models: no adapter"),
        ({"fit": {"max_response_tokens": 1}}, "raise verify.fit.max_response_tokens"),
    ],
)
def test_readers_that_cannot_be_trained_are_one_line(
    run: Any,
    tiny_model: Path,
    capsys: Any,
    settings: dict[str, Any],
    says: str,
) -> None:
    Path("models").mkdir()
    given = {"fit": _fit(tiny_model, **settings["fit"])} if settings else {}
    assert run(reader="cross-fit", **given) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in error and not Path("artifacts/verify").exists()


def test_two_rows_teach_nobody(run: Any, tiny_model: Path, capsys: Any) -> None:
    assert run([make_row(1), make_row(2)], reader="cross-fit", fit=_fit(tiny_model)) == 2
    assert "a reader needs 8" in capsys.readouterr().err
