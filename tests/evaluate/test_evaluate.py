"""evaluate and finetune on a tiny random model: real code, all files, resumption; then register in
a real MLflow store.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from tasks.baseline import stage as baseline
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, sha256_folder
from tasks.core.overlay import overlay
from tasks.core.parquet import read_table, write_table
from tasks.core.rows import INSTRUCTIONS
from tasks.core.store import seal_folder
from tasks.core.yaml_file import read_yaml
from tasks.evaluate import stage as evaluate
from tasks.scoring.item_page import name_answers
from tests.conftest import assert_pages_are_checked, instruction_table
from tests.pages import check_page
from tests.registered import NONE, evaluate_tiny, finetune_tiny, register_tiny, write_judged


def test_a_baseline_of_another_commit_or_precision_is_not_compared() -> None:
    told = {"base": "own/model", "revision": "a" * 40, "precision": "bfloat16"}
    evaluate._need_same_base(told, {"revision": "a" * 40, "precision": "bfloat16"})
    with pytest.raises(PipelineError, match=r"baseline was scored on b{40}: set finetune.revision"):
        evaluate._need_same_base(told, {"revision": "b" * 40, "precision": "bfloat16"})
    with pytest.raises(PipelineError, match=r"precision bfloat16 of own/model, .* on float32: set"):
        evaluate._need_same_base(told, {"revision": "a" * 40, "precision": "float32"})


@pytest.mark.parametrize("kind", ["incidents", "privacy"])
def test_metrics_have_every_promised_key(finetuned: Any, kind: str) -> None:
    params = finetuned(kind)
    assert evaluate_tiny(params) == 0
    metrics = read_json(Path("artifacts/evaluate/scores.json"))
    for model in ("zero_shot", "adapted"):
        own = metrics[model]
        assert 0 <= own["f1_low"] <= own["f1"] <= own["f1_high"] <= 100
        assert len(own["by_dataset"][kind]["by_template"]) == 2
        assert ("majority" in own) == (kind == "privacy")
    assert ("prior_corrected" in metrics) == (kind == "privacy")
    assert ("calibrated" in metrics) == (kind == "privacy")
    found = read_json(Path("artifacts/evaluate/calibration.json"))
    assert all(sum(prior.values()) == pytest.approx(1, abs=1e-4) for prior in found.values())
    assert len(found) == (2 if kind == "privacy" else 0)
    for stage in ("baseline", "evaluate"):
        assert_pages_are_checked(Path(f"artifacts/{stage}/predictions.parquet"))
    few = read_json(Path("artifacts/evaluate/metrics.json"))
    assert set(few) == _NAMES
    assert not {"start", "gain_over_start"} & set(metrics)
    assert few["f1"] == metrics["adapted"]["f1"] and few["zero_shot"] == metrics["zero_shot"]["f1"]
    for end in ("", "_low", "_high"):
        assert few[f"gain{end}"] == metrics["gain"][f"f1{end}"]
    rows = read_table(Path("artifacts/evaluate/predictions.parquet")).to_pylist()
    assert len(rows) == 2 * 2 * 6
    page = Path("artifacts/evaluate/report.html").read_text()
    check_page(page)
    answers = name_answers(Path("artifacts/evaluate/predictions.parquet"))
    assert page.count('class="card item ') == 6 and f"make why RUN={answers} ITEM=3" in page
    for row in rows if kind == "privacy" else []:
        assert row["prediction"] == row["choices"][int(np.argmax(row["scores"]))] and row[
            "f1"
        ] == float(row["prediction"] == row["golds"][0])


def test_without_labelled_items_there_is_agreement_and_no_f1(
    finetuned: Any, instructions: Path
) -> None:
    """It trains, says what it can under another name, and registers a challenger."""
    params = finetuned("incidents")
    settings = {
        "evaluate": {"items": str(NONE)},
        "baseline": {"general": str(NONE)},
        "register": {"parity_items": 2},
    }
    params.write_text(yaml.safe_dump(overlay(read_yaml(params), settings)))
    write_table(instructions.parent / "heldout.parquet", instruction_table(5))
    asked = ["--params", str(params)]
    assert baseline.main([*asked, "--out", "artifacts/baseline"]) == 0
    assert read_table(Path("artifacts/baseline/predictions.parquet")).num_rows == 0
    made = ["--adapter", "artifacts/finetune", "--baseline", "artifacts/baseline"]
    made += ["--heldout", str(instructions.parent / "heldout.parquet")]
    assert evaluate.main([*asked, *made, "--out", "artifacts/evaluate"]) == 0
    scores = read_json(Path("artifacts/evaluate/scores.json"))
    assert scores["dataset"] == "incidents" and scores["heldout_rows"] == 5
    assert set(scores["agreement"]) == {"zero_shot", "adapted", "gain"}
    assert "f1" not in json.dumps(scores)
    few = read_json(Path("artifacts/evaluate/metrics.json"))
    assert set(few) == {
        "agreement",
        "agreement_low",
        "agreement_high",
        "agreement_zero_shot",
        "rows",
    }
    rows = read_table(Path("artifacts/evaluate/predictions.parquet")).to_pylist()
    assert len(rows) == 2 * 5 and {row["dataset"] for row in rows} == {"held_out"}
    page = Path("artifacts/evaluate/report.html").read_text()
    assert "There are no labelled items" in page and "every labelled item" not in page
    write_judged(instructions)
    assert register_tiny(params, instructions) == 0
    told = read_json(Path("artifacts/register/registration.json"))
    assert told["alias"] == "challenger" and told["verdict"].startswith("not measured")
    assert told["parity"]["items"] == 2


def test_answers_about_a_removed_passage_are_not_kept(finetuned: Any, instructions: Path) -> None:
    """Held-out rows are about passages of the corpus: their prompts hold the text."""
    params = finetuned("incidents")
    settings = {"evaluate": {"items": str(NONE)}, "baseline": {"general": str(NONE)}}
    params.write_text(yaml.safe_dump(overlay(read_yaml(params), settings)))
    asked, heldout = ["--params", str(params)], instructions.parent / "heldout.parquet"
    assert baseline.main([*asked, "--out", "artifacts/baseline"]) == 0
    made = ["--adapter", "artifacts/finetune", "--baseline", "artifacts/baseline"]
    for rows in (
        instruction_table(5),
        instruction_table(5).slice(1),
        instruction_table(5).slice(1),
    ):
        write_table(heldout, rows)
        told = [*asked, *made, "--heldout", str(heldout), "--out", "artifacts/evaluate"]
        assert evaluate.main(told) == 0
    kept = sorted(Path(".work/evaluate").rglob("answers-*.parquet"))
    assert len(kept) == 2, "one of each model, of the rows of today"
    prompts = "".join(str(read_table(path)["prompt"].to_pylist()) for path in kept)
    assert "Pump P-4" in prompts and "Pump P-0" not in prompts


_NAMES = {"f1", "f1_low", "f1_high", "zero_shot", "gain", "gain_low", "gain_high", "rows"}
_START_NAMES = {"start", "gain_over_start", "gain_over_start_low", "gain_over_start_high"}


@pytest.fixture(scope="module")
def kept_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs :func:`start` keeps it for the others."""
    return tmp_path_factory.mktemp("kept") / "start"


@pytest.fixture
def start(finetuned: Any, workplace: Path, kept_start: Path) -> Path:
    """An adapter to start from. Its provenance says that it was asked in another form than the
    model's chat template.
    """
    if not kept_start.exists():
        finetuned("privacy", learning_rate=0.05)
        shutil.move("artifacts/finetune", kept_start)
        provenance = read_json(kept_start / "provenance.json")
        (kept_start / "provenance.json").write_text(json.dumps(provenance | {"prompt": "bonito"}))
        seal_folder(kept_start)
    return Path(shutil.copytree(kept_start, workplace / "start"))


@pytest.fixture
def general(workplace: Path) -> Path:
    """Held-out general tasks of two types."""
    rows = [
        {
            "row_id": f"g{n}",
            "task_type": "exqa" if n % 2 else "ynqa",
            "context": f"Pump {n} failed.",
            "instruction": "{{context}} What failed?",
            "response": f"Pump {n}",
        }
        for n in range(4)
    ]
    path = workplace / "heldout.parquet"
    write_table(path, pa.Table.from_pylist(rows))
    return path


def _answers(path: str, model: str) -> list[dict[str, Any]]:
    rows = read_table(Path("artifacts", path)).to_pylist()
    return [
        {name: value for name, value in row.items() if name != "model"}
        for row in rows
        if row["model"] == model
    ]


@pytest.mark.parametrize("kind", ["incidents", "privacy"])
def test_the_start_alone_is_a_row_of_its_own(
    finetuned: Any, start: Path, general: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    params = finetuned(kind, start=str(start))
    assert evaluate_tiny(params, general) == 0
    asked = {"zero_shot": "chat", "start": "bonito"}
    assert read_json(Path("artifacts/baseline/summary.json"))["prompt"] == asked
    scores = read_json(Path("artifacts/evaluate/scores.json"))
    places = [scores, scores["general"]]
    if kind == "privacy":
        places.append(scores["prior_corrected"])
    for place in places:
        own, gain = place["start"], place["gain_over_start"]
        assert 0 <= own["f1_low"] <= own["f1"] <= own["f1_high"] <= 100
        assert gain["f1_low"] <= gain["f1"] <= gain["f1_high"]
        assert gain["f1"] == pytest.approx(place["adapted"]["f1"] - own["f1"], abs=0.011)
    assert len(scores["start"]["by_dataset"][kind]["by_template"]) == 2
    few = read_json(Path("artifacts/evaluate/metrics.json"))
    assert set(few) == _NAMES | _START_NAMES
    assert few["start"] == scores["start"]["f1"]
    for end in ("", "_low", "_high"):
        assert few[f"gain_over_start{end}"] == scores["gain_over_start"][f"f1{end}"]
    lines = Path("artifacts/evaluate/f1.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == [
        model for model in ("zero_shot", "start", "adapted") for _ in range(2)
    ]
    for path in ("predictions.parquet", "general.parquet"):
        told = [_answers(f"evaluate/{path}", model) for model in ("zero_shot", "start", "adapted")]
        assert len({len(own) for own in told}) == 1 and told[0] and told[1] != told[0] != told[2]
        assert told[1] == _answers(f"baseline/{path}", "start")
    assert "adapted over the start alone: " in capsys.readouterr().err


def test_every_model_is_calibrated_on_the_same_claims_where_it_is_asked_for(
    finetuned: Any, start: Path, instructions: Path
) -> None:
    params = finetuned("privacy", start=str(start))
    assert evaluate_tiny(params, trained=instructions) == 0
    alone = read_json(Path("artifacts/evaluate/scores.json"))["calibrated"]
    prior = read_json(Path("artifacts/evaluate/calibration.json"))
    assert set(alone) == {"adapted"}, "a gain over a model that was not calibrated is none"
    made = read_yaml(params)
    params.write_text(json.dumps(overlay(made, {"evaluate": {"calibrated_models": "all"}})))
    assert evaluate_tiny(params, trained=instructions) == 0
    scores = read_json(Path("artifacts/evaluate/scores.json"))
    found = scores["calibrated"]
    assert set(found) == {"zero_shot", "start", "adapted", "gain", "gain_over_start"}
    assert found["adapted"] == alone["adapted"]
    assert read_json(Path("artifacts/evaluate/calibration.json")) == prior
    gain = found["adapted"]["f1"] - found["zero_shot"]["f1"]
    assert found["gain"]["f1"] == pytest.approx(gain, abs=0.011)


def test_the_start_is_scored_as_the_adapter_it_is(finetuned: Any, start: Path) -> None:
    """The same answers as where it is handed in as the adapted model."""
    params = finetuned("privacy", start=str(start))
    assert evaluate_tiny(params) == 0
    as_start = _answers("evaluate/predictions.parquet", "start")
    shutil.rmtree("artifacts/finetune")
    shutil.copytree(start, "artifacts/finetune")
    assert evaluate_tiny(params) == 0
    assert _answers("evaluate/predictions.parquet", "adapted") == as_start


def test_without_supervision_the_start_alone_is_the_adapted_model(
    start: Path, general: Path, make_params: Any, tiny_model: Path, instructions: Path
) -> None:
    params = finetune_tiny(
        make_params, tiny_model, _no_rows(instructions), "privacy", "none", start=str(start)
    )
    provenance = read_json(Path("artifacts/finetune/provenance.json"))
    assert not provenance["adapter"] and provenance["prompt"] == "bonito"
    assert provenance["start"] == sha256_folder(start)
    assert evaluate_tiny(params, general) == 0
    for path in ("evaluate/predictions.parquet", "evaluate/general.parquet"):
        told = {model: _answers(path, model) for model in ("zero_shot", "start", "adapted")}
        assert told["adapted"] == told["start"] != told["zero_shot"]
    scores = read_json(Path("artifacts/evaluate/scores.json"))
    for place in (scores, scores["general"], scores["prior_corrected"]):
        assert set(place["gain_over_start"].values()) == {0.0}
    assert scores["gain"]["f1"] == pytest.approx(
        scores["start"]["f1"] - scores["zero_shot"]["f1"], abs=0.011
    )


def test_without_supervision_and_start_the_unadapted_model_is_scored(
    workplace: Path, make_params: Any, tiny_model: Path, instructions: Path
) -> None:
    params = finetune_tiny(make_params, tiny_model, _no_rows(instructions), "privacy", "none")
    assert evaluate_tiny(params) == 0
    told = _answers("evaluate/predictions.parquet", "adapted")
    assert told == _answers("evaluate/predictions.parquet", "zero_shot")
    scores = read_json(Path("artifacts/evaluate/scores.json"))
    assert "start" not in scores and "gain_over_start" not in scores


def test_a_baseline_without_the_start_is_one_line(
    start: Path,
    make_params: Any,
    tiny_model: Path,
    instructions: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = finetune_tiny(
        make_params, tiny_model, _no_rows(instructions), "privacy", "none", start=str(start)
    )
    made = read_yaml(params)
    params.write_text(json.dumps(overlay(made, {"finetune": {"start": str(NONE)}})))
    assert evaluate_tiny(params) == 2
    assert "run the stages finetune and baseline with the same finetune.start" in (
        capsys.readouterr().err
    )


def _no_rows(instructions: Path) -> Path:
    path = instructions.with_name("no_rows.parquet")
    write_table(path, INSTRUCTIONS.empty_table())
    return path


def test_register_says_what_a_run_adds_to_its_start(
    finetuned: Any, start: Path, instructions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here nothing: the training is one step that moves no weight."""
    import mlflow

    write_judged(instructions)
    params = finetuned(
        "privacy",
        start=str(start),
        max_steps=1,
        learning_rate=1e-12,
        prompt="bonito",
    )
    assert evaluate_tiny(params) == 0 and register_tiny(params, instructions) == 0
    told = read_json(Path("artifacts/register/registration.json"))
    f1 = read_json(Path("artifacts/evaluate/scores.json"))["start"]["f1"]
    line = f"version 1: +0.0 F1 [+0.0, +0.0] against its start alone ({f1:.1f}): not above zero"
    assert told["over_start"] == line and line in capsys.readouterr().err
    client = mlflow.MlflowClient()
    assert client.get_model_version(told["model_name"], "1").description.endswith(f"\n\n{line}")
    metrics = client.get_run(told["run_id"]).data.metrics
    assert metrics["f1_start/privacy"] == f1 == metrics["f1/privacy"]
    gains = [metrics[f"gain_over_start{end}/privacy"] for end in ("", "_low", "_high")]
    assert gains == [0.0, 0.0, 0.0]
