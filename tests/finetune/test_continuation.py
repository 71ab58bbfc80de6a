"""finetune.start: champion. Which rows are trained on, from which adapter, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.baseline import stage as baseline
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, sha256_file, sha256_folder, write_json
from tasks.core.params import Params, load_params
from tasks.core.parquet import read_table, write_table
from tasks.core.rows import ADAPTER_FILES, CHAMPION_FILE, INSTRUCTIONS, TRAINED_FILE
from tasks.finetune import continuation
from tasks.finetune import stage as finetune
from tasks.finetune.continuation import begin, digest_rows, known_after
from tasks.scoring import predict
from tasks.tracking.champion_start import main as place
from tasks.tracking.champion_start import place_champion
from tasks.tracking.mlflow_store import connect, experiment_id
from tests.conftest import ROOT, instruction_table
from tests.registered import NONE


def _continuation(make_params: Any, tiny_model: Path) -> Path:
    """Return a parameter file that goes on from the champion, with a corpus beside it."""
    Path("corpus").mkdir()
    Path("corpus/a.md").write_text("Pump P-0 failed at noon.")
    Path("supervision").mkdir(exist_ok=True)
    Path("supervision/none").write_text("none")
    path: Path = make_params(
        ingest={"corpus": "corpus"},
        finetune={
            **{"model": str(tiny_model), "start": "champion", "restart": "supervision/none"},
            **{"precision": "float32", "max_steps": 3, "batch_rows": 4, "micro_batch_rows": 4},
            "restart_share": 0.3,
        },
        evaluate={"dataset": str(ROOT / "datasets/privacy.yaml")},
    )
    return path


@pytest.fixture
def champion(finetuned: Any, make_params: Any, tiny_model: Path) -> Path:
    """A champion of twelve rows in MLflow, as register keeps it, but not scored; returns the
    parameter file that goes on from it.
    """
    finetuned("privacy")
    client, made, name = connect(), Path("artifacts/finetune"), "model-privacy"
    run = client.create_run(experiment_id(client, "bonito"))
    client.log_artifacts(run.info.run_id, str(made), "adapter/peft")
    for file in ("provenance.json", "trained.parquet"):
        client.log_artifact(run.info.run_id, str(made / file))
    client.create_registered_model(name)
    source = f"{run.info.artifact_uri}/adapter"
    version = client.create_model_version(name, source, run.info.run_id)
    client.set_registered_model_alias(name, "champion", version.version)
    return _continuation(make_params, tiny_model)


def _change(added: int, removed: int) -> pa.Table:
    """Return the twelve rows of the champion without the first ones, and with new ones."""
    return instruction_table(12 + added).slice(removed)


def test_new_rows_and_a_share_of_old_ones_are_trained_on(champion: Path) -> None:
    assert place(["--params", str(champion)]) == 0
    params: Params = load_params(champion)
    folder = Path("champion")
    told = read_json(folder / "champion.json")
    assert told["version"] == "1"
    assert told["adapter_sha256"] == sha256_file(folder / "adapter_model.safetensors")
    table = _change(added=2, removed=1)
    found = begin(digest_rows(table), params.finetune, folder)
    assert found.start == folder and found.continues and found.facts is not None
    ids = table.take(found.places)["row_id"].to_pylist()
    assert {"row-12", "row-13"} < set(ids) and len(ids) == 4, "as many old rows as new ones"
    assert "row-0" not in ids, "a row of a removed document is not replayed"
    assert found.known == len(table) - 4
    assert found.facts["passages_new"] == 2 and found.facts["passages_gone"] == 1
    assert found.facts["moved_share"] == round(3 / 14, 4)
    moved = pa.Table.from_pylist(
        [row | {"document": "renamed.md"} for row in reversed(table.to_pylist())],
        schema=INSTRUCTIONS,
    )
    again = moved.take(begin(digest_rows(moved), params.finetune, folder).places)
    assert set(again["row_id"].to_pylist()) == set(ids), "texts decide, not places"
    none = params.finetune.model_copy(update={"replay_share": 0.0})
    assert len(begin(digest_rows(table), none, folder).places) == 2


def test_it_starts_again_where_the_corpus_moved_far_or_only_shrank(
    champion: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place(["--params", str(champion)])
    params: Params = load_params(champion)
    strict = params.finetune.model_copy(update={"restart_share": 0.1})
    far = begin(digest_rows(_change(added=2, removed=0)), strict, Path("champion"))
    assert far.start is None and not far.continues and far.known == 0 and len(far.places) == 14
    assert far.facts and "14.3% of the passages are new or gone" in far.facts["reason"]
    shrunk = begin(digest_rows(_change(added=0, removed=1)), params.finetune, Path("champion"))
    assert shrunk.start is None and len(shrunk.places) == 11
    assert shrunk.facts and shrunk.facts["reason"] == "no row is new since the champion"
    other = params.finetune.model_copy(update={"restart": "nowhere", "restart_share": 0.0})
    with pytest.raises(PipelineError, match="finetune.restart = nowhere: no adapter there"):
        begin(digest_rows(_change(added=1, removed=0)), other, Path("champion"))


def test_small_changes_of_several_runs_add_up(
    tmp_path: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each run replaces ten of a hundred passages: none alone moves more than a fifth."""
    monkeypatch.setattr(continuation, "start_adapter", lambda _, folder, *__: folder)
    settings = params.finetune.model_copy(update={"restart": "supervision/none"})
    monkeypatch.chdir(ROOT)
    write_json(tmp_path / CHAMPION_FILE, {"name": "model", "version": "1"})
    first = digest_rows(instruction_table(100))
    write_table(
        tmp_path / TRAINED_FILE, known_after(first, np.arange(100), tmp_path, continues=False)
    )
    told = []
    for run in range(1, 4):
        table = digest_rows(instruction_table(100 + 10 * run).slice(10 * run))
        caplog.clear()
        found = begin(table, settings, tmp_path)
        assert found.facts is not None
        told.append((found.continues, found.facts["passages_gone"], found.facts["moved_share"]))
        if found.continues:
            assert "10 passages are gone" in caplog.text
        known = known_after(table, found.places, tmp_path, found.continues)
        write_table(tmp_path / TRAINED_FILE, known)
    assert told == [(True, 10, 0.1818), (False, 20, 0.25), (True, 10, 0.1818)]
    table = digest_rows(instruction_table(140).slice(40))
    patient = settings.model_copy(update={"restart_share": 0.3})
    assert begin(table, patient, tmp_path).continues
    assert "20 passages are gone" in caplog.text, "all that the adapter may still hold"


def test_the_stage_goes_on_from_a_registered_version_with_the_same_bytes(
    registered: Any, make_params: Any, tiny_model: Path, instructions: Path
) -> None:
    told = registered()
    connect().set_registered_model_alias(told["model_name"], "champion", told["version"])
    champion = _continuation(make_params, tiny_model)
    assert place(["--params", str(champion)]) == 0
    write_table(instructions, _change(added=2, removed=1))
    arguments = ["--params", str(champion), "--instructions", str(instructions)]
    arguments += ["--out", "artifacts/finetune"]
    made = []
    for _ in range(2):
        shutil.rmtree(".work/finetune", ignore_errors=True)
        assert finetune.main(arguments) == 0
        made.append(sha256_folder(Path("artifacts/finetune")))
    assert made[0] == made[1]
    provenance = read_json(Path("artifacts/finetune/provenance.json"))
    assert provenance["champion"]["continues"] and provenance["rows"] == 4
    assert provenance["start"] == sha256_folder(Path("champion"))
    summary = read_json(Path("artifacts/finetune/summary.json"))
    assert summary["dropped"] == {"known_to_champion": 9}
    trained = read_table(Path("artifacts/finetune/trained.parquet"))
    table = digest_rows(instruction_table(14))
    assert set(trained["row_sha256"].to_pylist()) == set(table["row_sha256"].to_pylist()), (
        "what it knows: all rows of the champion, also the one that is gone, and the new ones"
    )
    assert b"Pump" not in Path("artifacts/finetune/trained.parquet").read_bytes()


def test_what_the_champion_answered_is_not_asked_again(
    finetuned: Any,
    registered: Any,
    make_params: Any,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What evaluate asked the adapted model is what baseline would ask the start."""
    told = registered()
    connect().set_registered_model_alias(told["model_name"], "champion", told["version"])
    made = Path("artifacts/finetune")
    assert place(["--params", str(_continuation(make_params, tiny_model))]) == 0
    for name in ADAPTER_FILES:
        assert sha256_file(Path("champion") / name) == sha256_file(made / name), (
            "the registered adapter is the trained one, to the byte"
        )
    params = finetuned("privacy", start="champion", restart=str(NONE))

    def answer_again(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(predict, "load_model", answer_again)
    arguments = ["--params", str(params), "--items", "items.jsonl"]
    arguments += ["--general", str(NONE), "--out", "artifacts/baseline"]
    assert baseline.main(arguments) == 0
    scored = read_table(Path("artifacts/evaluate/predictions.parquet")).to_pylist()
    rows = read_table(Path("artifacts/baseline/predictions.parquet")).to_pylist()
    assert [row for row in rows if row["model"] == "start"] == [
        row | {"model": "start"} for row in scored if row["model"] == "adapted"
    ]


def test_the_same_corpus_has_the_same_champion(champion: Path) -> None:
    """Done again, a run that made a new champion does not start from that."""
    params: Params = load_params(champion)
    here, store = Path("."), Path(".work/champion")
    first = place_champion(params, here, store, Path("champion"))
    before = sha256_folder(Path("champion"))
    client = connect()
    version = client.get_model_version(first["name"], first["version"])
    newer = client.create_model_version(first["name"], version.source, version.run_id)
    client.set_registered_model_alias(first["name"], "champion", newer.version)
    assert place_champion(params, here, store, Path("champion")) == first
    assert sha256_folder(Path("champion")) == before
    Path("corpus/b.md").write_text("Pump P-99 failed at noon.")
    second = place_champion(params, here, store, Path("champion"))
    assert second["version"] == str(newer.version)
    (Path("champion") / "adapter_model.safetensors").write_bytes(b"damaged")
    assert place_champion(params, here, store, Path("champion")) == second
    assert sha256_file(Path("champion/adapter_model.safetensors")) == second["adapter_sha256"]


def test_what_cannot_be_gone_on_from_is_one_line(
    champion: Path, make_params: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(**finetune: Any) -> str:
        values = load_params(champion).model_dump(mode="json")
        path = make_params(**{**values, "finetune": {**values["finetune"], **finetune}})
        capsys.readouterr()
        assert place(["--params", str(path)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        return lines[-1]

    assert "was trained with lora_rank 16, but finetune.lora_rank is 8" in refused(lora_rank=8)
    assert "but other-privacy has none" in refused(model="other", lora_rank=16)
    name = read_json(Path("champion/champion.json"))["name"] if Path("champion").exists() else ""
    assert not name, "nothing was written for a refused champion"


def test_a_champion_without_its_rows_is_one_line(
    champion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = Path("mlartifacts").glob("**/artifacts/trained.parquet")
    path.unlink()
    assert place(["--params", str(champion)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: champion: ") and "has no trained.parquet" in line
