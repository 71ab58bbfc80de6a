"""Settings in layers, and the YAML that a person writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from flows.runs import request
from tasks.core.errors import PipelineError
from tasks.core.overlay import parse_setting, profile_files, read_layers, split_settings
from tasks.core.params import parse_params
from tasks.core.yaml_file import parse_yaml, read_yaml
from tests.conftest import ROOT

_BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.fixture
def main(tmp_path: Path) -> Path:
    """A checkout with the shipped parameters and two profiles."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/large.yaml").write_text("finetune: {lora_rank: 64, epochs: 3.0}\n")
    (tmp_path / "profiles/mine.yaml").write_text("finetune: {epochs: 2.0}\n")
    return tmp_path


def test_profiles_stack_and_the_last_one_is_strongest(main: Path) -> None:
    run = request.plan(main, "large,mine", ["finetune.seed=5"])
    training = run.params["finetune"]
    assert (training["lora_rank"], training["epochs"], training["seed"]) == (64, 2.0, 5)
    assert request.plan(main, "mine, large").params["finetune"]["epochs"] == 3.0
    assert request.plan(main, "default,mine").params["finetune"]["epochs"] == 2.0


def test_the_papers_setting_is_the_profiles_and_written_down() -> None:
    """Every value of docs/paper.md is what a run with the profile gets, and every setting of the
    profile that changes a result is in the table.
    """
    values = request.plan(ROOT, "mistral-7b").params
    parsed = parse_params(values, "mistral-7b").model_dump(mode="json")
    rows = re.findall(
        r"^\| `(\w+)\.(\w+)` \| .* \| `(.*?)`.* \|$",
        (ROOT / "docs/paper.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) > 25
    for section, name, value in rows:
        told = parsed[section][name]
        assert (str(told).lower() if isinstance(told, bool) else str(told)) == value, name
    ours = {
        "ingest.passage_tokens",
        "generate.shard_rows",
        "finetune.resident",
        "finetune.restart",
        "finetune.micro_batch_rows",
        "finetune.checkpoint_steps",
        "finetune.gradient_checkpointing",
    }
    profile = read_yaml(ROOT / "profiles/mistral-7b.yaml")
    set_there = {f"{section}.{name}" for section in profile for name in profile[section]}
    assert set_there - ours <= {f"{section}.{name}" for section, name, _ in rows}


def test_stacked_profiles_have_a_name_of_their_own(main: Path) -> None:
    names = [
        request.plan(main, profile, settings).name
        for profile in ("large", "mine", "large,mine", "mine,large")
        for settings in ([], ["finetune.seed=5"])
    ]
    assert len(set(names)) == len(names) and names[0] == "large"
    assert names[4].startswith("large-mine-")


def test_an_unknown_profile_in_a_row_is_named(main: Path) -> None:
    with pytest.raises(PipelineError, match=r"'min' \(did you mean 'mine'\?\)"):
        profile_files(main / "profiles", "large,min")


def test_a_setting_replaces_a_value_whole(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("finetune: {mixture: {exqa: 1, nli: 2}, seed: 1}\n")
    values, layers = read_layers(tmp_path / "p.yaml", (), ["finetune.mixture={}"])
    assert values == {"finetune": {"mixture": {}, "seed": 1}}
    assert layers == f"{tmp_path / 'p.yaml'} + finetune.mixture={{}}"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ('finetune.model="yes"', "finetune.model = true: must be text: put it in quotes"),
        ("finetune.model=7", "finetune.model = 7: must be text: put it in quotes"),
    ],
)
def test_quotes_of_a_setting_are_told_as_set_takes_them(main: Path, given: str, told: str) -> None:
    """SET is split like a shell's words: plain quotes are gone before YAML sees the value."""
    with pytest.raises(PipelineError, match=re.escape(told)) as refused:
        request.plan(main, "default", split_settings(given))
    assert str(refused.value).endswith(r", in SET as \"...\"")
    (setting,) = split_settings(r"finetune.model=\"yes\"")
    assert request.plan(main, "default", [setting]).params["finetune"]["model"] == "yes"
    (main / "profiles/wrong.yaml").write_text("finetune: {model: yes}\n")
    with pytest.raises(PipelineError) as refused:
        request.plan(main, "wrong", ["finetune.seed=2"])
    assert "put it in quotes (YAML" in str(refused.value), "in a file quotes are quotes"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=0.7", 0.7),
        ("a.b=[x, y]", ["x", "y"]),
        ("a.b=", ""),
        ("a.b=2024-13-45", "2024-13-45"),
        ("a.b=2024-12-01", "2024-12-01"),
        ("a.b=k=v", "k=v"),
    ],
)
def test_a_settings_value_is_yaml_and_a_date_is_text(text: str, value: Any) -> None:
    assert parse_setting(text) == (["a", "b"], value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_BOMB, "aliases stand for more than 1,000,000 values"),
        ("a: &a [*a]", "aliases stand for more than"),
        ("a: &a {b: *a}", "aliases stand for more than"),
        ("a: 1\nb: {c: 1, c: 2}", r"key 'c' is given twice \(mapping of line 2\)"),
        ("a: 1\na: 2", "key 'a' is given twice"),
        ("[" * 5000, "nested too deeply"),
        ("a: !!int x", "invalid literal"),
        *((f"a: !!{tag}", "not valid YAML") for tag in ("bool x", "timestamp x", "map [x]")),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: [", "not valid YAML: while parsing"),
        ("- a", "must be a YAML mapping"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(PipelineError, match=message) as error:
        read_yaml(tmp_path / "p.yaml")
    assert "\n" not in str(error.value) and str(tmp_path / "p.yaml") in str(error.value)


def test_a_file_that_is_missing_or_not_utf8_or_a_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"p\.yaml does not exist"):
        read_yaml(tmp_path / "p.yaml")
    (tmp_path / "p.yaml").write_bytes(b"a: caf\xe9\n")
    with pytest.raises(PipelineError, match=r"p\.yaml is not UTF-8 \(byte 6\)"):
        read_yaml(tmp_path / "p.yaml")
    with pytest.raises(PipelineError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_a_modest_alias_is_read() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x", "text") == {"a": [1, 2], "b": [1, 2]}
