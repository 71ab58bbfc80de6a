"""The ingest stage on small corpora made here, through its command line: a real tokenizer, real
processes, real files.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from tasks.core.files import read_json
from tasks.core.parquet import read_table
from tasks.core.rows import PASSAGES, REJECTS
from tasks.ingest import report
from tasks.ingest import stage as ingest
from tasks.ingest.sources import LocalCorpus
from tasks.lm.models import EMBEDDED
from tasks.lm.tokenizers import load_tokenizer
from tests.conftest import assert_pages_are_checked
from tests.pages import check_page

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = [
    (
        f"Pump {number} at the northern works was stopped on day {number * 7} because its "
        "bearing ran hot again."
    )
    for number in range(60)
]


DATASET = (
    "{name: pumps, task_type: exqa, context: passage, answers: answer, templates: [{name: a, "
    "instruction: '{{ context }} {{ question }}'}]}"
)


def item(passage: str) -> str:
    """Return a line of labelled items."""
    return json.dumps({"id": "1", "passage": passage, "question": "?", "answer": "Nothing"}) + "\n"


@pytest.fixture
def corner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with parameters, a word-level tokenizer, an evaluation set and an empty
    corpus.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    _save_tokenizer(tmp_path / "generator")
    (tmp_path / "dataset.yaml").write_text(DATASET)
    (tmp_path / "items.jsonl").write_text(
        item("Nothing of this stands in any document here, not one word in a row.")
    )
    _params(tmp_path)
    return tmp_path


def _save_tokenizer(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", eos_token="[UNK]"
    ).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")


def _params(folder: Path, **changes: Any) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["ingest"].update(
        {"passage_tokens": 60, "min_tokens": 5, "workers": 2, "file_seconds": 20, **changes}
    )
    values["generate"]["generator"] = str(folder / "generator")
    values["evaluate"]["dataset"] = str(folder / "dataset.yaml")
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def _run(corpus: str = "corpus", evaluation: str = "items.jsonl") -> int:
    inputs = ["--corpus", corpus, "--items", evaluation]
    return ingest.main(["--params", "params.yaml", *inputs, "--out", "artifacts/ingest"])


def _rows(name: str) -> list[dict[str, Any]]:
    return pq.read_table(f"artifacts/ingest/{name}.parquet").to_pylist()


def _summary() -> dict[str, Any]:
    return json.loads(Path("artifacts/ingest/summary.json").read_text())


def test_documents_become_passages_with_their_place(corner: Path) -> None:
    text = (
        "# Works report\n\n"
        + " ".join(SENTENCES[:9])
        + "\n\n## Cause\n\n"
        + " ".join(SENTENCES[9:12])
        + "\n"
    )
    (corner / "corpus" / "b.md").write_text(text)
    (corner / "corpus" / "a.txt").write_text(" ".join(SENTENCES[20:23]))
    assert _run() == 0
    rows = _rows("passages")
    assert pq.read_schema("artifacts/ingest/passages.parquet").equals(PASSAGES)
    assert pq.read_schema("artifacts/ingest/rejects.parquet").equals(REJECTS)
    assert_pages_are_checked(Path("artifacts/ingest/passages.parquet"))
    assert [row["document"] for row in rows] == sorted(row["document"] for row in rows)
    assert all(
        row["tokens"] <= 60 and row["end"] > row["start"] and len(row["passage_id"]) == 16
        for row in rows
    )
    assert all(
        text[row["start"] : row["end"]] == row["text"] for row in rows if row["document"] == "b.md"
    )
    assert {row["section"] for row in rows if row["document"] == "b.md"} == {
        "Works report",
        "Works report > Cause",
    }
    assert not any(row["text"].startswith("#") for row in rows)
    assert " ".join(row["text"] for row in rows if row["section"] == "Works report") == " ".join(
        SENTENCES[:9]
    )
    summary = _summary()
    assert summary["rows_in"] == summary["rows_kept"] == len(rows)
    assert summary["formats"] == {"markdown": 1, "text": 1}
    assert summary["tokens"] == sum(row["tokens"] for row in rows)


def test_duplicates_are_dropped_and_the_first_stays(corner: Path) -> None:
    for name, text in {
        "a.txt": SENTENCES[0],
        "b.txt": SENTENCES[0].upper().replace(" ", "  "),
        "c.txt": SENTENCES[1],
    }.items():
        (corner / "corpus" / name).write_text(text)
    assert _run() == 0
    assert [row["document"] for row in _rows("passages")] == ["a.txt", "c.txt"]
    (reject,) = _rows("rejects")
    assert (reject["document"], reject["reason"]) == ("b.txt", "duplicate")
    assert _rows("passages")[0]["passage_id"] in reject["detail"]
    assert _summary()["dropped"] == {"duplicate": 1}


def test_near_duplicates_can_be_kept(corner: Path) -> None:
    long = " ".join(SENTENCES[:3])
    (corner / "corpus" / "a.txt").write_text(long)
    (corner / "corpus" / "b.txt").write_text(long + " Checked twice.")
    _params(corner, near_duplicates=0.8)
    assert _run() == 0
    assert _summary()["dropped"] == {"near_duplicate": 1}
    _params(corner, near_duplicates=0)
    assert _run() == 0
    assert _summary()["dropped"] == {}


def test_a_file_that_takes_too_long_in_all_is_tried_again_by_the_next_run(
    corner: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (f"{sentence} {number}." for number in range(300) for sentence in SENTENCES[:20])
    (corner / "corpus" / "a.txt").write_text("\n\n".join(lines))
    _params(corner, file_total_seconds=0.0001)
    assert _run() == 2
    assert "a.txt: timeout, more than 0.0001 s in all: the rest was not read" in (
        capsys.readouterr().err
    )
    _params(corner, file_total_seconds=0)
    assert _run() == 0
    assert len(_rows("passages")) > 100
    assert "timeout" not in {row["reason"] for row in _rows("rejects")}


def test_evaluation_overlap_is_always_counted_and_dropped_on_request(corner: Path) -> None:
    (corner / "corpus" / "a.txt").write_text("Some words that come before. " + SENTENCES[0])
    (corner / "corpus" / "b.txt").write_text(SENTENCES[1])
    (corner / "items.jsonl").write_text(item(SENTENCES[0].replace("Pump", "PUMP")))
    assert _run() == 0
    assert _summary()["in_evaluation"] == 1
    assert [row["in_evaluation"] for row in _rows("passages")] == [True, False]
    _params(corner, drop_evaluation_overlap=True)
    assert _run() == 0
    assert _summary()["in_evaluation"] == 1
    assert _summary()["dropped"] == {"in_evaluation": 1}
    assert [row["document"] for row in _rows("passages")] == ["b.txt"]


def test_a_passage_that_an_item_holds_out_is_never_kept_however_it_is_cut(corner: Path) -> None:
    (corner / "corpus" / "a.txt").write_text("Some words that come before. " + SENTENCES[0])
    (corner / "corpus" / "b.txt").write_text(SENTENCES[1])
    (corner / "corpus" / "c.txt").write_text(SENTENCES[2])
    held = json.loads(item(SENTENCES[0])) | {"held_out": {"document": "a.txt"}}
    other = json.loads(item(SENTENCES[1])) | {"id": "other", "held_out": None}
    (corner / "items.jsonl").write_text(json.dumps(held) + "\n" + json.dumps(other) + "\n")
    assert _run() == 0
    assert _summary()["dropped"] == {"held_out": 1} and _summary()["in_evaluation"] == 2
    assert [row["document"] for row in _rows("passages")] == ["b.txt", "c.txt"]
    (reject,) = _rows("rejects")
    assert reject["reason"] == "held_out" and "an item holds out" in reject["detail"]
    assert "holds it out of the corpus" in Path("artifacts/ingest/report.html").read_text()


def test_short_passages_foreign_languages_and_personal_data(corner: Path) -> None:
    (corner / "corpus" / "a.txt").write_text("Two words.")
    (corner / "corpus" / "b.txt").write_text(
        "Die Pumpe wurde am Abend abgeschaltet, weil das Lager zu heiß geworden war und "
        "niemand Ersatz hatte."
    )
    (corner / "corpus" / "c.txt").write_text(
        "The pump was stopped in the evening; write to jane.doe@example.org or call +44 "
        "20 7946 0958 about it."
    )
    _params(corner, languages=["en"], mask_personal_data=True)
    assert _run() == 0
    assert _summary()["dropped"] == {"language": 1, "too_short": 1}
    assert _summary()["other_languages"] == {"de": 1}
    (reject,) = [row for row in _rows("rejects") if row["reason"] == "language"]
    assert reject["detail"] == "de, wanted: en"
    assert (
        _rows("passages")[0]["text"]
        == "The pump was stopped in the evening; write to [EMAIL] or call [PHONE] about it."
    )
    assert _summary()["masked"] == {"EMAIL": 1, "PHONE": 1}


def test_bad_files_are_rejects_and_stop_nothing(corner: Path) -> None:
    corpus = corner / "corpus"
    (corpus / "good one é.txt").write_text(SENTENCES[0])
    (corpus / "empty.txt").write_bytes(b"")
    (corpus / "blank.txt").write_text(" \n\t\n")
    (corpus / "old.doc").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600)
    (corpus / "cut.pdf").write_bytes(b"%PDF-1.7\nnothing more")
    (corpus / "fake.docx").write_bytes(b"PK\x03\x04 not really")
    (corpus / "binary.bin").write_bytes(bytes(range(256)) * 8)
    (corpus / "columns.jsonl").write_text('{"name": "Ann", "age": 7}\n')
    (corpus / ".hidden").write_text("secret")
    (corpus / "gone.txt").symlink_to(corner / "nothing.txt")
    (corpus / "outside.txt").symlink_to(corner / "items.jsonl")
    os.mkfifo(corpus / "pipe.txt")
    assert _run() == 0
    assert [row["document"] for row in _rows("passages")] == ["good one é.txt"]
    reasons = {row["document"]: row["reason"] for row in _rows("rejects")}
    assert reasons == {
        ".hidden": "hidden",
        "binary.bin": "unsupported_format",
        "blank.txt": "empty",
        "columns.jsonl": "no_text_column",
        "cut.pdf": "damaged",
        "empty.txt": "empty",
        "fake.docx": "damaged",
        "gone.txt": "broken_link",
        "old.doc": "unsupported_format",
        "outside.txt": "link_outside",
        "pipe.txt": "not_a_file",
    }
    page = Path("artifacts/ingest/report.html").read_text()
    assert all(document in page for document in reasons)
    assert SENTENCES[0] in page
    assert "http" not in page.replace("http-equiv", "")
    check_page(page)


def test_the_page_shows_no_password_of_the_corpus() -> None:
    shown = report.hide
    assert shown("sftp://ann:s3cret@host/in/a@b") == "sftp://***@host/in/a@b"
    assert (
        shown("s3://bucket/a@b") == "s3://bucket/a@b" and shown("corpus @ home") == "corpus @ home"
    )


def test_the_same_bytes_with_one_worker_or_four_or_on_a_cluster(corner: Path) -> None:
    """One file cannot be read: its reason is the same, too."""
    (corner / "corpus" / "broken.pdf").write_bytes(b"%PDF-1.4\nnothing")
    for number in range(12):
        (corner / "corpus" / f"{number}.txt").write_text(
            "\n\n".join(SENTENCES[number : number + 20])
        )
    found = []
    for workers in ({"workers": 1}, {"workers": 4}, {"ray_workers": 2}):
        _params(corner, **workers)
        (corner / ".work" / "ingest" / "journal.sqlite").unlink(missing_ok=True)
        assert _run() == 0
        assert _summary()["unread"] and not list((corner / ".work").glob("ingest/unpacked"))
        found.append(
            [
                (corner / "artifacts" / "ingest" / name).read_bytes()
                for name in ("passages.parquet", "rejects.parquet", "summary.json", "report.html")
            ]
        )
    assert found[0] == found[1] == found[2]


def test_only_new_files_are_read_again(
    corner: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        (corner / "corpus" / f"{number}.txt").write_text(SENTENCES[number])
    assert _run() == 0
    read: list[int] = []
    original = ingest.read_files

    def counting(jobs: Any, *rest: Any) -> Any:
        taken = list(jobs)
        read.append(len(taken))
        return original(taken, *rest)

    monkeypatch.setattr(ingest, "read_files", counting)
    assert _run() == 0
    (corner / "corpus" / "5.txt").write_text(SENTENCES[5])
    (corner / "corpus" / "0.txt").write_text(SENTENCES[50])
    assert _run() == 0
    _params(corner, min_tokens=6)
    assert _run() == 0
    assert read == [0, 2, 6]
    assert len(_rows("passages")) == 6


@pytest.mark.parametrize(("fault", "files"), [("os.abort()", [2, 1]), ("raise ValueError", [2, 0])])
def test_a_file_that_cost_its_process_is_read_again_a_damaged_one_is_not(
    corner: Path, monkeypatch: pytest.MonkeyPatch, fault: str, files: list[int]
) -> None:
    package = corner / "libraries" / "striprtf"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "striprtf.py").write_text(f"import os\ndef rtf_to_text(*a, **k): {fault}")
    monkeypatch.syspath_prepend(str(corner / "libraries"))
    (corner / "corpus" / "bad.rtf").write_bytes(rb"{\rtf1 x}")
    (corner / "corpus" / "good.txt").write_text(SENTENCES[0])
    read: list[int] = []
    original = ingest.read_files

    def count(jobs: Any, *rest: Any) -> Any:
        taken = list(jobs)
        read.append(len(taken))
        return original(taken, *rest)

    monkeypatch.setattr(ingest, "read_files", count)
    assert _run() == 0 == _run()
    assert read == files


def test_a_killed_run_continues_and_gives_the_same_bytes(corner: Path) -> None:
    for number in range(150):
        (corner / "corpus" / f"{number:03}.md").write_text(
            "\n\n".join(f"{number} {sentence}" for sentence in SENTENCES)
        )
    assert _run() == 0
    whole = (corner / "artifacts" / "ingest" / "passages.parquet").read_bytes()
    journal = corner / ".work" / "ingest" / "journal.sqlite"
    for leftover in journal.parent.glob("journal.sqlite*"):
        leftover.unlink()
    command = [
        sys.executable,
        "-m",
        "tasks.ingest",
        "--params",
        "params.yaml",
        "--corpus",
        "corpus",
        "--items",
        "items.jsonl",
        "--out",
        "artifacts/again",
    ]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None and _done(journal) < 20:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 20 <= _done(journal) < 150
    assert not (corner / "artifacts" / "again").exists()
    assert _run() == 0
    assert (corner / "artifacts" / "ingest" / "passages.parquet").read_bytes() == whole


def _done(journal: Path) -> int:
    import sqlite3

    try:
        base = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return 0
    try:
        return int(base.execute("SELECT count(*) FROM done").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        base.close()


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda corner: None, "the corpus corpus is empty"),
        (lambda corner: (corner / "corpus").rmdir(), "the corpus corpus does not exist"),
        (
            lambda corner: (corner / "corpus" / "a.txt").write_bytes(b""),
            "no readable document in corpus: empty 1",
        ),
        (
            lambda corner: (corner / "corpus" / "a.jsonl").write_text('{"body": "x", "id": 1}\n'),
            "no column 'text', there are: body, id",
        ),
        (
            lambda corner: (corner / "corpus" / "a.txt").write_text("Two words."),
            "no passage of corpus is kept: too_short 1",
        ),
        (lambda corner: (corner / "dataset.yaml").write_text("label: x\n"), "missing key 'name'"),
        (
            lambda corner: (corner / "dataset.yaml").write_text(
                DATASET.replace("passage", "story")
            ),
            "no column 'story'",
        ),
        (
            lambda corner: (corner / "items.jsonl").write_text("{broken\n"),
            "items.jsonl line 1 is not valid JSON",
        ),
    ],
)
def test_errors_are_one_clear_line_and_leave_nothing(
    corner: Path, capsys: pytest.CaptureFixture[str], prepare: Any, expected: str
) -> None:
    prepare(corner)
    assert _run() == 2
    printed = capsys.readouterr().err
    (line,) = [line for line in printed.splitlines() if line.startswith("error:")]
    assert expected in line
    assert "Traceback" not in printed
    assert not Path("artifacts/ingest").exists()


# --- cleaning that needs the whole corpus


def test_lines_that_many_documents_share_are_cut_out(corner: Path) -> None:
    notice = "This message is confidential and meant for its addressee alone."
    for number in range(8):
        after = f"\n\n{SENTENCES[30 + number]}" if number == 3 else ""
        (corner / "corpus" / f"{number}.md").write_text(
            f"# One heading that stands everywhere\n\n{SENTENCES[number]}\n\n{notice}{after}\n"
        )
    (corner / "corpus" / "8.md").write_text(notice)
    assert _run() == 0
    rows = _rows("passages")
    assert [row["text"] for row in rows] == [*SENTENCES[:4], SENTENCES[33], *SENTENCES[4:8]]
    assert all(row["tokens"] == len(row["text"].replace(".", " .").split()) for row in rows)
    texts = {path.name: path.read_text() for path in (corner / "corpus").iterdir()}
    everything = [*rows, *_rows("rejects")]
    assert all(
        texts[row["document"]][row["start"] : row["end"]] == row["text"] for row in everything
    )
    assert [(row["reason"], row["text"], row["detail"]) for row in _rows("rejects")] == [
        ("boilerplate", notice, "of 9 documents it is in 9")
    ] * 9
    assert _summary()["dropped"] == {"boilerplate": 1}
    assert _summary()["boilerplate"] == {"lines": 8, "characters": 8 * len(notice)}
    _params(corner, boilerplate_share=0)
    assert _run() == 0
    assert all(notice in row["text"] for row in _rows("passages"))
    assert _summary()["boilerplate"] == {}


def test_copies_of_a_document_are_duplicates_and_no_boilerplate(corner: Path) -> None:
    for number in range(7):
        (corner / "corpus" / f"{number}.txt").write_text(SENTENCES[0] + "\n\n" + SENTENCES[1])
    assert _run() == 0
    assert _summary()["dropped"] == {"duplicate": 6}
    _params(corner, exact_duplicates=False, near_duplicates=0)
    assert _run() == 0
    assert _summary()["rows_kept"] == 7


def test_spans_lead_to_the_masked_text(corner: Path) -> None:
    from tasks.ingest.cleaning import mask

    source = (
        f"# About jane.doe@example.org\n\n{SENTENCES[0]} Write to jane.doe@example.org.\n\n## "
        f"More\n\n{SENTENCES[1]} Card 4111 1111 1111 1111.\n"
    )
    (corner / "corpus" / "a.md").write_text(source)
    _params(corner, mask_personal_data=True)
    assert _run() == 0
    text = mask(source)[0]
    rows = _rows("passages")
    assert all(text[row["start"] : row["end"]] == row["text"] for row in rows)
    assert rows[0]["section"] == "About [EMAIL]"
    assert (
        "jane"
        not in json.dumps([*rows, *_rows("rejects")])
        + Path("artifacts/ingest/report.html").read_text()
    )
    assert _summary()["masked"] == {"EMAIL": 2, "CARD": 1}


# --- without labelled items, and from elsewhere


def test_no_labelled_items_are_needed(corner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corner / "corpus" / "a.txt").write_text(SENTENCES[0])
    (corner / "items.jsonl").unlink()
    (corner / "dataset.yaml").unlink()
    assert _run(evaluation="") == 0
    assert [row["in_evaluation"] for row in _rows("passages")] == [False]
    _params(corner, drop_evaluation_overlap=True)
    assert _run(evaluation="") == 2
    assert "no items to compare with" in capsys.readouterr().err


def test_a_label_that_no_item_has_is_named(
    corner: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corner / "corpus" / "a.txt").write_text(SENTENCES[0])
    (corner / "dataset.yaml").write_text(
        "{name: pumps, task_type: nli, context: passage, label: answer, "
        "labels: [Nothing, never, 'no'], templates: [{name: a, "
        "instruction: '{{ context }} {{ question }}', choices: [a, b, c]}]}"
    )
    assert _run() == 0
    assert "no item has the label never, no of pumps" in capsys.readouterr().err


def test_the_closing_lines_say_what_became_of_everything(
    corner: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corner / "corpus" / "a.txt").write_text(SENTENCES[0])
    (corner / "corpus" / "b.csv").write_text(
        f"text\n{SENTENCES[1]}\n{SENTENCES[2]}\n{SENTENCES[2]}\n"
    )
    (corner / "corpus" / "c.pdf").write_bytes(b"%PDF-1.7\nnothing more")
    assert _run() == 0
    lines = [" ".join(line.split()[2:]) for line in capsys.readouterr().err.splitlines()]
    tokens = _summary()["tokens"]
    assert any(line.startswith("3/3 files") and "/s" in line and "s left" in line for line in lines)
    for expected in (
        "documents 4: csv 3, text 1",
        f"passages 3 kept of 4, {tokens} tokens",
        "passages dropped duplicate 1",
        "not read damaged 1",
    ):
        assert expected in lines


@pytest.mark.parametrize("kind", ["memory", "zip", "file"])
def test_a_corpus_at_an_address(corner: Path, kind: str) -> None:
    import zipfile

    import fsspec

    files = {
        "a b/é.txt": SENTENCES[0],
        "c.jsonl": json.dumps({"text": SENTENCES[1]}) + "\n",
        "d.txt": "",
        ".hidden": "x",
    }
    if kind == "memory":
        system = fsspec.filesystem("memory")
        for name, text in files.items():
            system.pipe(f"/store/docs/{name}", text.encode())
        address = "memory://store/docs"
    elif kind == "zip":
        with zipfile.ZipFile(corner / "docs.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        address = f"zip://::file://{corner}/docs.zip"
    else:
        for name, text in files.items():
            (corner / "corpus" / name).parent.mkdir(exist_ok=True)
            (corner / "corpus" / name).write_text(text)
        address = f"file://{corner}/corpus"
    assert _run(address, evaluation="") == 0
    assert [(row["document"], row["text"]) for row in _rows("passages")] == [
        ("a b/é.txt", SENTENCES[0]),
        ("c.jsonl#1", SENTENCES[1]),
    ]
    assert [(row["document"], row["reason"]) for row in _rows("rejects")] == [
        (".hidden", "hidden"),
        ("d.txt", "empty"),
    ]
    assert not (corner / ".work" / "ingest" / "staging").exists()
    (corner / "mine.address").write_text(address + "\n")
    assert _run("mine.address", evaluation="") == 0
    assert len(_rows("passages")) == 2


def test_a_remote_folder_that_cannot_be_listed_is_named(
    corner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for name in ("a/1.txt", "closed/2.txt", "b/3.txt"):
        system.pipe(f"/listed/{name}", SENTENCES[int(name[-5])].encode())
    original = type(system).ls

    def ls(self: Any, path: str, *rest: Any, **more: Any) -> Any:
        if path.endswith("closed"):
            raise PermissionError("access denied")
        return original(self, path, *rest, **more)

    monkeypatch.setattr(type(system), "ls", ls)
    assert _run("memory://listed", evaluation="") == 0
    assert [(row["document"], row["reason"]) for row in _rows("rejects")] == [
        ("closed", "unreadable")
    ]
    assert len(_rows("passages")) == 2


def test_a_file_that_changes_while_it_is_read_is_read_again(
    corner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = corner / "one.txt"
    file.write_text(SENTENCES[0])
    original = LocalCorpus.fetch

    def fetch(self: LocalCorpus, place: str) -> Path:
        file.write_text(SENTENCES[1])
        return original(self, place)

    with monkeypatch.context() as patch:
        patch.setattr(LocalCorpus, "fetch", fetch)
        assert _run(str(file), evaluation="") == 0
    file.write_text(SENTENCES[0])
    assert _run(str(file), evaluation="") == 0
    assert [row["text"] for row in _rows("passages")] == [SENTENCES[0]]


def test_a_file_that_grows_beyond_its_limit_while_it_is_read_costs_itself(
    corner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _params(corner, max_file_mb=1)
    for number, name in enumerate(("one", "two")):
        (corner / "corpus" / f"{name}.txt").write_text(SENTENCES[number])
    original = LocalCorpus.fetch

    def fetch(self: LocalCorpus, place: str) -> Path:
        found = original(self, place)
        if place.endswith("one.txt"):
            Path(place).write_text(SENTENCES[0] * (2**21 // len(SENTENCES[0])))
        return found

    monkeypatch.setattr(LocalCorpus, "fetch", fetch)
    assert _run(evaluation="") == 0
    assert SENTENCES[1] in {row["text"] for row in _rows("passages")}


def test_a_store_that_loses_a_file_costs_that_file(
    corner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for number in range(3):
        system.pipe(f"/lossy/{number}.txt", SENTENCES[number].encode())
    original = type(system).get_file

    def get_file(self: Any, path: str, *rest: Any, **more: Any) -> Any:
        if path.endswith("1.txt"):
            raise PermissionError("access denied")
        return original(self, path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(system), "get_file", get_file)
        assert _run("memory://lossy", evaluation="") == 0
    assert [(row["document"], row["reason"], row["detail"]) for row in _rows("rejects")] == [
        ("1.txt", "unreadable", "PermissionError: access denied")
    ]
    assert _run("memory://lossy", evaluation="") == 0
    assert len(_rows("passages")) == 3


def test_a_dataset_is_streamed_by_name(corner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    from tasks.ingest import sources

    folder = corner / "hub" / "reports" / "data"
    folder.mkdir(parents=True)
    table = pa.table(
        {"id": list(range(25)), "body": [f"{number} {SENTENCES[number]}" for number in range(25)]}
    )
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 2), folder / "test-00000-of-00001.parquet")
    monkeypatch.setattr(sources, "_ROWS", 10)
    monkeypatch.setenv("HF_HOME", str(corner / "cache"))
    _params(corner, text_column="body")
    address = f"hf://{corner}/hub/reports"
    assert _run(address, evaluation="") == 0
    rows = _rows("passages")
    assert [row["document"] for row in rows] == [
        f"hf://{corner}/hub/reports/train#{number}" for number in range(1, 26)
    ]
    assert [row["text"] for row in rows] == table["body"].to_pylist()
    assert _run(f"{address}?split=test&rows=1", evaluation="") == 0
    assert [row["document"] for row in _rows("passages")] == [f"hf://{corner}/hub/reports/test#1"]
    assert not (corner / ".work" / "ingest" / "staging").exists()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://nobody/nothing", "hf://nobody/nothing cannot be reached"),
        ("hf://nobody/nothing?splt=train", "unknown option 'splt' (did you mean 'split'?)"),
        ("s3://bucket/folder", "s3:// needs a package that is not here: pip install s3fs"),
        ("gopherhole://x/y", "Protocol not known: gopherhole"),
        ("memory://nothing/there", "is empty"),
    ],
)
def test_an_address_that_cannot_be_reached_is_one_line(
    corner: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    expected: str,
) -> None:
    import datasets.config
    import huggingface_hub.constants

    # As with HF_HUB_OFFLINE=1, which these libraries read when they are imported: no test looks for
    # a network.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert _run(address, evaluation="") == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("error:")]
    assert expected in line


def test_make_ingest_takes_a_name_with_spaces(
    corner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command behind ``make ingest``, through make itself but for the set-up."""
    command = [
        "make",
        "--no-print-directory",
        "-n",
        "ingest",
        "CORPUS=my docs/é",
        "SET=ingest.languages=[en]",
    ]
    recipe = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]
    # From the environment, where make puts it: the shell does not look into it.
    evil = f"CORPUS=`touch {corner / 'ran'}`"
    tried = ["make", "-o", "setup", "ingest", evil, "BIN=/nowhere"]
    assert subprocess.run(tried, cwd=ROOT, capture_output=True, check=False).returncode
    assert not (corner / "ran").exists()
    assert 'scripts/ingest.py --corpus="$CORPUS" ' in recipe
    from scripts import ingest as script

    (corner / "my docs").mkdir()
    (corner / "my docs" / "a.txt").write_text(SENTENCES[0])
    settings = [
        f"generate.generator={corner / 'generator'}",
        "ingest.min_tokens=5",
        "ingest.workers=1",
    ]
    assert script.main(["--corpus", "my docs", "--settings", " ".join(settings)]) == 0
    preview = read_table(corner / "artifacts/preview/passages.parquet")
    assert preview["document"].to_pylist() == ["a.txt"]
    told = read_json(corner / "artifacts/preview/cut.json")
    assert told["corpus"] == str((corner / "my docs").resolve()), "make label looks at it"
    assert not (corner / "artifacts/ingest").exists(), "the pipeline's own artifacts stay"
    assert script.main(["--corpus", ""]) == 2


@pytest.mark.parametrize(
    ("arguments", "printed", "flags"),
    [
        ([], "in the evaluation    not checked", [False]),
        (["--evaluation", "items.jsonl"], "in the evaluation    1 passages", [True]),
        (["--profile", "privacy"], "in the evaluation    1 passages", [True]),
        (["--profile", "contracts"], "in the evaluation    not checked", [False]),  # no file yet
    ],
)
def test_a_preview_compares_with_the_items_it_was_given_or_the_profiles(
    corner: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    printed: str,
    flags: list[bool],
) -> None:
    """A copy of the passage is dropped as a duplicate: it is in no count."""
    from scripts import ingest as script

    (corner / "docs").mkdir()
    for name in ("a.txt", "b.txt"):
        (corner / "docs" / name).write_text(SENTENCES[0])
    item = {"id": "1", "context": SENTENCES[0], "question": "Q?", "answers": ["a"], "answer": "yes"}
    for items in (corner / "items.jsonl", corner / "data/privacy/evaluation.jsonl"):
        items.parent.mkdir(parents=True, exist_ok=True)
        items.write_text(json.dumps(item) + "\n")
    shutil.copytree(ROOT / "datasets", corner / "datasets", dirs_exist_ok=True)
    settings = [f"generate.generator={corner / 'generator'}", "ingest.min_tokens=5"]
    settings += ["ingest.workers=1", "ingest.near_duplicates=0.0"]
    assert script.main(["--corpus", "docs", *arguments, "--set", *settings]) == 0
    told = capsys.readouterr()
    assert printed in told.err and "artifacts/preview/report.html" in told.out
    rows = read_table(corner / "artifacts/preview/passages.parquet")
    assert rows["in_evaluation"].to_pylist() == flags


def test_a_tokenizer_is_read_without_the_model_library_where_its_file_is_all_there_is(
    tmp_path: Path,
) -> None:
    """The same JSON as transformers gives, to the byte: passages are cut by its count."""
    asked = (
        "import sys; from tasks.lm.tokenizers import tokenizer_json; told = "
        "tokenizer_json(sys.argv[1]); "
        "print(sorted({'torch', 'transformers'} & set(sys.modules))); print(told)"
    )
    load_tokenizer(EMBEDDED)  # the first use converts the embedded model, with torch
    _save_tokenizer(tmp_path / "generator")
    config = tmp_path / "generator" / "tokenizer_config.json"
    for name, plain in ((EMBEDDED, True), (str(tmp_path / "generator"), False)):
        if not plain:  # a special token that its own file does not have: transformers adds it
            config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token": "[PAD]"}))
        done = subprocess.run(
            [sys.executable, "-c", asked, name],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        loaded, told = done.stdout.strip().split("\n", 1)
        assert (loaded == "[]") == plain
        assert told == load_tokenizer(name).backend_tokenizer.to_str()


def test_of_many_names_the_most_frequent_are_shown_and_the_rest_is_counted() -> None:
    """A text in a hundred languages would fill the screen."""
    counts = {"de": 3, "fr": 9, "cs": 3, "ko": 1}
    assert report.format_counts(counts) == "fr 9, cs 3, de 3, ko 1"
    assert report.format_counts(counts, 2) == "fr 9, cs 3, 2 others 4"
    assert (
        report.format_counts(counts, 4) == report.format_counts(counts)
        and report.format_counts({}, 2) == ""
    )


def test_what_changes_during_the_stage_is_read_by_the_next_run(
    corner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC hashes the corpus when the stage has ended, and would take the new text for read."""
    (corner / "corpus" / "a.txt").write_text("The pump failed at noon because its seal broke.")
    read = ingest._read_new

    def read_and_write(*arguments: Any) -> None:
        read(*arguments)
        (corner / "corpus" / "a.txt").write_text("The valve was replaced in the evening of May 3.")

    assert _run() == 0 and _summary()["unsettled"] == 0
    monkeypatch.setattr(ingest, "_read_new", read_and_write)
    assert _run() == 0 and _summary()["unsettled"] == 1
    monkeypatch.setattr(ingest, "_read_new", read)
    assert _run() == 0 and _summary()["unsettled"] == 0
    assert "valve" in _rows("passages")[0]["text"]


def test_a_corpus_that_holds_the_items_says_so(corner: Path) -> None:
    context, question = "The pump failed at noon because its seal broke.", "Why did the pump fail?"
    row = {"id": "1", "passage": context, "question": question, "answer": "its seal broke"}
    (corner / "items.jsonl").write_text(json.dumps(row) + "\n")
    (corner / "corpus" / "a.txt").write_text(context)
    assert _run() == 0 and _summary()["leaked_items"] == 0
    (corner / "corpus" / "items.csv").write_text(f'text\n"{context} {question} its seal broke"\n')
    assert _run() == 0 and _summary()["leaked_items"] == 1
