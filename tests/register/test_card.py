"""The card of a registered version: in the adapter's folder, on the run, and safe to show."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard

from flows.runs.request import make_command
from tasks.core.files import read_json, write_json
from tasks.core.markdown import escape
from tasks.core.overlay import overlay
from tasks.core.params import parse_params
from tasks.core.yaml_file import read_yaml
from tasks.lm.licence import licence_of
from tasks.lm.models import EMBEDDED
from tasks.register import card
from tasks.register.card import make_card
from tasks.register.card_head import find_languages
from tasks.register.made_of import Part, join_licences
from tasks.register.run_record import lineage
from tasks.tracking.fetch_model import fetch_model
from tests.registered import COUNTED, EVIL_NAME, INGESTED


def test_the_card_comes_with_the_model_and_says_what_is_known(
    registered: Any, workplace: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("PIPELINE_COMMAND", make_command("mine", ["generate.seed=2"]))
    told = registered()
    uri = f"models:/{told['model_name']}@{told['alias']}"
    _, _, adapter, _ = fetch_model(uri, workplace / "fetched")
    card = (adapter / "README.md").read_text()
    assert card == Path("artifacts/register/README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    scores = read_json(Path("artifacts/evaluate/scores.json"))
    assert head["library_name"] == "peft" and "base_model" not in head, "a folder of this machine"
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == scores["adapted"]["f1"]
    assert "base-license:not-known" in head["tags"]
    assert head["license"] == "unknown" and head["language"] == ["en"]
    assert not {"license_name", "license_link", "datasets"} & {*head}
    for text in (
        "| zero-shot |",
        "| majority class |",
        "| adapted, prior corrected |",
        "| adapted, calibrated |",
        "right by review 40 % (30 to 50; 99 of 99 kept rows read)",
        "| finetune | 12 | 12 | none |",
        "Not measured: no general tasks were asked",
        "    make run PROFILE=mine SET=generate.seed=2",
        f"it was the {told['alias']}",
        "12 passages",
    ):
        assert text in card, text
    assert str(workplace) not in card and str(tiny_model.parent) not in card
    client = mlflow.MlflowClient()
    version = client.get_model_version(told["model_name"], "1")
    assert version.description.startswith("LoRA adapter of the folder model for privacy")
    names = {entry.path for entry in client.list_artifacts(told["run_id"])}
    assert "README.md" in names
    evaluated = {entry.path for entry in client.list_artifacts(told["run_id"], "evaluation")}
    assert "evaluation/report.html" in evaluated


def test_a_run_without_items_has_a_card_without_f1(params_of: Any) -> None:
    agreement = {"agreement": 12.0, "agreement_low": 8.0, "agreement_high": 16.0}
    scores = {
        **{"dataset": "mine", "task_type": "exqa", "heldout_rows": 7},
        "agreement": {"zero_shot": agreement, "adapted": agreement, "gain": agreement},
    }
    card = make_card(*params_of(scores)).text
    assert "There is no F1: the run had no labelled items." in card
    assert "| adapted | 12.0 (8.0 to 16.0) |" in card and "model-index" not in card


def test_verdicts_on_rows_that_no_generator_wrote_are_in_the_card(params_of: Any) -> None:
    stage, *told = params_of({})
    path = stage.path("supervise") / "summary.json"
    names = ("right", "right_low", "right_high", "reviewed", "reviewed_of")
    made = dict(zip(names, (0.93, 0.86, 0.96, 100, 354), strict=True))
    write_json(path, read_json(path) | {"review": made | {"by_task_type": {"nli": made}}})
    share = "93 % (86 to 96; 100 of 354 kept rows read)"
    assert (
        f"agreed by the reader not judged, right by review {share}." in make_card(stage, *told).text
    )


def test_hostile_names_are_text_in_the_card(params_of: Any) -> None:
    stage, provenance, scores, told = params_of(None)
    write_json(stage.path("ingest"), INGESTED | {"formats": {EVIL_NAME: 2}})
    card = make_card(stage, provenance, scores, told | {"verdict": EVIL_NAME}).text
    assert "<img" not in card and "\\](http&#58;//evil" in card
    assert "://evil" not in card and "\n# Injected" not in card
    assert escape(EVIL_NAME) in card
    assert all(line.count("|") == 3 for line in card.splitlines() if line.startswith("| formats"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a&#124;b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("[x](http://e)", r"\[x\](http&#58;//e)"),
        ("1. first", r"1\. first"),
        ("- item\n# head", r"\- item # head"),
        ("+3.5 (a) #1", "+3.5 (a) #1"),
        ("## head", r"\## head"),
        ("---", r"\---"),
        ("plain name-1", "plain name-1"),
    ],
)
def test_escape(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_licences_are_told_and_never_guessed(tmp_path: Path) -> None:
    assert licence_of(EMBEDDED) == "apache-2.0"
    assert licence_of(str(tmp_path)) == licence_of("nobody/nothing") == "not known"
    card = tmp_path / "README.md"
    for text, licence in (
        ("---\nlicense: mit\n---\n# Card\n", "mit"),
        ("---\nlicense: other\nlicense_name: research-only\n---\n", "other: research-only"),
        ("---\nlicense: other\nlicense_name: [a]\n---\n", "other"),
        ("---\nlicense: [a, b]\n---\n", "not known"),
        ('---\nlicense: "mit](http://e)"\n---\n', "not known"),
        ("---\n{ not yaml\n---\n", "not known"),
        ("Licence: MIT\n", "not known"),
    ):
        card.write_text(text)
        assert licence_of(str(tmp_path)) == licence


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("make run PROFILE=mine", "make run PROFILE=mine"),
        (
            "make run SET='ingest.corpus=/home/alice/client-x/docs generate.samples=2'",
            "make run SET='ingest.corpus=.../docs generate.samples=2'",
        ),
        (
            "make run SET=evaluate.items=~/x/items.jsonl",
            "make run SET=evaluate.items=.../items.jsonl",
        ),
        (
            "make run SET=ingest.corpus=s3://bucket/a/b",
            "make run SET=ingest.corpus=s3://bucket/a/b",
        ),
        ("make run SET=finetune.model=org/name", "make run SET=finetune.model=org/name"),
    ],
)
def test_the_command_of_a_card_tells_no_place(command: str, shown: str) -> None:
    assert card._PLACE.sub(".../", command) == shown


def test_the_command_is_one_that_a_shell_reads_back() -> None:
    assert make_command("default", []) == "make run"
    assert make_command("a,b", ["x.y=1 2"]) == "make run PROFILE=a,b SET=''\"'\"'x.y=1 2'\"'\"''"


@pytest.fixture
def params_of(tmp_path: Path, instructions: Path) -> Any:
    """Return a function: scores -> the arguments of make_card, with files of a finished run."""
    values = overlay(read_yaml(Path("params.yaml")), {"register": {"experiment": "toy"}})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    write_json(adapter / "summary.json", COUNTED)
    write_json(tmp_path / "ingested.json", INGESTED)
    write_json(tmp_path / "metrics.json", {"yield": None})
    names = ("agreed", "right", "right_low", "right_high")
    told = {"reviewed": 0, "reviewed_of": 0, "readers": [f"sha256:{'b' * 64} on {'c' * 40}"]}
    write_json(tmp_path / "summary.json", COUNTED | dict.fromkeys(names) | told)
    write_json(tmp_path / "generated.json", {"generator": f"own/generator@{'d' * 40}"})
    places = {"ingest": tmp_path / "ingested.json", "finetune": adapter}
    places["generate"] = tmp_path / "generated.json"
    places |= dict.fromkeys(("validate", "verify", "supervise"), tmp_path)
    stage = SimpleNamespace(params=parse_params(values, "params.yaml"), path=places.__getitem__)
    provenance = {
        **{
            "base": EMBEDDED,
            "revision": "main",
            "adapter": True,
            "quantization": "nf4",
            "precision": "float32",
        },
        **{"prompt": "chat", "start": "", "steps": 3, "rows": 12, "instructions_sha256": "0" * 64},
    }
    f1 = {"f1": 10.0, "f1_low": 5.0, "f1_high": 15.0}
    scored = {
        **{"dataset": "mine", "task_type": "exqa", "metric": "squad_f1", "items": 4},
        **{"templates": 2, "zero_shot": f1, "adapted": f1, "gain": f1},
    }
    told = {
        **{"model_name": "m", "version": "1", "alias": "challenger", "verdict": "not measured"},
        "run_id": "r",
    }
    return lambda scores: (stage, provenance, scores or scored, told)


def test_what_went_on_from_a_champion_says_from_which(params_of: Any) -> None:
    stage, provenance, scores, told = params_of({})
    facts = {"name": "pumps", "version": "3", "continues": True}
    begun = provenance | {"start": "a" * 64, "champion": facts}
    assert "pumps version 3, the champion before (sha256 aaaaaaaaaaaa)" in (
        make_card(stage, begun, scores, told).text
    )
    started_over = begun | {"champion": facts | {"continues": False}}
    assert "smollm2-135m-answering (sha256" in make_card(stage, started_over, scores, told).text


def test_the_card_says_that_what_it_was_made_of_is_not_free(params_of: Any) -> None:
    stage, provenance, scores, told = params_of({})
    begun = provenance | {"start": "a" * 64}
    card = make_card(stage, begun, scores, told).text
    said = "other: non-commercial-training-rows"
    assert f"| start | the folder smollm2-135m-answering (sha256 aaaaaaaaaaaa) | {said} |" in card
    assert f"| generator | the folder bonito-smollm2-135m, commit {'d' * 40} | {said} |" in card
    assert f"| reader | the folder smollm2-135m-answering (sha256 bbbbbbbbbbbb) | {said} |" in card
    tags = yaml.safe_load(card.split("---\n")[1])["tags"]
    assert {"base-license:apache-2.0", "start-license:other-non-commercial-training-rows"} <= {
        *tags
    }


def test_the_hub_reads_all_that_the_head_says(params_of: Any) -> None:
    stage, *told = params_of({})
    ingest = stage.params.ingest.model_copy(update={"corpus": "hf://own/docs?split=train"})
    stage.params = stage.params.model_copy(update={"ingest": ingest})
    text = make_card(stage, *told).text
    data = ModelCard(text).data
    assert data.to_dict() == yaml.safe_load(text.split("---\n")[1]), "nothing lost or renamed"
    assert (data.license, data.license_name) == ("other", "non-commercial-training-rows")
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-generation")
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert data.base_model_relation == "adapter" and {"lora", "peft"} <= {*data.tags}
    assert data.language == ["en"] and data.datasets == ["own/docs"]
    assert data.model_name == "m"
    assert data.eval_results == [
        EvalResult(
            task_type="text-generation",
            task_name="exqa",
            dataset_type="mine",
            dataset_name="mine",
            metric_type="f1",
            metric_name="squad_f1",
            metric_value=10.0,
        )
    ]


@pytest.mark.parametrize(
    ("licences", "head"),
    [
        (["mit", "apache-2.0", "mit"], {"license": "apache-2.0"}),
        (["apache-2.0", "llama3.1"], {"license": "llama3.1"}),
        (["apache-2.0", "not known"], {"license": "unknown"}),
        (["mit", "as its own card says"], {"license": "unknown"}),
        (
            ["mit", "other: research-only"],
            {"license": "other", "license_name": "research-only", "license_link": "own/1"},
        ),
        (["mit", "other"], {"license": "other"}),
        (
            ["llama3.1", "other: research-only", "cc-by-nc-4.0"],
            {"license": "other", "license_name": "cc-by-nc-4.0-and-llama3.1-and-research-only"},
        ),
    ],
)
def test_the_strictest_licence_binds(licences: list[str], head: dict[str, str]) -> None:
    parts = [Part("base", "m", licence, f"own/{n}") for n, licence in enumerate(licences)]
    assert join_licences(parts) == head


def test_given_rows_state_no_licence(params_of: Any) -> None:
    stage, *told = params_of({})
    given = {"source": "bonito+labelled:0.5", "rows": "data/incidents/labelled.jsonl"}
    supervise = stage.params.supervise.model_copy(update=given)
    stage.params = stage.params.model_copy(update={"supervise": supervise})
    text = make_card(stage, *told).text
    assert "rows | data/incidents/labelled.jsonl (labelled) | not known |" in text
    assert "license_name: non-commercial-training-rows-and-unknown\n" in text


def test_outside_a_checkout_nothing_is_said_of_its_commit(
    params_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run there was tagged as one without changes."""
    stage, provenance, _, _ = params_of({})
    items = str(Path(stage.params.evaluate.items).absolute())
    evaluate = stage.params.evaluate.model_copy(update={"items": items})
    stage.params = stage.params.model_copy(update={"evaluate": evaluate})
    monkeypatch.chdir(tmp_path)
    assert not [name for name in lineage(stage, provenance) if name.startswith("git.")]


def test_a_language_of_few_passages_is_not_listed() -> None:
    english = "The pump failed at noon because its seal broke, and nobody was there."
    german = "Die Pumpe fiel am Mittag aus, weil ihre Dichtung brach, und niemand war da."
    assert find_languages([english] * 2 + [german], []) == ["en", "de"]
    assert find_languages([english] * 19 + [german], []) == ["en"]
    assert find_languages([english, german], ["de"]) == ["de"]
    assert find_languages([], []) == []
