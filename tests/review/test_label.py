"""`make label`: every decision is on the disk at once, in the form that evaluate reads."""

from __future__ import annotations

import errno
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from flows.review import label, label_desk, lines_file
from flows.review.drafts import asked_text, label_of
from flows.review.place import Place
from flows.review.preview import PREVIEW, record_cut
from flows.review.server import make_app
from tasks.core.errors import PipelineError
from tasks.core.page import Page
from tasks.core.parquet import write_table
from tasks.core.rows import EVALUATIONS, INSTRUCTIONS, PASSAGES
from tasks.scoring.datasets import asked_columns, load_dataset, load_items
from tests.conftest import ROOT
from tests.review.checkout import make_checkout, passage_of, read_lines, row_of, write_rows

_ITEMS = "local/mine/items.jsonl"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "main")


def open_client(checkout: Path) -> TestClient:
    desk = label.open_desk(Place(checkout, "mine"))
    page = Page("Label", script=label.SCRIPT)
    return TestClient(make_app(desk, page), base_url="http://127.0.0.1:4301")


def state_of(client: TestClient) -> Any:
    return client.get("/state").json()


def accept(client: TestClient, draft: Any, **change: Any) -> Any:
    taken = {name: draft[name] for name in ("key", "fields", "label", "answers")}
    return client.post("/save", json={"action": "accept", **taken, **change})


def test_an_accepted_draft_is_an_item_that_holds_its_passage_out(checkout: Path) -> None:
    client = open_client(checkout)
    first = state_of(client)["drafts"][0]
    answer = accept(client, first).json()
    assert answer["progress"]["items"] == answer["progress"]["held_out"] == 1
    (line,) = read_lines(checkout / _ITEMS)
    assert line["id"] == answer["saved"] and line["premise"] == first["text"]
    assert line["hypothesis"].startswith("Pump P-") and line["label"] == first["label"]
    assert line["held_out"] == {
        **{name: first[name] for name in ("passage_id", "document", "page", "start", "end")},
        **{"draft": first["key"], "drafted_by": "run", "how": "accepted", "reviewer": ""},
    }
    dataset = load_dataset(ROOT / "datasets/contracts.yaml")
    (item,) = load_items(dataset, checkout / _ITEMS)
    assert item.held_out and item.golds == (first["label"],)
    again = state_of(open_client(checkout))
    assert again["progress"]["items"] == 1
    assert first["key"] not in {draft["key"] for draft in again["drafts"]}


def test_an_item_names_its_document_where_the_dataset_file_asks_for_it(checkout: Path) -> None:
    """Intervals draw documents there, and drew each item of `make label` by its passage."""
    file = checkout / "datasets/mine.yaml"
    file.write_text(f"{file.read_text()}\ndocument: source.document\n")
    client = open_client(checkout)
    first = state_of(client)["drafts"][0]
    assert accept(client, first).status_code == 200
    (item,) = load_items(load_dataset(file), checkout / _ITEMS)
    assert item.cluster == first["document"]


def test_drafts_can_be_edited_rejected_and_taken_back(checkout: Path) -> None:
    client = open_client(checkout)
    one, two, *_ = state_of(client)["drafts"]
    answer = accept(client, one, label="neutral", fields={"hypothesis": " It\nstands. "}).json()
    (line,) = read_lines(checkout / _ITEMS)
    assert (line["hypothesis"], line["label"]) == ("It stands.", "neutral")
    assert line["held_out"]["how"] == "edited"
    client.post("/save", json={"action": "reject", "key": two["key"]})
    (rejection,) = read_lines(checkout / "local/mine/items.rejected.jsonl")
    assert (rejection["row_id"], rejection["verdict"]) == (two["row_id"], "rejected")
    left = {draft["key"] for draft in state_of(open_client(checkout))["drafts"]}
    assert not left & {one["key"], two["key"]}
    undo = {"action": "undo", "key": one["key"], "saved": answer["saved"]}
    assert client.post("/save", json=undo).status_code == 200
    assert client.post("/save", json=undo).status_code == 409
    assert client.post("/save", json={"action": "undo", "key": two["key"]}).status_code == 200
    assert (checkout / _ITEMS).read_text() == ""
    assert {one["key"], two["key"]} <= {draft["key"] for draft in state_of(client)["drafts"]}


def test_what_is_skipped_comes_last(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page gets a few drafts at a time: the others come when those are skipped."""
    monkeypatch.setattr(label_desk, "_SENT", 2)
    client = open_client(checkout)
    offered = []
    for _ in range(99):
        key = state_of(client)["drafts"][0]["key"]
        if key in offered:
            break
        offered.append(key)
        client.post("/save", json={"action": "skip", "key": key})
    assert key == offered[0], "all were skipped: they come again, in this order"
    desk = label.open_desk(Place(checkout, "mine"))
    assert sorted(offered) == sorted(draft["key"] for draft in desk.drafts) and len(offered) > 2
    accept(client, next(d for d in desk.drafts if d["key"] == key))
    assert state_of(client)["drafts"][0]["key"] == offered[1]


def test_the_scarcest_label_comes_first(checkout: Path) -> None:
    client, labels = open_client(checkout), []
    for _ in range(9):
        draft = state_of(client)["drafts"][0]
        labels.append(draft["label"])
        accept(client, draft)
    assert sorted(labels) == sorted(["entailment", "neutral", "contradiction"] * 3)
    assert len(set(labels[:3])) == 3


def test_questions_are_written_by_hand_beside_a_draft_and_where_there_is_none(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = open_client(checkout)
    first = state_of(client)["drafts"][0]
    own = {"fields": {"hypothesis": "Nobody looked."}, "label": "neutral", "by_hand": True}
    assert accept(client, first, **own).status_code == 200
    assert accept(client, first).status_code == 200, "the draft is still open"
    refused = accept(client, first, **own)
    assert refused.status_code == 409 and "among the items already" in refused.json()["error"]
    refused = accept(client, first, **own | {"label": "contradiction"})
    assert refused.status_code == 409, "one question has one right answer"
    assert [row["held_out"]["how"] for row in read_lines(checkout / _ITEMS)] == [
        "by hand",
        "accepted",
    ]
    shutil.rmtree(checkout / ".runs/mine/artifacts/validate")
    capsys.readouterr()
    client = open_client(checkout)
    printed = capsys.readouterr().out
    assert "0 of the last run, 0 by rules, and 30 empty forms" in printed
    assert "make run PROFILE=mine writes drafts of its passages" in printed
    empty = state_of(client)["drafts"][0]
    assert empty["origin"] == "" and empty["fields"] == {"hypothesis": ""}
    assert accept(client, empty).json()["error"] == "the hypothesis is empty"
    assert (
        accept(client, empty, fields={"hypothesis": "It ran."})
        .json()["error"]
        .startswith("choose a label")
    )
    accept(client, empty, fields={"hypothesis": "It ran."}, label="contradiction")
    assert empty["key"] not in {draft["key"] for draft in state_of(client)["drafts"]}


def test_two_pages_lose_nothing_and_the_second_is_told(checkout: Path) -> None:
    pages = [open_client(checkout) for _ in range(3)]
    drafts = state_of(pages[0])["drafts"][:12]

    def decide(turn: int) -> Any:
        page, draft = pages[turn % 3], drafts[turn // 2]
        if turn % 2:
            return accept(page, draft)
        return page.post("/save", json={"action": "reject", "key": draft["key"]})

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(decide, range(24)))
    assert sorted(answer.status_code for answer in answers) == [200] * 12 + [409] * 12
    told = {answer.json()["error"] for answer in answers if answer.status_code == 409}
    assert all("meanwhile, in another page" in text for text in told)
    items = checkout / _ITEMS  # missing where every first word was a rejection
    accepted = {row["held_out"]["draft"] for row in read_lines(items)} if items.exists() else set()
    rejected = {row["key"] for row in read_lines(checkout / "local/mine/items.rejected.jsonl")}
    assert accepted | rejected == {draft["key"] for draft in drafts} and not accepted & rejected


def test_an_answer_is_copied_from_its_passage(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "main", kind="exqa")
    shutil.copy(ROOT / "datasets/incidents.yaml", checkout / "datasets/mine.yaml")
    client = open_client(checkout)
    draft = state_of(client)["drafts"][0]
    assert draft["fields"]["question"].startswith("What broke in P-")
    part = draft["text"].split()[0][1:]
    for answer in ("a gasket", part):
        refused = accept(client, draft, answers=[answer])
        assert f"{answer!r} is not in the passage" in refused.json()["error"]
    assert "there is no answer" in accept(client, draft, answers=[" "]).json()["error"]
    accept(client, draft, answers=[*draft["answers"], "", "nobody of shift"])
    assert read_lines(checkout / _ITEMS)[0]["answers"] == [*draft["answers"], "nobody of shift"]


def test_the_smallest_gain_that_the_items_can_show(checkout: Path) -> None:
    progress = state_of(open_client(checkout))["progress"]
    assert progress["smallest_gain"] is None and progress["needed"] == 554
    assert progress["advised_gain"] == pytest.approx(0.1177, abs=1e-4)
    lines = [
        {"id": str(n), "premise": f"P {n}", "hypothesis": "It ran.", "label": "neutral"}
        for n in range(100)
    ]
    (checkout / _ITEMS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    progress = state_of(open_client(checkout))["progress"]
    assert progress["smallest_gain"] == pytest.approx(0.1177, abs=1e-4)
    assert (progress["spread"], progress["measured"], progress["held_out"]) == (0.42, False, 0)
    rows = [
        {"model": model, "item_id": str(n), "f1": f1, "template": "t", "dataset": "d"}
        for n in range(4)
        for model, f1 in (("zero_shot", 0.0), ("start", 0.5), ("adapted", float(n % 2)))
    ]
    path = checkout / ".runs/mine/artifacts/evaluate/predictions.parquet"
    path.parent.mkdir(parents=True)
    write_table(path, pa.Table.from_pylist(rows, schema=EVALUATIONS))
    progress = state_of(open_client(checkout))["progress"]
    assert progress["measured"] and progress["spread"] == pytest.approx(math.sqrt(1 / 3))


def test_a_broken_items_file_is_told_and_not_written(checkout: Path) -> None:
    client = open_client(checkout)
    draft = state_of(client)["drafts"][0]
    broken = '{"id": "a", "premise": "It ran."}\n'
    (checkout / _ITEMS).write_text(broken)
    answer = accept(client, draft)
    assert answer.status_code == 409 and "no column 'label'" in answer.json()["error"]
    assert (checkout / _ITEMS).read_text() == broken
    with pytest.raises(PipelineError, match="items.jsonl row 1: no column 'label'"):
        open_client(checkout)
    (checkout / _ITEMS).write_text('{"id": "a"\n')
    with pytest.raises(PipelineError, match="items.jsonl line 1 is not valid JSON"):
        open_client(checkout)


def test_a_broken_file_of_rejections_is_told_and_not_written(checkout: Path) -> None:
    client = open_client(checkout)
    draft = state_of(client)["drafts"][0]
    rejected = label.rejected_path(checkout / _ITEMS)
    assert client.post("/save", json={"key": draft["key"], "action": "reject"}).status_code == 200
    for broken in ('{"key": \n', "[1]\n"):
        rejected.write_text(broken)
        answer = client.post("/save", json={"key": draft["key"], "action": "undo"})
        assert answer.status_code == 409 and "rejected.jsonl line 1" in answer.json()["error"]
        assert rejected.read_text() == broken
        with pytest.raises(PipelineError, match="rejected.jsonl line 1"):
            open_client(checkout)


def test_a_full_disk_is_one_line_in_the_page_and_the_file_stays(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_client(checkout)
    first, second = state_of(client)["drafts"][:2]
    assert accept(client, first).status_code == 200
    before = (checkout / _ITEMS).read_text()

    def full(path: Path, _: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(lines_file, "write_text", full)
        answer = accept(client, second)
    assert answer.status_code == 409
    told = answer.json()["error"]
    assert told.startswith("not saved: No space left on device: ") and told.endswith("items.jsonl")
    assert (checkout / _ITEMS).read_text() == before
    assert accept(client, second).status_code == 200, "the same key tries again"


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "main")
    passages = checkout / ".runs/mine/artifacts/ingest/passages.parquet"
    write_rows(passages, [], PASSAGES)
    with pytest.raises(PipelineError, match="has no passages"):
        open_client(checkout)
    passages.unlink()
    with pytest.raises(
        PipelineError, match=r"no passages to label: make ingest PROFILE=mine CORPUS=data/.* cuts"
    ) as missing:
        open_client(checkout)
    assert "does not start without the items file" in str(missing.value)
    (checkout / _ITEMS).parent.mkdir(parents=True, exist_ok=True)
    (checkout / _ITEMS).touch()
    with pytest.raises(PipelineError, match="make run PROFILE=mine also writes drafts$"):
        open_client(checkout)
    other = {"evaluate": {"dataset": "datasets/mine.yaml", "items": "local/mine/items.csv"}}
    with pytest.raises(PipelineError, match="JSON Lines only"):
        open_client(make_checkout(tmp_path / "csv", **other))
    nothing = {"evaluate": {"dataset": "datasets/mine.yaml", "items": "supervision/none"}}
    with pytest.raises(PipelineError, match="write items: local/mine/items.jsonl in place of"):
        open_client(make_checkout(tmp_path / "start", **nothing))
    with pytest.raises(PipelineError, match="does not set evaluate.items"):
        open_client(make_checkout(tmp_path / "none", evaluate={"seed": 3}))


def test_without_a_run_the_passages_are_those_of_make_ingest_on_the_same_corpus(
    checkout: Path,
) -> None:
    (checkout / ".runs/mine/artifacts/ingest/passages.parquet").unlink()
    write_rows(checkout / PREVIEW / "passages.parquet", [passage_of(1)], PASSAGES)
    params = Place(checkout, "mine").params
    cuts = r": make ingest PROFILE=mine CORPUS=data/incidents/documents cuts those of this profile$"
    with pytest.raises(PipelineError, match="are of an unknown corpus, not of .*" + cuts):
        open_client(checkout)
    record_cut(checkout, params, "local/others")
    with pytest.raises(PipelineError, match="are of .*local/others, not of .*" + cuts):
        open_client(checkout)
    record_cut(checkout, params, params.ingest.corpus)
    assert len(state_of(open_client(checkout))["drafts"]) == 1
    with pytest.raises(PipelineError, match=r"were cut with other settings: make ingest .* SET="):
        label.open_desk(Place(checkout, "mine", "ingest.passage_tokens=90"))


@pytest.mark.parametrize(
    ("instruction", "text"),
    [
        ('\n Is the claim "It ran for a year." true, false, or inconclusive?', "It ran for a year."),
        ("\nQuestion: Did it run? Yes, no, or maybe?", "Did it run?"),
        ("Yes or no? \n Was it late or early at the gate in May?", "Was it late or early at the gate in May?"),
        ("With reference to the above, What was cut, and Where?", "What was cut, and Where?"),
        ("Complete  the\n sentence", "Complete the sentence"),
    ],
)  # fmt: skip
def test_the_question_of_a_row(instruction: str, text: str) -> None:
    assert asked_text(instruction) == text


def test_what_the_templates_ask_for_and_how_they_name_labels() -> None:
    contracts = load_dataset(ROOT / "datasets/contracts.yaml")
    assert asked_columns(contracts) == ("hypothesis",)
    named = ["true", "Maybe", "no.", "entailment", "blue"]
    assert [label_of(contracts, word) for word in named] == [
        *("entailment", "neutral", "contradiction", "entailment", ""),
    ]
    for file in sorted((ROOT / "datasets").glob("*.yaml")):
        assert len(asked_columns(load_dataset(file))) <= 2, file


def test_rows_of_other_passages_and_types_are_no_drafts(checkout: Path) -> None:
    rows = [row_of(1), row_of(2, "exqa"), row_of(99)]
    write_rows(checkout / ".runs/mine/artifacts/validate/instructions.parquet", rows, INSTRUCTIONS)
    drafts = state_of(open_client(checkout))["drafts"]
    assert [draft["row_id"] for draft in drafts if draft["row_id"]] == ["nli-001"]
    assert len(drafts) == 30
