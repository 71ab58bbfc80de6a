"""The ingest stage on small corpora made here, through its command line: a real tokenizer, real
processes, real files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks.core.errors import PipelineError
from tasks.core.rows import PASSAGES, REJECTS
from tasks.core.setting_paths import read_pointer
from tasks.ingest import report
from tasks.lm.models import EMBEDDED
from tasks.lm.tokenizers import load_tokenizer
from tests.conftest import assert_pages_are_checked
from tests.ingest.corner import (
    DATASET,
    ROOT,
    SENTENCES,
    read_rows,
    read_summary,
    run_ingest,
    save_tokenizer,
    write_params,
)
from tests.pages import check_page


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
    assert run_ingest() == 0
    rows = read_rows("passages")
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
    summary = read_summary()
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
    assert run_ingest() == 0
    assert [row["document"] for row in read_rows("passages")] == ["a.txt", "c.txt"]
    (reject,) = read_rows("rejects")
    assert (reject["document"], reject["reason"]) == ("b.txt", "duplicate")
    assert read_rows("passages")[0]["passage_id"] in reject["detail"]
    assert read_summary()["dropped"] == {"duplicate": 1}


def test_near_duplicates_can_be_kept(corner: Path) -> None:
    long = " ".join(SENTENCES[:3])
    (corner / "corpus" / "a.txt").write_text(long)
    (corner / "corpus" / "b.txt").write_text(long + " Checked twice.")
    write_params(corner, near_duplicates=0.8)
    assert run_ingest() == 0
    assert read_summary()["dropped"] == {"near_duplicate": 1}
    write_params(corner, near_duplicates=0)
    assert run_ingest() == 0
    assert read_summary()["dropped"] == {}


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
    write_params(corner, languages=["en"], mask_personal_data=True)
    assert run_ingest() == 0
    assert read_summary()["dropped"] == {"language": 1, "too_short": 1}
    assert read_summary()["other_languages"] == {"de": 1}
    (reject,) = [row for row in read_rows("rejects") if row["reason"] == "language"]
    assert reject["detail"] == "de, wanted: en"
    assert (
        read_rows("passages")[0]["text"]
        == "The pump was stopped in the evening; write to [EMAIL] or call [PHONE] about it."
    )
    assert read_summary()["masked"] == {"EMAIL": 1, "PHONE": 1}


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
    assert run_ingest() == 0
    assert [row["document"] for row in read_rows("passages")] == ["good one é.txt"]
    reasons = {row["document"]: row["reason"] for row in read_rows("rejects")}
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
    assert '<a href="../verify/report.html">Verification (after verify)</a>' in page
    check_page(page)


def test_the_page_shows_files_that_were_not_read_before_passages(corner: Path) -> None:
    corpus = corner / "corpus"
    (corpus / "good.txt").write_text(SENTENCES[0])
    (corpus / "a.txt").write_text("Two words.")
    (corpus / "b.txt").write_text("Three other words.")
    (corpus / "binary.bin").write_bytes(bytes(range(256)) * 8)
    assert run_ingest() == 0
    page = Path("artifacts/ingest/report.html").read_text()
    order = [page.index(f"<summary><b>{name}") for name in ("unsupported_format", "too_short")]
    assert order == sorted(order), "there are more of the passages"
    assert '<h2 id="unused">' in page
    check_page(page)


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
    assert run_ingest() == 2
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
    assert run_ingest() == 0
    rows = read_rows("passages")
    assert [row["text"] for row in rows] == [*SENTENCES[:4], SENTENCES[33], *SENTENCES[4:8]]
    assert all(row["tokens"] == len(row["text"].replace(".", " .").split()) for row in rows)
    texts = {path.name: path.read_text() for path in (corner / "corpus").iterdir()}
    everything = [*rows, *read_rows("rejects")]
    assert all(
        texts[row["document"]][row["start"] : row["end"]] == row["text"] for row in everything
    )
    assert [(row["reason"], row["text"], row["detail"]) for row in read_rows("rejects")] == [
        ("boilerplate", notice, "of 9 documents it is in 9")
    ] * 9
    assert read_summary()["dropped"] == {"boilerplate": 1}
    assert read_summary()["boilerplate"] == {"lines": 8, "characters": 8 * len(notice)}
    write_params(corner, boilerplate_share=0)
    assert run_ingest() == 0
    assert all(notice in row["text"] for row in read_rows("passages"))
    assert read_summary()["boilerplate"] == {}


def test_copies_of_a_document_are_duplicates_and_no_boilerplate(corner: Path) -> None:
    for number in range(7):
        (corner / "corpus" / f"{number}.txt").write_text(SENTENCES[0] + "\n\n" + SENTENCES[1])
    assert run_ingest() == 0
    assert read_summary()["dropped"] == {"duplicate": 6}
    write_params(corner, exact_duplicates=False, near_duplicates=0)
    assert run_ingest() == 0
    assert read_summary()["rows_kept"] == 7


def test_spans_lead_to_the_masked_text(corner: Path) -> None:
    from tasks.ingest.personal_data import mask

    source = (
        f"# About jane.doe@example.org\n\n{SENTENCES[0]} Write to jane.doe@example.org.\n\n## "
        f"More\n\n{SENTENCES[1]} Card 4111 1111 1111 1111.\n"
    )
    (corner / "corpus" / "a.md").write_text(source)
    write_params(corner, mask_personal_data=True)
    assert run_ingest() == 0
    text = mask(source)[0]
    rows = read_rows("passages")
    assert all(text[row["start"] : row["end"]] == row["text"] for row in rows)
    assert rows[0]["section"] == "About [EMAIL]"
    assert (
        "jane"
        not in json.dumps([*rows, *read_rows("rejects")])
        + Path("artifacts/ingest/report.html").read_text()
    )
    assert read_summary()["masked"] == {"EMAIL": 2, "CARD": 1}


def test_the_closing_lines_say_what_became_of_everything(
    corner: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corner / "corpus" / "a.txt").write_text(SENTENCES[0])
    (corner / "corpus" / "b.csv").write_text(
        f"text\n{SENTENCES[1]}\n{SENTENCES[2]}\n{SENTENCES[2]}\n"
    )
    (corner / "corpus" / "c.pdf").write_bytes(b"%PDF-1.7\nnothing more")
    assert run_ingest() == 0
    lines = [" ".join(line.split()[2:]) for line in capsys.readouterr().err.splitlines()]
    tokens = read_summary()["tokens"]
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
    assert run_ingest(address, evaluation="") == 0
    assert [(row["document"], row["text"]) for row in read_rows("passages")] == [
        ("a b/é.txt", SENTENCES[0]),
        ("c.jsonl#1", SENTENCES[1]),
    ]
    assert [(row["document"], row["reason"]) for row in read_rows("rejects")] == [
        (".hidden", "hidden"),
        ("d.txt", "empty"),
    ]
    assert not (corner / ".work" / "ingest" / "staging").exists()
    (corner / "mine.address").write_text(address + "\n# what make follow saw there\n")
    assert run_ingest("mine.address", evaluation="") == 0
    assert len(read_rows("passages")) == 2


def test_an_address_as_an_editor_of_windows_saves_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.address"
    path.write_text("s3://bucket/folder\r\n", encoding="utf-8-sig")
    assert read_pointer(path) == "s3://bucket/folder"
    path.write_text("s3://bucket/folder\r\n", encoding="utf-16")
    with pytest.raises(PipelineError, match="mine.address is not UTF-8"):
        read_pointer(path)


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
    assert run_ingest("memory://listed", evaluation="") == 0
    assert [(row["document"], row["reason"]) for row in read_rows("rejects")] == [
        ("closed", "unreadable")
    ]
    assert len(read_rows("passages")) == 2


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
        assert run_ingest("memory://lossy", evaluation="") == 0
    assert [(row["document"], row["reason"], row["detail"]) for row in read_rows("rejects")] == [
        ("1.txt", "unreadable", "PermissionError: access denied")
    ]
    assert run_ingest("memory://lossy", evaluation="") == 0
    assert len(read_rows("passages")) == 3


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
    write_params(corner, text_column="body")
    address = f"hf://{corner}/hub/reports"
    assert run_ingest(address, evaluation="") == 0
    rows = read_rows("passages")
    assert [row["document"] for row in rows] == [
        f"hf://{corner}/hub/reports/train#{number}" for number in range(1, 26)
    ]
    assert [row["text"] for row in rows] == table["body"].to_pylist()
    assert run_ingest(f"{address}?split=test&rows=1", evaluation="") == 0
    assert [row["document"] for row in read_rows("passages")] == [
        f"hf://{corner}/hub/reports/test#1"
    ]
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
    assert run_ingest(address, evaluation="") == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("error:")]
    assert expected in line


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
    save_tokenizer(tmp_path / "generator")
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
