"""`make review`: every verdict is on the disk at once, and two pages lose none."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from flows.review import ask, label, why
from flows.review import rows as review
from flows.review.lines_file import LinesFile, put_line
from flows.review.place import Place
from flows.review.server import SmallRequests, make_app
from flows.runs.readers import is_read
from tasks.core.errors import PipelineError
from tasks.core.page import Page
from tasks.core.ports import find_free_port
from tasks.core.rows import INSTRUCTIONS, QUARANTINE, UNVERIFIED, VERIFIED
from tasks.scoring.draw import allocate
from tasks.scoring.reviews import Reviews, review_key
from tests.conftest import ROOT
from tests.review.checkout import EVIL, make_checkout, read_lines, row_of, write_rows

_OWN = "http://127.0.0.1:4300"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "main")


@pytest.fixture
def client(checkout: Path) -> TestClient:
    return open_client(checkout)


def open_client(checkout: Path) -> TestClient:
    """A page on the set: each has a server of its own."""
    desk = review.open_desk(Place(checkout, "mine"))
    page = Page("Review", script=review.SCRIPT)
    return TestClient(make_app(desk, page), base_url=_OWN)


def save(client: TestClient, key: str, verdict: str = "right", **more: Any) -> Any:
    change = {"key": key, "before": None, "after": {"verdict": verdict, "reason": "read"}, **more}
    return client.post("/save", json=change)


def keys_of(client: TestClient) -> list[str]:
    return [row["key"] for row in client.get("/state").json()["rows"]]


def test_a_verdict_is_saved_at_once_in_the_form_that_verify_reads(
    checkout: Path, client: TestClient
) -> None:
    state = client.get("/state").json()
    row = state["rows"][0]
    answer = save(client, row["key"], "wrong").json()
    assert answer["progress"]["total"] == {
        **{"rows": 30, "judged": 1, "right": 0, "wrong": 1, "unclear": 0, "share": 0.0},
        **{"low": 0.0, "high": pytest.approx(0.7935, abs=1e-4)},
    }
    (line,) = read_lines(checkout / "local/mine/reviews.jsonl")
    assert line == {
        **{"row_id": row["row_id"], "key": review_key(row["instruction"], row["response"])},
        **{"task_type": "nli", "verdict": "wrong", "reason": "read", "reviewer": ""},
    }
    again = open_client(checkout).get("/state").json()
    assert again["verdicts"] == {row["key"]: {"verdict": "wrong", "reason": "read"}}
    assert [each["key"] for each in again["rows"]] == [each["key"] for each in state["rows"]]


def test_a_verdict_can_be_changed_and_taken_back_and_other_lines_keep_their_bytes(
    checkout: Path, client: TestClient
) -> None:
    file = checkout / "local/mine/reviews.jsonl"
    other = '{"row_id":"x","key":"k","task_type":"nli","verdict":"right","reason":"ü \u2028"}'
    file.write_text(other + "\n")
    key = keys_of(client)[0]
    save(client, key)
    seen = {"verdict": "right", "reason": "read"}
    save(client, key, before=seen, after={"verdict": "unclear", "reason": " two\nreadings "})
    assert file.read_text().startswith(other + "\n")
    assert read_lines(file)[-1]["reason"] == "two readings"
    assert save(client, key, before={"verdict": "unclear", "reason": "two readings"}, after=None)
    assert file.read_text() == other + "\n"


def test_a_file_of_windows_keeps_its_mark_and_its_line_ends(
    checkout: Path, client: TestClient
) -> None:
    file = checkout / "local/mine/reviews.jsonl"
    other = '{"row_id":"x","key":"k","task_type":"nli","verdict":"right","reason":"r"}'
    before = f"\ufeff{other}\r\n".encode()
    file.write_bytes(before)
    key = keys_of(client)[0]
    assert save(client, key).status_code == 200
    after = file.read_bytes()
    assert after.startswith(before) and after.endswith(b"\r\n") and after.count(b"\n") == 2
    seen = {"verdict": "right", "reason": "read"}
    assert save(client, key, before=seen, after=None).status_code == 200
    assert file.read_bytes() == before


def test_a_link_to_a_file_of_a_team_stays_one(tmp_path: Path) -> None:
    """The first verdict put a file in its place: others went on in the linked one."""
    shared, link = tmp_path / "shared/reviews.jsonl", tmp_path / "mine.jsonl"
    shared.parent.mkdir()
    link.symlink_to(shared)
    file = LinesFile(link, tmp_path)
    file.create()
    assert shared.read_text() == "" and link.is_symlink()
    for number in range(2):
        with file.edit() as lines:
            put_line(lines, None, {"key": number})
    assert read_lines(shared) == [{"key": 0}, {"key": 1}] and link.is_symlink()
    assert [path.name for path in shared.parent.iterdir()] == ["reviews.jsonl"]


def test_the_second_of_two_pages_is_told_and_nothing_is_lost(checkout: Path) -> None:
    one, two = open_client(checkout), open_client(checkout)
    first, second, *_ = keys_of(one)
    assert save(one, first).status_code == 200
    refused = save(two, first, "wrong")
    assert refused.status_code == 409
    assert "judged right meanwhile, in another page" in refused.json()["error"]
    assert save(two, second, "wrong").status_code == 200
    lines = read_lines(checkout / "local/mine/reviews.jsonl")
    assert [(line["key"], line["verdict"]) for line in lines] == [
        (first, "right"),
        (second, "wrong"),
    ]


def test_many_verdicts_at_once_are_all_kept(checkout: Path) -> None:
    pages = [open_client(checkout) for _ in range(4)]
    keys = keys_of(pages[0])[:20]
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda place: save(pages[place % 4], keys[place // 2]), range(40))
        )
    assert sorted(answer.status_code for answer in answers) == [200] * 20 + [409] * 20
    assert {line["key"] for line in read_lines(checkout / "local/mine/reviews.jsonl")} == set(keys)


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}],
)
def test_a_foreign_host_or_origin_is_refused(
    checkout: Path, client: TestClient, headers: dict[str, str]
) -> None:
    key = keys_of(client)[0]
    change = {"key": key, "before": None, "after": {"verdict": "right", "reason": ""}}
    assert client.get("/state", headers=headers).status_code == 403
    assert client.post("/save", json=change, headers=headers).status_code == 403
    assert (checkout / "local/mine/reviews.jsonl").read_text() == ""


def test_the_page_is_ours_and_lets_only_its_own_script_run(client: TestClient) -> None:
    answer = client.get("/")
    assert "bonito-pipeline" in answer.text and answer.text.count("<script") == 1
    assert "script-src 'self'" in answer.text and "://" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    for name in ("frame", "review"):
        script = client.get(f"/scripts/{name}.js")
        assert script.headers["content-type"].startswith("text/javascript")
        assert "innerHTML" not in script.text and "://" not in script.text
    assert client.get("/scripts/..%2Fserver.js").status_code == 404
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404
    assert any(EVIL in row["context"] for row in client.get("/state").json()["rows"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "no such"}, "not in the sample"),
        ({"after": {"verdict": "good", "reason": "x"}}, "right, wrong or unclear"),
        ({"after": {"verdict": "wrong", "reason": " "}}, "why is it wrong? Give a reason"),
        ({"after": "right"}, "Give a reason"),
    ],
)
def test_what_is_no_verdict_is_refused(client: TestClient, change: Any, message: str) -> None:
    answer = save(client, **{"key": keys_of(client)[0], **change})
    assert answer.status_code == 409 and message in answer.json()["error"]
    assert client.post("/save", content=b"x" * 300_000).status_code == 413
    assert client.post("/save", content=b"[1]").status_code == 422


def test_a_body_that_does_not_tell_its_length_is_counted_as_it_comes(client: TestClient) -> None:
    answer = client.post("/save", content=iter([b"x" * 10_000] * 30))
    assert "content-length" not in answer.request.headers
    assert answer.status_code == 413 and answer.json() == {"error": "the request is too large"}
    change = {"key": keys_of(client)[0], "before": None, "after": {"verdict": "right"}}
    body, form = json.dumps(change).encode(), {"content-type": "application/json"}
    answer = client.post("/save", content=iter([body[:20], body[20:]]), headers=form)
    assert answer.status_code == 200


def test_of_a_body_that_is_too_large_the_rest_is_not_read() -> None:
    received, sent = [0], []

    async def receive() -> Any:
        received[0] += 10_000
        return {"type": "http.request", "body": b"x" * 10_000, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    async def never(*_: Any) -> None:
        raise AssertionError("passed on")

    asyncio.run(SmallRequests(never)({"type": "http"}, receive, send))
    assert sent[0]["status"] == 413 and received[0] < 300_000


def test_a_reviews_file_that_was_broken_by_hand_is_told_and_not_written(
    checkout: Path, client: TestClient
) -> None:
    file = checkout / "local/mine/reviews.jsonl"
    file.write_text('{"row_id": "x"}\n')
    kept = review.kept_rows(checkout / ".runs/mine/artifacts/verify")
    answer = save(client, review.draw(kept, 1, 1)[0][0]["key"])
    assert answer.status_code == 409 and "reviews.jsonl row 1" in answer.json()["error"]
    assert file.read_text() == '{"row_id": "x"}\n'
    with pytest.raises(PipelineError, match="reviews.jsonl row 1"):
        open_client(checkout)


def test_the_sample_is_stratified_seeded_and_holds_what_a_review_excluded(tmp_path: Path) -> None:
    rows = [row_of(number) for number in range(900)]
    rows += [row_of(number, "exqa") for number in range(95)]
    write_rows(tmp_path / "instructions.parquet", rows[1:], VERIFIED)
    wrong = [rows[0] | {"reasons": ["wrong_by_review"]}, rows[1] | {"reasons": ["duplicate"]}]
    write_rows(tmp_path / "quarantine.parquet", wrong, UNVERIFIED)

    def draw(most: int, seed: int) -> tuple[list[dict[str, Any]], int]:
        return review.draw(review.kept_rows(tmp_path), most, seed)

    drawn, count = draw(100, 1)
    assert count == 995 and len({row["key"] for row in drawn}) == 100
    assert sum(row["task_type"] == "exqa" for row in drawn) in (9, 10)
    write_rows(tmp_path / "instructions.parquet", rows[:0:-1], VERIFIED)
    assert draw(100, 1)[0] == drawn, "the order of the rows does not matter"
    assert draw(100, 2)[0] != drawn
    everything, _ = draw(1000, 1)
    assert rows[0]["row_id"] in {row["row_id"] for row in everything}


def test_rows_that_no_generator_wrote_are_judged_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = {"supervise": {"source": "constructed"}}
    checkout = make_checkout(tmp_path / "main", rows=0, **source)
    made = checkout / ".runs/mine/artifacts/supervise/instructions.parquet"
    raw = row_of(7) | {"instruction": ""}
    write_rows(made, [*map(row_of, range(6)), raw], INSTRUCTIONS)
    wrong = row_of(6) | {"reasons": ["wrong_by_review"]}
    write_rows(made.with_name("quarantine.parquet"), [wrong], QUARANTINE)
    client = open_client(checkout)
    assert "7 drawn of 7 that constructed gave" in " ".join(capsys.readouterr().out.split())
    row = client.get("/state").json()["rows"][0]
    assert (row["answer"], row["agreement"], row["origin"]) == (None, None, None)
    assert save(client, row["key"]).json()["progress"]["total"]["right"] == 1


def test_every_type_is_drawn_at_least_once() -> None:
    assert allocate({"a": 9990, "b": 1, "c": 9}, 100) == {"a": 98, "b": 1, "c": 1}
    assert allocate({"a": 3, "b": 1}, 100) == {"a": 3, "b": 1}


@pytest.mark.parametrize(
    ("profile", "change", "message"),
    [
        ("nobody", {}, "unknown profile 'nobody'"),
        ("mine", {"verify": {"answers": 3}}, "does not set verify.reviews"),
        ("mine", {"verify": {"reviews": "supervision/none"}}, "no .jsonl file"),
        ("", {}, "artifacts/verify/instructions.parquet is missing: make run first"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, profile: str, change: Any, message: str) -> None:
    checkout = make_checkout(tmp_path / "main", **change)
    with pytest.raises(PipelineError, match=message):
        review.open_desk(Place(checkout, profile))


def test_a_run_with_settings_is_found_by_the_same_settings(checkout: Path) -> None:
    """Such a run has a name and a folder of its own."""
    place = Place(checkout, "mine", "generate.seed=2 'ingest.corpus=a b'")
    assert place.command("why", ITEM="q 1") == (
        "make why PROFILE=mine SET='generate.seed=2 '\"'\"'ingest.corpus=a b'\"'\"'' ITEM='q 1'"
    )
    place = Place(checkout, "mine", "generate.seed=2")
    with pytest.raises(PipelineError, match="make run PROFILE=mine SET=generate.seed=2 first"):
        review.open_desk(place)
    (checkout / ".runs/mine").rename(place.run.path)
    assert review.open_desk(place).rows
    (checkout / ".runs/mine-2/artifacts/verify").mkdir(parents=True)
    (checkout / ".runs/mine-2/artifacts/verify/instructions.parquet").touch()  # another profile's
    told = f"make run PROFILE=mine first; or give the SET of the run that has it: {place.run.name}"
    with pytest.raises(PipelineError, match=re.escape(told) + "$"):
        review.open_desk(Place(checkout, "mine"))


def test_a_port_in_use_is_one_line(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    monkeypatch.setattr(review, "CODE", checkout)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert review.main(["--profile", "mine", "--port", str(port)]) == 2
    assert f"choose another port with REVIEW_PORT={port + 1}" in capsys.readouterr().err


def test_make_prune_leaves_a_checkout_alone_that_a_page_reads(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read: list[str] = []

    def look(*_: Any) -> None:
        read.append("read" if is_read(checkout, "mine") else "not read")
        raise PipelineError("seen")

    for command, first in ((review, "open_desk"), (label, "open_desk"), (ask, "open_desk")):
        monkeypatch.setattr(command, "CODE", checkout)
        monkeypatch.setattr(command, first, look)
        assert command.main(["--profile", "mine"]) == 2
    monkeypatch.setattr(why, "CODE", checkout)
    monkeypatch.setattr(why, "explain", look)
    assert why.main(["--profile", "mine"]) == 2
    assert read == ["read"] * 4 and capsys.readouterr().err.count("seen\n") == 4
    assert not is_read(checkout, "mine")


@pytest.mark.parametrize("port", ["abc", "0", "-4", "65536", "4300.5", ""])
def test_what_is_no_port_is_one_line(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command, variable in ((review, "REVIEW_PORT"), (label, "LABEL_PORT"), (ask, "ASK_PORT")):
        assert command.main([f"--port={port}"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{variable}={port} is no port: " in error


def test_a_server_killed_in_mid_verdict_has_lost_nothing(checkout: Path) -> None:
    """SIGKILL while verdicts come in, three times: what a page was told is saved is in the file."""
    port, told = find_free_port(), []
    code = (
        "import sys; from pathlib import Path; from flows.review import rows; "
        "rows.CODE = Path(sys.argv[1]); rows.main(sys.argv[2:])"
    )
    command = [sys.executable, "-c", code, str(checkout), "--profile", "mine", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    file = checkout / "local/mine/reviews.jsonl"
    for _ in range(3):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
            try:
                state = _ask(f"{address}/state")
                assert set(told) <= set(state["verdicts"])
                keys = [row["key"] for row in state["rows"] if row["key"] not in state["verdicts"]]
                killer = threading.Timer(0.05, os.kill, (server.pid, signal.SIGKILL))
                killer.start()
                for key in keys[:9]:
                    after = {"verdict": "right", "reason": ""}
                    _ask(f"{address}/save", {"key": key, "before": None, "after": after}, tries=1)
                    told.append(key)
            except OSError:
                pass
            finally:
                server.kill()
        assert set(told) <= set(Reviews.read(file).verdicts)
    (file.parent / f".{file.name}.1.partial").write_text("half a li")
    open_client(checkout)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def _ask(address: str, change: Any = None, tries: int = 300) -> Any:
    body = None if change is None else json.dumps(change).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    for _ in range(tries):
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return json.load(response)
        except urllib.error.URLError:
            time.sleep(0.1)
    raise ConnectionError(f"{address} does not answer")
