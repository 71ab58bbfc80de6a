"""One bad name, member, attachment or row costs itself alone; a fault that may pass is tried again."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core import clock, pool
from tasks.core.pool import Limits
from tasks.ingest import file_pool, worker
from tasks.ingest.discovery import CorpusFile
from tasks.ingest.journal import Journal
from tasks.ingest.readers import archives, detect
from tasks.ingest.readers.document import Budget, Document, ReadOptions, Reject, Unreadable, explain
from tests.ingest.hostile_files import replace_rtf_parser
from tests.ingest.office_files import STORY, zipped

LIMITS = Limits(60.0, 512)
#: Put in place of the library that reads RTF: what it does depends on the text.
_PARSER = """import os, time
def rtf_to_text(text, *a, **k):
    if "crash" in text: os.abort()
    if "hang" in text: time.sleep(60)
    if "slow" in text: time.sleep(0.8)
    return text
"""


@pytest.fixture
def rtf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_rtf_parser(tmp_path, monkeypatch, _PARSER)
    monkeypatch.setattr(clock, "_RESTARTS", 1)


def run(
    path: Path, limits: Limits = LIMITS, **options: Any
) -> tuple[list[dict[str, Any]], list[str]]:
    """Read files in a worker; return the entries, and the failure of every file."""
    work = worker.Work("", ReadOptions(**options), 50, 1)
    results = list(
        file_pool.read_files([(path.name, path)], work, 1, limits, path.parent / "unpacked")
    )
    entries = [entry for result in results for entry in json.loads(result.value)]
    return entries, [result.failure for result in results if result.done]


def rejects(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(entry["member"], entry["reason"]) for entry in entries if "reason" in entry]


def documents(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["member"] for entry in entries if entry.get("passages")]


@pytest.mark.usefixtures("rtf")
def test_a_member_that_ends_its_process_costs_itself(tmp_path: Path) -> None:
    good = {f"{number:03}.txt": f"{STORY} {number}".encode() for number in range(20)}
    bad = {"010-a.rtf": rb"{\rtf1 crash}", "015-a.rtf": rb"{\rtf1 crash}"}
    entries, failures = run(zipped(tmp_path / "a.zip", good | bad))
    assert documents(entries) == [f"!{name}" for name in good]
    assert rejects(entries) == [("!010-a.rtf", "crashed"), ("!015-a.rtf", "crashed")]
    assert failures == ["crashed"], "it is tried again in the next run"


@pytest.mark.usefixtures("rtf")
def test_a_member_that_hangs_costs_itself(tmp_path: Path) -> None:
    members = {"a.txt": STORY.encode(), "b.rtf": rb"{\rtf1 hang}", "c.txt": b"C " + STORY.encode()}
    path = zipped(tmp_path / "a.zip", members)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(pool, "_START_SECONDS", 8.0)
        entries, failures = run(path, Limits(1.0, 512))
    assert documents(entries) == ["!a.txt", "!c.txt"] and failures == ["timeout"]
    assert rejects(entries) == [("!b.rtf", "timeout")]


@pytest.mark.usefixtures("rtf")
def test_members_that_take_nearly_their_time_end_their_file(tmp_path: Path) -> None:
    """Each is in time, so their number decided how long a file is read. The clock begins again
    once, as sleeping needs no processor: 3 s in all.
    """
    good = tmp_path / "first.txt"
    good.write_text(STORY)
    members = {f"{n:03}.rtf": rb"{\rtf1 slow " + f"{STORY} {n}".encode() + b"}" for n in range(20)}
    slow = zipped(tmp_path / "a.zip", members)
    jobs = [("first", good), ("slow", slow), ("last", good)]
    limits, work = Limits(1.0, 512, 1.5), worker.Work("", ReadOptions(), 50, 1)
    results = list(file_pool.read_files(jobs, work, 1, limits, tmp_path / "unpacked"))
    found = [
        entry for result in results if result.key == "slow" for entry in json.loads(result.value)
    ]
    read = documents(found)
    assert 1 <= len(read) <= 4 and read == [f"!{name}" for name in members][: len(read)]
    (reject,) = (entry for entry in found if "reason" in entry)
    assert (reject["member"], reject["reason"]) == ("", "timeout")
    assert reject["detail"] == (
        f"more than 1.5 s in all: the rest, from !{len(read):03}.rtf on, was not read"
    )
    ends = {result.key: result.failure for result in results if result.done}
    assert ends == {"first": "", "slow": "total", "last": ""}


@pytest.mark.usefixtures("rtf")
def test_an_attachment_costs_itself(tmp_path: Path) -> None:
    message = EmailMessage()
    message["Subject"] = "Pump"
    message.set_content(STORY)
    for data, name in (
        (b"PK\x03\x04 no archive", "broken.docx"),
        (rb"{\rtf1 crash}", "crash.rtf"),
        (STORY.encode(), "good.txt"),
    ):
        message.add_attachment(data, maintype="application", subtype="x", filename=name)
    (tmp_path / "a.eml").write_bytes(message.as_bytes())
    entries, _ = run(tmp_path / "a.eml")
    assert documents(entries) == ["", "!good.txt"]
    assert rejects(entries) == [("!broken.docx", "damaged"), ("!crash.rtf", "crashed")]


def test_a_parser_that_raises_costs_its_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = b"<html><head><meta charset=undefined></head><body><p>x</p></body></html>"
    members = {"a.txt": STORY.encode(), "b.html": page, "c.txt": b"C " + STORY.encode()}
    path = zipped(tmp_path / "a.zip", members)
    from tasks.ingest.readers import html

    def broken(*_: Any) -> Any:
        raise AttributeError("a bug of the library")

    monkeypatch.setattr(html, "read", broken)
    items = list(detect.read(path, ReadOptions()))
    assert [item.member for item in items if isinstance(item, Document)] == ["!a.txt", "!c.txt"]
    (reject,) = [item for item in items if isinstance(item, Reject)]
    assert (reject.member, reject.reason) == ("!b.html", "damaged")


def test_names_that_are_no_unicode_end_nothing(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("caf\udce9.txt", "good.txt", "caf\udce9.bin"):
            entry = tarfile.TarInfo(name)
            data = STORY.encode() if name.endswith("txt") else b"\0\1"
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    (tmp_path / "b.jsonl").write_text('{"\\ud800": 1}\n{"text": "x \\ud800 ' + STORY + '"}\n')
    entries, _ = run(tmp_path / "a.tar")
    assert documents(entries) == ["!caf\\udce9.txt", "!good.txt"]
    more, _ = run(tmp_path / "b.jsonl")
    json.dumps([entries, more], ensure_ascii=False).encode()  # what a table is written as
    assert "\\ud800" in more[0]["detail"]


def test_a_fault_with_a_strange_name_is_listed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.list([(CorpusFile("a", "a", Unreadable("unreadable", "caf\udce9 is gone")), "")])
    ((file, _),) = journal.files()
    assert file.problem is not None and file.problem.detail == "caf\\udce9 is gone"


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_value_of_another_column_costs_nothing(tmp_path: Path, name: str) -> None:
    far = pa.array([0] * 300 + [2**62], pa.int64()).cast(pa.timestamp("s"))
    table = pa.table({"text": [f"{STORY} {number}" for number in range(301)], "when": far})
    if name.endswith("parquet"):
        pq.write_table(
            table.set_column(1, "when", far.cast(pa.int64()).cast(pa.timestamp("us"))),
            tmp_path / name,
        )
    else:
        with (
            pa.OSFile(str(tmp_path / name), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    with pytest.raises((ValueError, OverflowError, pa.ArrowException)):
        table.to_pylist()
    entries, failures = run(tmp_path / name)
    assert len(documents(entries)) == 301 and not rejects(entries) and failures == [""]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_bad_value_of_the_text_costs_its_row(tmp_path: Path, name: str) -> None:
    far = pa.array([0, 2**61, 0], pa.int64()).cast(pa.timestamp("us"))
    table = pa.table({"text": far})
    if name.endswith("parquet"):
        pq.write_table(table, tmp_path / name)
    else:
        with (
            pa.OSFile(str(tmp_path / name), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    entries, _ = run(tmp_path / name)
    assert documents(entries) == ["#1", "#3"] and rejects(entries) == [("#2", "damaged")]


def test_a_full_disk_is_no_damage(tmp_path: Path) -> None:
    assert explain(OSError(28, "No space left on device")).reason == "unreadable"
    assert explain(FileNotFoundError(2, "gone")).reason == "unreadable"
    assert explain(OSError("Not a gzipped file")).reason == "damaged"
    entries, failures = run(tmp_path / "gone.txt")
    assert rejects(entries) == [("", "unreadable")] and failures == ["unreadable"]


def test_a_full_disk_while_unpacking_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path / "a.zip", {"a.txt": STORY.encode(), "b.txt": STORY.encode()})

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.tempfile, "TemporaryDirectory", full)
    with pytest.raises(Unreadable) as problem:
        list(detect.read(path, ReadOptions()))
    assert problem.value.reason == "unreadable"


def test_nested_archives_share_one_budget(tmp_path: Path) -> None:
    """A small file, four times 64 MiB in each of two archives in an archive."""
    bomb = zipped(tmp_path / "in.zip", {f"{n}.txt": b"a b " * (1 << 18) for n in range(4)})
    path = zipped(tmp_path / "out.zip", {f"{n}.zip": bomb.read_bytes() for n in range(9)})
    total, reasons = 0, set()
    for item in detect.read(path, ReadOptions(max_bytes=2 << 20)):
        total += len(item.text) if isinstance(item, Document) else 0
        reasons |= {item.reason} if isinstance(item, Reject) else set()
    assert total <= 8 << 20 and reasons == {"too_large"}


def test_what_is_nested_at_any_depth_shares_the_budget_of_the_file(tmp_path: Path) -> None:
    """A zip of zips of zips, in which no text is: 25 times 1 MiB from some kilobytes. What lies
    beside it is read.
    """
    unpacked: list[int] = []
    spend = Budget.spend
    bomb = zipped(tmp_path / "a.zip", {f"{n}.bin": bytes(1 << 20) for n in range(5)}).read_bytes()
    middle = zipped(tmp_path / "b.zip", {f"{n}.zip": bomb for n in range(5)}).read_bytes()
    members = {"1.zip": middle, "2.zip": middle, "3.txt": STORY.encode()}
    path = zipped(tmp_path / "c.zip", members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Budget, "spend", lambda self, n: (unpacked.append(n), spend(self, n)))
        items = list(detect.read(path, ReadOptions(max_bytes=2 << 20)))
    assert sum(unpacked) < 5 << 20
    assert [item.member for item in items if isinstance(item, Document)] == ["!3.txt"]
    assert "too_large" in {item.reason for item in items if isinstance(item, Reject)}


def test_members_of_nested_archives_are_counted_together(tmp_path: Path) -> None:
    """Six times six in an archive whose members may have ten: what lies beside it is read."""
    inner = zipped(tmp_path / "in.zip", {f"{n}.txt": b"a" for n in range(6)}).read_bytes()
    middle = zipped(tmp_path / "mid.zip", {f"{n}.zip": inner for n in range(6)}).read_bytes()
    path = zipped(tmp_path / "out.zip", {"1.zip": middle, "2.txt": STORY.encode()})
    items = list(detect.read(path, ReadOptions(max_members=10)))
    read = [item.member for item in items if isinstance(item, Document)]
    assert len(read) <= 11 and read[-1] == "!2.txt"
    assert {item.reason for item in items if isinstance(item, Reject)} == {"too_large"}


@pytest.mark.usefixtures("rtf")
def test_killed_workers_leave_nothing_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    scratch = tmp_path / "unpacked"
    (scratch / "member-of-a-killed-run").mkdir(parents=True)
    run(zipped(tmp_path / "a.zip", {"a.rtf": rb"{\rtf1 crash}"}))
    assert list((tmp_path / "tmp").iterdir()) == [] and not scratch.exists()


def test_hidden_members_are_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {".x": b"x", "__MACOSX/._a": b"x", "a.txt": STORY.encode()})
    entries, _ = run(path)
    assert rejects(entries) == [("!.x", "hidden")] and documents(entries) == ["!a.txt"]
