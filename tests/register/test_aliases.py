"""The run, the version and the alias that register makes of an evaluation."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tasks import serve
from tasks.core.files import read_json, write_json
from tasks.evaluate import stage as evaluate
from tasks.register import champion
from tasks.register.run_record import flatten
from tasks.scoring import datasets
from tasks.scoring.datasets import Dataset, Item
from tasks.tracking.fetch_model import default_name
from tasks.tracking.mlflow_store import TRAINING_KEY
from tests.registered import COUNTED, evaluate_tiny, register_tiny, write_judged


def test_register_makes_one_run_one_version_and_moves_aliases_by_evidence(
    finetuned: Any, instructions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    loads: list[Path] = []

    def load_items(dataset: Dataset, path: Path, *more: Any) -> list[Item]:
        loads.append(path)
        return datasets.load_items(dataset, path, *more)

    monkeypatch.setattr(champion, "load_items", load_items)
    write_judged(instructions)
    made = {"right": 0.9, "right_low": None, "right_high": None, "reviewed": 10, "reviewed_of": 30}
    review = made | {"by_task_type": {"nli": made}}
    write_json(instructions.parent / "summary.json", COUNTED | {"review": review})
    params = finetuned("privacy")
    assert evaluate_tiny(params) == 0 and register_tiny(params, instructions) == 0
    assert loads == [Path("items.jsonl")], "the questions are loaded once"
    told = read_json(Path("artifacts/register/registration.json"))
    client = mlflow.MlflowClient()
    run = client.get_run(told["run_id"])
    metrics = read_json(Path("artifacts/evaluate/scores.json"))
    assert (
        run.info.status == "FINISHED" and run.data.metrics["f1/privacy"] == metrics["adapted"]["f1"]
    )
    assert run.data.metrics["rows_right"] == 0.4 and run.data.tags["rows.quality"] == (
        "well-formed 80 %, agreed by the reader 50 %, right by review 40 % (30 to 50; 99 of 99 "
        "kept rows read); of the rows that no generator wrote 90 % (10 of 30 kept rows read, no "
        "sample of them)"
    )
    assert run.data.metrics["rows_right_made"] == 0.9
    assert run.data.params["finetune.lora_rank"] == "16" and run.data.tags[TRAINING_KEY]
    assert len(client.get_metric_history(told["run_id"], "train_loss")) == 3
    few = {
        f"{key}/privacy"
        for key in (
            *("f1", "f1_low", "f1_high", "f1_zero_shot"),
            *("gain", "f1_majority", "f1_calibrated"),
        )
    } | {"rows", "steps", "train_loss", "rows_well_formed", "rows_agreed", "rows_right"}
    few.add("rows_right_made")
    assert set(run.data.metrics) == few, "MLflow's pages slow down with every further key"
    stored = {path.name for path in Path("mlartifacts").rglob("*.safetensors")}
    assert stored == {"adapter_model.safetensors"}, (
        "the adapter alone is stored, not the base model's weights"
    )
    assert told["version"] == "1" and told["alias"] == "challenger"
    assert "; not better than the majority class: " in told["verdict"]
    assert told["in_evaluation"] == run.data.tags["in_evaluation"]
    assert told["in_evaluation"].startswith("12 of 30 passages of the corpus are also in the eval")
    assert register_tiny(params, instructions) == 0, "a second registration of the same adapter"
    assert read_json(Path("artifacts/register/registration.json"))["version"] == "1"
    assert told["parity"]["items"] == 6 and run.data.tags["parity"].startswith("of 6 items")
    model = client.search_logged_models([run.info.experiment_id])[0]
    assert {metric.key: metric.dataset_name for metric in model.metrics}[
        "f1/privacy"
    ] == "privacy", "the scores are tied to the model and the dataset"
    server = serve.prepare(f"models:/{told['model_name']}@{told['alias']}", "127.0.0.1", 8123, 512)
    command, example = server.command, server.example
    assert server.kept is not None and len(server.kept.answers) == 6
    merged = Path(command[command.index("--model") + 1])
    assert (
        command[command.index("--served-model-name") + 1] == told["model_name"]
        and read_json(merged / "made_from.json")["adapter"]
    )
    body = json.loads(shlex.split(example)[-1])
    assert "Pump P-1 failed at noon" in body["prompt"] and body["model"] == told["model_name"]
    assert body["prompt"].count("Did it fail") == 1
    assert len(body["allowed_token_ids"]) == len(body["logit_bias"]) == 2
    answer = mlflow.pyfunc.load_model(f"models:/{told['model_name']}/1").predict(
        ["Why?"], params={"max_new_tokens": 3}
    )
    assert isinstance(answer[0], str)


def test_a_template_may_have_a_comma_in_its_name() -> None:
    found = {"f1": 35.0, "by_dataset": {"d": {"by_template": {'yes, "no"': {"f1": 35.0}}}}}
    rows = list(csv.reader(io.StringIO(evaluate._f1_csv({"dataset": "d", "adapted": found}))))
    assert rows == [["model", "template", "f1"], ["adapted", 'yes, "no"', "35.0"]]


def test_names() -> None:
    assert (
        default_name("embedded:smollm2-135m-instruct", "incidents")
        == "smollm2-135m-instruct-incidents"
    )
    assert default_name("mistralai/Mistral-7B-v0.1", "nda set") == "Mistral-7B-v0.1-nda-set"
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}
