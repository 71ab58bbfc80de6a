"""``bonito/dvc.yaml``: its dependency lists are true, and ``dvc repro`` makes a generator of a
handful of invented rows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bonito.settings import main, merge_settings, write_settings
from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.overlay import overlay
from tasks.core.setting_paths import NOTHING
from tasks.core.yaml_file import read_yaml
from tests.test_graph import packages
from tests.toy import environment

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["remix", "finetune", "evaluate"]
#: The stages of the answering model: their parameters are in the package answering.
ANSWERING = ["answering", "train_answering"]
#: Data files that a stage's settings name.
_NAMED = {"remix": {"bonito/datasets.yaml", "bonito/task_types.csv"}}


def definition() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "bonito/dvc.yaml").read_text())
    return found


@pytest.mark.parametrize("stage", [*STAGES, *ANSWERING])
def test_deps_are_the_packages_a_stage_imports(stage: str) -> None:
    deps = {
        dep
        for dep in definition()["stages"][stage]["deps"]
        if dep.split("/")[0] in ("tasks", "bonito") and "artifacts" not in dep
    }
    used = packages(f"bonito.{stage}.__main__") - {"bonito/settings.py"}
    assert deps == used | _NAMED.get(stage, set())


def test_stages_have_one_name_and_read_what_the_one_before_wrote() -> None:
    stages = definition()["stages"]
    assert list(stages) == STAGES + ANSWERING
    for name, stage in stages.items():
        assert stage["wdir"] == ".." and stage["outs"] == [f"bonito/artifacts/{name}"]
        assert "params" not in stage
        own = "bonito/answering" if name in ANSWERING else f"${{sections}}/{name}.yaml"
        assert own in stage["deps"]
        settings = "${answering}" if name in ANSWERING else "${settings}"
        assert stage["cmd"].startswith(f"python -m bonito.{name} --params {settings} ") and stage[
            "cmd"
        ].endswith(f" --out bonito/artifacts/{name}")
    for name in ("finetune", "evaluate", *ANSWERING):
        assert [
            dep for dep in stages[name]["deps"] if "artifacts" in dep and dep in stages[name]["cmd"]
        ]


@pytest.mark.parametrize(
    ("profile", "model", "rank", "alpha"),
    [
        ("", "Mistral-7B", 64, 4),
        ("mistral-7b", "Mistral-7B", 64, 4),
        ("llama-3.1-8b", "Llama-3.1-8B", 64, 4),
    ],
)
def test_the_profiles_of_the_paper_have_the_card_s_settings(
    profile: str, model: str, rank: int, alpha: int
) -> None:
    training = merge_settings(profile, [])["finetune"]
    assert training["model"].endswith(model) or model in training["model"]
    assert (
        training["lora_rank"],
        training["lora_alpha"],
        training["quantization"],
        training["lora_dropout"],
    ) == (rank, alpha, "nf4", 0.0)
    assert (
        training["learning_rate"],
        training["max_grad_norm"],
        training["batch_rows"],
        training["max_steps"],
    ) == (1e-4, 0.3, 16, 100_000)
    assert (training["max_prompt_tokens"], training["max_response_tokens"]) == (2048, 2048)


def test_settings_are_merged_and_an_unchanged_file_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "params.yaml"
    asked = ["--profile", "embedded", "--set", "finetune.seed=7", "evaluate.judge="]
    assert main([*asked, "--out", str(out)]) == 0
    values, written = yaml.safe_load(out.read_text()), out.stat().st_mtime_ns
    assert (
        values["finetune"]["seed"] == 7
        and values["finetune"]["model"].startswith("embedded:")
        and values["remix"]["seed"] == 1
    )
    assert main([*asked, "--out", str(out)]) == 0
    assert out.stat().st_mtime_ns == written
    for name in STAGES:
        assert yaml.safe_load((tmp_path / f"params/{name}.yaml").read_text()) == values[name]
    capsys.readouterr()
    assert main(["--profile", "embeded", "--out", str(out)]) == 2
    assert (
        capsys.readouterr().err
        == "error: settings: unknown profile 'embeded' (did you mean 'embedded'?): "
        "profiles are the files of profiles/\n"
    )


def test_a_changed_file_that_the_settings_name_changes_the_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC compares the section's file: with new types for the templates it ran no remix."""
    monkeypatch.chdir(tmp_path)
    tables = ["remix.datasets=[datasets.yaml]", "remix.task_types=[types.csv]"]
    values = merge_settings("embedded", [*tables, "finetune.start=before"])
    Path("datasets.yaml").write_text("datasets: []\n")
    Path("before").mkdir()

    def sections() -> list[str]:
        write_settings(values, Path("params.yaml"))
        found = [Path("params", f"{name}.yaml").read_text() for name in ("remix", "finetune")]
        assert [yaml.safe_load(text) for text in found] == [values["remix"], values["finetune"]]
        return found

    first = sections()
    assert sections() == first
    Path("types.csv").write_text("dataset_name,dataset_config_name,template_name,task_type\n")
    second = sections()
    assert second[0] != first[0] and second[1] == first[1]
    Path("before/adapter_config.json").write_text("{}")
    assert sections()[0] == second[0] and sections()[1] != second[1]


@pytest.mark.parametrize(("section", "key"), [("finetune", "model"), ("evaluate", "judge")])
def test_a_model_that_changed_in_its_folder_changes_the_section(
    tmp_path: Path, section: str, key: str
) -> None:
    """`make bonito` skipped the training on weights that had been replaced."""
    weights = tmp_path / "base" / "model.safetensors"
    weights.parent.mkdir()
    values = merge_settings("embedded", [f"{section}.{key}={weights.parent}"])
    found = []
    for text in ("old", "new"):
        weights.write_text(text)
        write_settings(values, tmp_path / "params.yaml")
        found.append((tmp_path / f"params/{section}.yaml").read_text())
    assert found[0] != found[1]
    assert yaml.safe_load(found[1]) == values[section]


@pytest.mark.parametrize(
    ("setting", "said"),
    [("finetune.sed=1", "unknown key 'finetune.sed'"), ("seed", "write section.key=value")],
)
def test_a_wrong_setting_is_named(setting: str, said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        merge_settings("embedded", [setting])


def test_a_setting_that_the_command_would_ignore_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make answering` reads the section remix alone: the rest of SET had no effect."""
    asked = ["--profile=embedded", "--only=remix", "--out", str(tmp_path / "params.yaml")]
    assert main([*asked, "--settings=remix.seed=2 finetune.seed=2"]) == 2
    assert capsys.readouterr().err == (
        "error: settings: finetune.seed=2 would have no effect: only settings of remix are read\n"
    )
    assert not (tmp_path / "params.yaml").exists()
    assert main([*asked, "--settings=remix.seed=2"]) == 0


def make_home(folder: Path, model: Path) -> None:
    """A checkout with one invented dataset and two templates, ready for ``dvc repro
    bonito/dvc.yaml``.
    """
    for name in ("tasks", "bonito", "supervision"):
        shutil.copytree(
            ROOT / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__", "artifacts", "dvc.lock"),
        )
    shutil.copytree(
        ROOT / ".dvc",
        folder / ".dvc",
        ignore=shutil.ignore_patterns("cache", "tmp", "config.local"),
    )
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    local = folder / "local"
    (local / "templates/harbours").mkdir(parents=True)
    entries = {
        "ask": {"name": "ask", "jinja": "{{ text }}\n\nQ: {{ question }} ||| {{ answer }}"},
        "open": {
            "name": "open",
            "jinja": "{{ text }}\nIs the harbour open? Yes or no? ||| {{ answer_choices[label] }}",
            "answer_choices": "No ||| Yes",
        },
    }
    (local / "templates/harbours/templates.yaml").write_text(yaml.safe_dump({"templates": entries}))
    rows = [
        {
            "text": f"Harbour {n} was closed in {1900 + n} because of ice.",
            "question": f"When was harbour {n} closed?",
            "answer": str(1900 + n),
            "label": n % 2,
        }
        for n in range(40)
    ]
    (local / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (local / "sources.yaml").write_text(
        yaml.safe_dump({"sources": [{"dataset": "harbours", "path": "rows.jsonl"}]})
    )
    (local / "datasets.yaml").write_text(
        yaml.safe_dump(
            {"datasets": [{"dataset": "harbours", "passage": "{{ text }}", "licence": "cc0"}]}
        )
    )
    (local / "types.csv").write_text(
        "dataset_name,dataset_config_name,template_name,task_type\nharbours,,ask,exqa\nharbours,,open,yes-no "
        "question answering\n"
    )
    settings = [
        "remix.datasets=[local/datasets.yaml]",
        "remix.task_types=[local/types.csv]",
        "remix.held_out=0.3",
        "remix.workers=1",
        f"finetune.model={model}",
        "finetune.mixture={}",
        "finetune.balance=[]",
        "finetune.precision=float32",
        "finetune.quantization=none",
        "finetune.max_steps=2",
        "finetune.batch_rows=4",
        "finetune.micro_batch_rows=4",
        "finetune.max_prompt_tokens=800",
        "evaluate.judge=''",
        "evaluate.engine=transformers",
        "evaluate.precision=float32",
        "evaluate.rows_per_type=2",
        "evaluate.max_tokens=8",
    ]
    values = merge_settings("embedded", settings)
    write_settings(values, folder / "bonito/artifacts/params.yaml")
    answering = read_yaml(ROOT / "bonito/answering/params.yaml")
    smaller = {
        "answering": {"claims": 0},
        "finetune": {"model": str(model), "precision": "float32", "quantization": "none"},
    }
    smaller["finetune"]["start"] = NOTHING  # the shipped one is of another model
    (folder / NOTHING).parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / NOTHING, folder / NOTHING)
    start = Path("models/bonito-smollm2-135m")
    shutil.copytree(ROOT / start, folder / start)
    smaller["finetune"] |= {"max_steps": 2, "batch_rows": 4, "micro_batch_rows": 4}
    answering = overlay(answering, smaller)
    answering["answering"] |= {"mixture": {"exqa": 8, "ynqa": 8}, "balance": ["ynqa"]}
    (folder / "bonito/answering/params.yaml").write_text(yaml.safe_dump(answering))


def dvc(folder: Path, *arguments: str) -> str:
    names = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "BONITO_CACHE": str(folder / ".cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment(folder) | names,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_generator_and_answering_model_end_to_end(tmp_path: Path, tiny_model: Path) -> None:
    """The real graph, from the root and from bonito/, on a tiny random model and invented rows: the
    generator, and only when asked for the answering model.
    """
    home = tmp_path / "home"
    home.mkdir()
    make_home(home, tiny_model)
    subprocess.run(["git", "init", "-q"], cwd=home, check=True)
    dvc(home, "repro", "bonito/dvc.yaml:evaluate")
    made = home / "bonito/artifacts"
    assert read_json(made / "remix/summary.json")["rows_kept"] == 40
    provenance = read_json(made / "finetune/provenance.json")
    assert provenance["steps"] == 2 and set(provenance["rows_by_type_and_dataset"]) == {
        "exqa/harbours",
        "ynqa/harbours",
    }
    facts = read_json(made / "evaluate/scores.json")
    assert (
        facts["generator"] == "bonito/artifacts/finetune"
        and facts["generated"]["overall"]["rows"] == 4
    )
    assert facts["human"]["exqa"]["answer_in_passage"] == 1.0
    lock = yaml.safe_load((home / "bonito/dvc.lock").read_text())
    assert set(lock["stages"]) == set(STAGES)
    dvc(home, "repro", "bonito/dvc.yaml:train_answering")
    told = read_json(made / "train_answering/provenance.json")
    assert (told["steps"], told["rows"]) == (2, 8) and set(told["rows_by_type"]) == {"exqa", "ynqa"}
    assert sum(told["rows_by_type"].values()) == 8
    assert (made / "train_answering/adapter_model.safetensors").is_file()
    assert "up to date" in dvc(home / "bonito", "repro")
