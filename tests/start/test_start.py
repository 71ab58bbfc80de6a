"""``make start`` on small corpora: two files that a run takes as they are, or one line and none."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.claims.construct import SHARES
from tasks.core.errors import PipelineError
from tasks.core.lock import hold_lock
from tasks.core.overlay import profile_files, read_layers
from tasks.core.params import Params, parse_params
from tasks.scoring.datasets import has_items, load_dataset, load_items
from tests.conftest import ROOT
from tests.start.conftest import ENGLISH as _ENGLISH
from tests.start.conftest import GERMAN as _GERMAN
from tests.start.conftest import begin as _start
from tests.start.conftest import write_texts as _write

pytestmark = pytest.mark.usefixtures("ingest_here")


def _params(desk: Path, name: str) -> Params:
    values, layers = read_layers(desk / "params.yaml", [desk / f"profiles/{name}.yaml"])
    parsed: Params = parse_params(values, layers)
    return parsed


def test_a_folder_gives_a_profile_that_runs_without_items(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk / "docs here/empty.txt").write_text("")
    (desk / "docs here/scan.xyz").write_bytes(bytes(range(256)))
    corpus = desk / "docs here"
    assert _start(monkeypatch, CORPUS=corpus, NAME="mine") == 0
    params = _params(desk, "mine")
    assert params.ingest.corpus == str(corpus)
    assert params.evaluate.items == "local/mine/items.jsonl"
    assert (desk / "local/mine/items.jsonl").read_bytes() == b""
    assert not has_items(desk / "local/mine/items.jsonl")
    assert params.evaluate.dataset == "datasets/mine.yaml"
    assert params.generate.task_types == ("exqa",) and params.generate.max_passages == 0
    assert "# for make label PROFILE=mine; while it" in (desk / "profiles/mine.yaml").read_text()
    assert load_dataset(desk / "datasets/mine.yaml").name == "mine"
    for kind in ("profile", "dataset"):
        first = (desk / f"{kind}s/mine.yaml").read_text().splitlines()[0]
        assert first == f"# yaml-language-server: $schema=../schemas/{kind}.json"
    printed = capsys.readouterr().out
    assert all(len(line) <= 100 or str(desk) in line for line in printed.splitlines())
    assert "empty 1" in printed and "en 6 (passages)" in printed
    said = " ".join(printed.split())
    assert said.startswith(f"reading {corpus}: 8 files") and "0.0 MB, all looked at" in said
    licence = "other: non-commercial-training-rows"
    assert f"licence {licence} (generator, start), as their cards say: models/bonito-" in said
    assert "make label PROFILE=mine helps you write them, into local/mine/items.jsonl" in said
    assert printed.rstrip().endswith("make run PROFILE=mine")


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("exqa", {"context": "It broke.", "question": "What?", "answers": ["It"]}),
        ("ynqa", {"context": "It broke.", "question": "Did it?", "answer": "yes"}),
        ("nli", {"premise": "It broke.", "hypothesis": "It did.", "label": "entailment"}),
    ],
)
def test_items_are_read_as_evaluate_reads_them(
    desk: Path, monkeypatch: pytest.MonkeyPatch, kind: str, item: dict[str, Any]
) -> None:
    items = desk / "items.jsonl"
    items.write_text(json.dumps({"id": "1", **item}) + "\n")
    asked = {"CORPUS": desk / "docs here", "NAME": "own", "EVALUATION": items, "MODEL": "big"}
    assert _start(monkeypatch, **asked) == 0
    params = _params(desk, "own")
    assert params.generate.task_types == (kind,) and params.ingest.passage_tokens == 300
    assert "PROFILE=big,own" in (desk / "profiles/own.yaml").read_text()
    assert len(load_items(load_dataset(desk / "datasets/own.yaml"), items)) == 1


def test_the_columns_of_another_form_are_shown(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    items = desk / "items.jsonl"
    item = {"context": {"contexts": ["It broke."]}, "question": "Did it?", "final_decision": "no"}
    items.write_text(json.dumps({"pubid": 1, **item}) + "\n")
    assert _start(monkeypatch, CORPUS=desk / "docs here", NAME="own", EVALUATION=items) == 0
    printed = capsys.readouterr().out
    line = "columns    id pubid, context context.contexts, label final_decision (yes, no)\n"
    assert line in printed and "no item has the label yes: if none" in printed
    assert load_dataset(desk / "datasets/own.yaml").id == "pubid"


def test_what_is_not_english_is_told_and_left_out(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(desk / "docs here", _GERMAN, 3)
    assert _start(monkeypatch, CORPUS=desk / "docs here", NAME="mixed") == 0
    assert _params(desk, "mixed").ingest.languages == ("en",)
    printed = " ".join(capsys.readouterr().out.split())
    assert "en 6, de 3" in printed and "33% of the passages are not in English" in printed
    assert "supervise.source prompted" in printed
    wrote = "profiles/mixed.yaml, datasets/mixed.yaml, reviews/mixed.jsonl (empty)"
    assert f"{wrote}, local/mixed/items.jsonl (empty)" in printed


def test_passages_that_are_left_out_are_not_planned_with(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six of nine are in English: a first look of three would leave out a few of them only."""
    _write(desk / "docs here", _GERMAN, 3)
    monkeypatch.setattr("tasks.start.proposal._FIRST_LOOK", 3)
    assert _start(monkeypatch, CORPUS=desk / "docs here", NAME="mixed") == 0
    assert _params(desk, "mixed").generate.max_passages == 0
    assert "all, about 6 in English" in (desk / "profiles/mixed.yaml").read_text()
    assert "exqa on 6 passages" in capsys.readouterr().out


def test_languages_say_how_many_passages_were_looked_at(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.start.survey._LOOKED_AT", 3)
    assert _start(monkeypatch, CORPUS=desk / "docs here", NAME="large") == 0
    assert "en 3 (3 passages looked at)" in capsys.readouterr().out


def test_a_chat_model_may_write_in_other_languages(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """German files alone: the embedded generator refuses them, prompts of one's own do not."""
    _write(desk / "deutsch", _GERMAN, 4)
    assert _start(monkeypatch, CORPUS=desk / "deutsch", NAME="eins") == 2
    line = capsys.readouterr().err
    assert "no text in English (passages: de 4)" in line and "supervise.source prompted" in line
    (desk / "profiles/chat.yaml").write_text("supervise: {source: prompted}\n")
    assert _start(monkeypatch, CORPUS=desk / "deutsch", NAME="zwei", MODEL="chat") == 0
    assert _params(desk, "zwei").ingest.languages == ()
    assert "are left out" not in capsys.readouterr().out


def test_a_language_is_two_letters() -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["ingest"]["languages"] = ["english"]
    with pytest.raises(PipelineError, match="'english' is no code of two letters such as en"):
        parse_params(values, "params.yaml")


def test_a_large_folder_is_sampled(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.start.draw.FILES", 3)
    (desk / "docs here/.hidden").write_text("x")
    assert _start(monkeypatch, CORPUS=desk / "docs here", NAME="large") == 0
    printed = capsys.readouterr().out
    assert "a sample of 3 looked at" in printed and "hidden 1" in printed
    assert "all, about 6" in (desk / "profiles/large.yaml").read_text()


def test_of_one_large_table_the_beginning_is_read(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.dumps({"text": _ENGLISH.replace("{n}", str(n))}) + "\n" for n in range(1, 41)]
    table = desk / "all.jsonl"
    table.write_text("".join(rows))
    monkeypatch.setattr("tasks.start.draw.TEXT_BYTES", table.stat().st_size // 4)
    assert _start(monkeypatch, CORPUS=table, NAME="table") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"formats jsonl (9|10) ", printed) and "a sample of 1 looked at" in printed
    assert _params(desk, "table").ingest.corpus == str(table)


def test_of_one_long_line_the_beginning_is_read(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(_ENGLISH.replace("{n}", str(n)) for n in range(1, 41))
    (desk / "line.txt").write_text(text)
    monkeypatch.setattr("tasks.start.draw.TEXT_BYTES", len(text) // 4)
    assert _start(monkeypatch, CORPUS=desk / "line.txt", NAME="line") == 0
    assert "a sample of 1 looked at" in capsys.readouterr().out


def test_of_large_texts_the_beginnings_are_read(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """30 MB in one text file are 47,000 passages: a look at all of them took minutes."""
    text = "\n\n".join(_ENGLISH.replace("{n}", str(n)) for n in range(1, 41))
    (desk / "texts").mkdir()
    for name in ("a", "b"):
        (desk / f"texts/{name}.txt").write_text(text.replace("Pump", f"Pump {name}"))
    monkeypatch.setattr("tasks.start.draw.TEXT_BYTES", len(text) // 4)
    assert _start(monkeypatch, CORPUS=desk / "texts", NAME="texts") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 files, 0.0 MB, a sample of 1 looked at" in said and "formats text 1" in said
    about = re.search(r" in (\d+) passages; about [\d,]+ in (\d+) in all", said)
    assert about and 30 <= int(about[2]) <= 160 and int(about[2]) == 8 * int(about[1])


def _nothing(desk: Path) -> dict[str, Any]:
    (desk / "nothing").mkdir()
    return {"CORPUS": desk / "nothing"}


def _german(desk: Path) -> dict[str, Any]:
    _write(desk / "german", _GERMAN, 4)
    return {"CORPUS": desk / "german"}


def _unreadable(desk: Path) -> dict[str, Any]:
    (desk / "odd").mkdir()
    (desk / "odd/a.xyz").write_bytes(bytes(range(256)))
    return {"CORPUS": desk / "odd"}


def _items(text: str) -> Any:
    def write(desk: Path) -> dict[str, Any]:
        (desk / "items.jsonl").write_text(text)
        return {"EVALUATION": desk / "items.jsonl"}

    return write


def _in_corpus(desk: Path) -> dict[str, Any]:
    items = desk / "docs here/items.csv"
    items.write_text("id,premise,hypothesis,label\n1,It broke.,It did.,entailment\n")
    (desk / "items").symlink_to("docs here")
    return {"EVALUATION": desk / "items/items.csv"}


def _latin(desk: Path) -> dict[str, Any]:
    folder = desk / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    return {"CORPUS": folder}


def _latin_items(desk: Path) -> dict[str, Any]:
    items = desk / os.fsdecode(b"r\xe9ponses.jsonl")
    items.write_text('{"id": "1", "context": "a", "question": "b", "answers": ["a"]}\n')
    return {"EVALUATION": items}


def _earlier_items(desk: Path) -> dict[str, Any]:
    """Items that an earlier profile of the name left: start said that there were none yet."""
    (desk / "local/mine").mkdir(parents=True)
    (desk / "local/mine/items.jsonl").write_text(
        '{"id": "1", "context": "a b", "question": "b?", "answer": "yes"}\n'
    )
    return {}


def _address(desk: Path) -> dict[str, Any]:
    """A look at it read the whole corpus, for a profile that make plan then refused."""
    (desk / "mine.address").write_text("s3://bucket\n")
    return {"CORPUS": desk / "mine.address"}


def _in_data(desk: Path) -> dict[str, Any]:
    (desk / "data/mine").mkdir(parents=True)
    return {"CORPUS": desk / "data/mine"}


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda _: {"CORPUS": "nowhere"}, "CORPUS=nowhere does not exist"),
        (lambda _: {"CORPUS": ""}, "no corpus: make start CORPUS=folder NAME=mine"),
        (lambda _: {"CORPUS": "s3://bucket"}, "s3://bucket is on another machine"),
        (_address, "mine.address is on another machine, and make start looks at"),
        (lambda _: {"CORPUS": "~nobody-of-this-name/a"}, "this-name/a does not exist"),
        (lambda desk: {"CORPUS": desk}, "holds this checkout, so a run would read what runs write"),
        (lambda desk: {"CORPUS": desk.parent}, "holds this checkout"),
        (
            _earlier_items,
            "local/mine/items.jsonl has labelled items already: EVALUATION=local/mine",
        ),
        (_nothing, "holds no file that can be read"),
        (_unreadable, "a.xyz: unsupported_format, .xyz, not a text file; docs/corpus.md says what"),
        (_german, "has no text in English (passages: de 4)"),
        (_in_data, "data/ belongs to the shipped example"),
        (_latin, "caf\\udce9': its name is not UTF-8, so no profile can hold it: rename it"),
        (_latin_items, "ponses.jsonl': its name is not UTF-8"),
        (lambda _: {"NAME": ""}, "no name: make start"),
        (
            lambda _: {"NAME": "big"},
            "profiles/big.yaml exists and is not overwritten: choose another NAME, or remove "
            "profiles/big.yaml and datasets/big.yaml where",
        ),
        (lambda _: {"NAME": "default"}, "cannot name a run"),
        (lambda _: {"NAME": "a,b"}, "cannot name a run"),
        (lambda _: {"NAME": "$(touch x)"}, "cannot name a run"),
        (lambda _: {"MODEL": "bog"}, "unknown profile 'bog' (did you mean 'big'?)"),
        (lambda _: {"SET": "generate.samples=2"}, "make start takes settings of ingest alone"),
        (lambda _: {"SET": "ingest.corpus=here"}, "name the corpus with CORPUS=folder"),
        (lambda _: {"SET": "ingest.text_colum=a"}, "did you mean 'text_column'?"),
        (lambda _: {"SET": "ingest.min_tokens=few"}, "must be a whole number"),
        (_in_corpus, "items.csv is in the corpus"),
        (lambda desk: {"EVALUATION": desk / "docs here"}, "is in the corpus"),
        (lambda _: {"TASK": "exq"}, "unknown task type 'exq' (did you mean 'exqa'?"),
        (lambda _: {"TASK": "wsd"}, "write those of other types by hand"),
        (lambda _: {"EVALUATION": "no.jsonl"}, "no.jsonl does not exist"),
        (_items(""), "has no items"),
        (_items('{"id": "1", "text": "a"}\n'), "an item has the columns id, text; known forms"),
        (_items('{"id": "1", "context": "a", "answers": ["b"]}\n'), "question"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prepare: Any,
    said: str,
) -> None:
    asked = {"CORPUS": desk / "docs here", "NAME": "mine"} | prepare(desk)
    assert _start(monkeypatch, **asked) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert [path.name for path in (desk / "profiles").iterdir()] == ["big.yaml"]
    assert list((desk / "datasets").iterdir()) == [] and not (desk / "reviews").exists()


def test_a_second_start_says_who_holds_the_first(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk / ".work").mkdir()
    with hold_lock(desk / ".work/start.lock", "make start"):
        assert _start(monkeypatch, CORPUS=desk / "docs here", NAME="mine") == 2
    error = capsys.readouterr().err
    assert f'make start is already being run here by {{"pid": {os.getpid()}' in error
    assert error.count("\n") == 1 and not (desk / "profiles/mine.yaml").exists()


def test_a_tilde_is_the_users_own_folder(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shells other than bash leave it to the program; the items of EVALUATION were not found."""
    monkeypatch.setenv("HOME", str(desk))
    (desk / "items.jsonl").write_text(
        '{"id": "1", "context": "a b", "question": "b?", "answers": ["a"]}\n'
    )
    asked = {"CORPUS": "~/docs here", "NAME": "mine", "EVALUATION": "~/items.jsonl"}
    assert _start(monkeypatch, **asked) == 0, capsys.readouterr().err
    assert _params(desk, "mine").evaluate.items == str(desk / "items.jsonl")


@pytest.mark.parametrize("name", ["\u00c3\u009cbersicht", "a \u2028b", "\U0001f600: #1"])
def test_any_name_of_a_folder_stays_itself_in_the_profile(
    desk: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """UTF-8 that was taken for Latin-1 has control characters: YAML wants them escaped."""
    _write(desk / name, _ENGLISH, 3)
    assert _start(monkeypatch, CORPUS=desk / name, NAME="mine") == 0
    assert _params(desk, "mine").ingest.corpus == str(desk / name)


def test_names_of_files_do_not_steer_the_terminal(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(desk / "odd \x1b[1m\nname", _ENGLISH, 3)
    (desk / "odd \x1b[1m\nname/\x1b[2Jlink").symlink_to("nowhere")
    assert _start(monkeypatch, CORPUS=desk / "odd \x1b[1m\nname", NAME="mine") == 0
    printed = capsys.readouterr().out
    assert "cannot hash" in printed and "\x1b" not in printed and "\nname" not in printed


@pytest.mark.parametrize("name", ["contracts-2", "true", "1e5", "Q4.reports"])
def test_a_name_stays_a_name_in_yaml(
    desk: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert _start(monkeypatch, CORPUS=desk / "docs here", NAME=name) == 0
    assert load_dataset(desk / f"datasets/{name}.yaml").name == name
    assert _params(desk, name).evaluate.dataset == f"datasets/{name}.yaml"


def test_the_recipe_holds_no_value_of_the_user() -> None:
    """The shell would run what a name holds in backquotes."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    recipe = makefile.split("\nstart: ")[1].split("\n\n")[0]
    assert "$(CORPUS" not in recipe and "$(NAME" not in recipe
    exported = next(line for line in makefile.splitlines() if line.startswith("VALUES :="))
    assert {"CORPUS", "NAME", "EVALUATION", "MODEL", "TASK"} <= set(exported.split())


def test_where_rules_make_enough_rows_the_command_is_shown(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "data/contracts/documents", desk / "rules")
    assert _start(monkeypatch, CORPUS=desk / "rules", NAME="rules", TASK="nli") == 0
    found = re.search(r"or +make run PROFILE=rules,constructed +# about (\d+) rows", _said(capsys))
    assert found and int(found[1]) >= 50
    assert _start(monkeypatch, CORPUS=desk / "rules", NAME="spans", TASK="exqa") == 0
    assert "constructed" not in _said(capsys)
    assert _start(monkeypatch, CORPUS=desk / "docs here", NAME="few", TASK="nli") == 0
    assert "constructed" not in _said(capsys)


@pytest.mark.parametrize("model", sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml")))
def test_what_is_written_for_a_model_passes_the_check_of_its_next_command(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    shutil.copytree(ROOT / "profiles", desk / "profiles", dirs_exist_ok=True)
    rules = model == "constructed"
    corpus = ROOT / "data/contracts/documents" if rules else desk / "docs here"
    assert _start(monkeypatch, CORPUS=corpus, NAME="mine", MODEL=model) == 0
    said = _said(capsys)
    profile = re.search(r"make plan PROFILE=(\S+)", said)
    assert profile and profile[1] == f"{model},mine"
    files = profile_files(desk / "profiles", profile[1])
    params = parse_params(*read_layers(desk / "params.yaml", files))
    written = (desk / "profiles/mine.yaml").read_text()
    assert "chat model" not in written
    if rules:
        assert set(params.generate.task_types) <= set(SHARES)
        assert "task_types: [nli]   # rules make about" in written
        assert "languages: []   # all: it is English" in written
        assert "(start)" in said and "generator" not in said and "or make run" not in said
    else:
        assert "(generator, start)" in said or model in ("mistral-7b", "plain")
    assert ("from the Hugging Face hub" in said) == (model == "mistral-7b")


def test_rules_are_asked_for_what_they_make(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "profiles/constructed.yaml", desk / "profiles")
    asked = {"CORPUS": desk / "docs here", "NAME": "mine", "MODEL": "constructed"}
    assert _start(monkeypatch, **asked, TASK="exqa") == 2
    error = capsys.readouterr().err
    assert "rules make rows of nli, te, ynqa, not of exqa" in error and error.count("\n") == 1
    assert _start(monkeypatch, **asked, TASK="ynqa") == 0
    assert "task_types: [ynqa]   # as you chose" in (desk / "profiles/mine.yaml").read_text()
    _write(desk / "docs here", _GERMAN, 3)
    assert _start(monkeypatch, **asked | {"NAME": "mixed", "TASK": "nli"}) == 0
    assert "not in English and are left out, as the rules make claims of English alone" in _said(
        capsys
    )
    assert (
        "[en]   # the rules make claims of English alone"
        in (desk / "profiles/mixed.yaml").read_text()
    )


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())
