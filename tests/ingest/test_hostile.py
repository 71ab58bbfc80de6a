"""Files that are out to hurt, each made here: one reject with its reason, and nothing else
happens.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import threading
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.core.pool import Limits
from tasks.ingest import file_pool, sources, worker
from tasks.ingest.discovery import discover
from tasks.ingest.readers import detect
from tasks.ingest.readers.document import Document, ReadOptions, Unreadable
from tasks.ingest.reasons import REASONS
from tests.ingest.hostile_files import reasons
from tests.ingest.office_files import zipped
from tests.ingest.reading import STORY

# --- depth


def test_messages_inside_messages(tmp_path: Path) -> None:
    message = EmailMessage()
    message["Subject"] = "The innermost"
    message.set_content(STORY)
    for number in range(8):
        outer = EmailMessage()
        outer["Subject"] = f"Forwarded {number}"
        outer.set_content("See below.")
        outer.add_attachment(message)
        message = outer
    (tmp_path / "a.eml").write_bytes(message.as_bytes())
    (reject,) = reasons(tmp_path / "a.eml")
    assert reject[1] == "nested_too_deep" and reject[0].count("!") == 4


@pytest.mark.parametrize("depth", [300, 5000, 100_000])
def test_elements_inside_elements(tmp_path: Path, depth: int) -> None:
    (tmp_path / "a.html").write_text(
        f"<html><body><p>{STORY}</p>{'<div>' * depth}deep{'</div>' * depth}</body></html>"
    )
    found = (
        list(detect.read(tmp_path / "a.html", ReadOptions()))
        if not reasons(tmp_path / "a.html")
        else []
    )
    # lxml itself leaves out what is deeper than any page: either way there is an end, and a text or
    # a reason.
    assert reasons(tmp_path / "a.html") in ([], [("", "nested_too_deep")])
    assert all(isinstance(item, Document) and STORY in item.text for item in found)


def test_a_text_longer_than_the_parser_takes_is_refused(tmp_path: Path) -> None:
    """The parser stopped there without a word, and the last paragraph was gone."""
    page = "<html><body><p>{}</p><p>The last.</p></body></html>"
    (tmp_path / "a.html").write_text(page.format("word " * 2_100_000))
    assert reasons(tmp_path / "a.html") == [("", "too_large")]
    (tmp_path / "b.html").write_text(page.format("word " * 1_900_000))
    (document,) = detect.read(tmp_path / "b.html", ReadOptions())
    assert isinstance(document, Document) and document.text.rstrip().endswith("The last.")


def test_values_inside_values(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": STORY}) + f'\n{{"text": {deep}}}\n')
    (tmp_path / "b.json").write_text(deep)
    assert reasons(tmp_path / "a.jsonl") == [("#2", "nested_too_deep")]
    assert reasons(tmp_path / "b.json") == [("", "nested_too_deep")]


def test_xml_entities_are_not_expanded(tmp_path: Path) -> None:
    """A billion laughs in a book's package: nothing is multiplied, and nothing is read from
    elsewhere.
    """
    entities = "".join(
        f'<!ENTITY l{number} "{f"&l{number - 1};" * 10}">' for number in range(1, 10)
    )
    package = (
        '<!DOCTYPE p [<!ENTITY l0 "ha"><!ENTITY x SYSTEM '
        f'"file:///etc/passwd">{entities}]><package><title>&l9;&x;</title></package>'
    )
    container = '<container><rootfiles><rootfile full-path="b.opf"/></rootfiles></container>'
    zipped(tmp_path / "a.epub", {"META-INF/container.xml": container, "b.opf": package})
    assert reasons(tmp_path / "a.epub")[0][1] in ("empty", "damaged")


# --- size


def test_a_zip_that_holds_too_many_members(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", {f"{number}.txt": STORY for number in range(12)})
    assert reasons(tmp_path / "a.zip", max_members=10) == [("", "too_large")]


@pytest.mark.parametrize(
    "name", ["a.txt", "b.md", "c.html", "d.json", "e.csv", "f.jsonl", "g.rtf", "h.eml"]
)
def test_a_line_longer_than_the_limit(tmp_path: Path, name: str) -> None:
    """A sparse file of 256 times the limit, all of it one line but for its head: none of it is ever
    held.
    """
    heads = {
        "e.csv": b"text\n",
        "f.jsonl": b'{"text": "',
        "g.rtf": b"{\\rtf1 ",
        "h.eml": b"Subject: x\n\n",
    }
    path = tmp_path / name
    path.write_bytes(heads.get(name, b"A line that ") + b"goes on " * 1000)
    os.truncate(path, 256 << 20)
    assert [reason for _, reason in reasons(path, max_bytes=1 << 20)] in (
        ["too_large"],
        ["unsupported_format"],
        ["binary"],
    )


@pytest.mark.parametrize("name", ["a.csv", "b.jsonl", "c.csv.gz", "d.json"])
def test_a_long_line_of_real_text_is_refused_and_the_rest_read(tmp_path: Path, name: str) -> None:
    line = STORY * 30_000
    source = {
        "a.csv": f"text\n{STORY}\n{line}\n",
        "b.jsonl": json.dumps({"text": STORY})
        + "\n"
        + json.dumps({"text": line})
        + "\n"
        + json.dumps({"text": STORY})
        + "\n",
        "c.csv.gz": f"text\n{line}\n",
        "d.json": json.dumps([{"text": line}]),
    }[name]
    (tmp_path / name).write_bytes(
        gzip.compress(source.encode()) if name.endswith(".gz") else source.encode()
    )
    assert [reason for _, reason in reasons(tmp_path / name, max_bytes=1 << 20)] == ["too_large"]
    if name == "b.jsonl":
        assert (
            sum(
                isinstance(item, Document)
                for item in detect.read(tmp_path / name, ReadOptions(max_bytes=1 << 20))
            )
            == 2
        )


def test_a_file_that_eats_memory_is_cut_off(tmp_path: Path) -> None:
    """Not a made-up parser: a real text too large for what its process may use."""
    (tmp_path / "big.txt").write_text((STORY + "\n") * 1_200_000)
    (tmp_path / "good.txt").write_text(STORY)
    work = worker.Work("", ReadOptions(), 50, 1)
    outcomes = list(
        file_pool.read_files(
            [("big", tmp_path / "big.txt"), ("good", tmp_path / "good.txt")],
            work,
            1,
            Limits(60.0, 200),
            tmp_path / "unpacked",
        )
    )
    results = {outcome.key: json.loads(outcome.value)[0] for outcome in outcomes if outcome.done}
    assert results["big"]["reason"] == outcomes[0].failure == "memory"
    assert results["good"]["passages"][0]["text"] == STORY


# --- links and names


def test_links_and_names(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "with space").mkdir(parents=True)
    (corpus / "with space" / "Bericht über Öl.txt").write_text(STORY)
    (tmp_path / "secret.txt").write_text("outside")
    (tmp_path / "folder").mkdir()
    (corpus / "out.txt").symlink_to(tmp_path / "secret.txt")
    (corpus / "relative.txt").symlink_to("../secret.txt")
    (corpus / "out-folder").symlink_to(tmp_path / "folder")
    (corpus / "in-folder").symlink_to(corpus / "with space")
    (corpus / "inside.txt").symlink_to(corpus / "with space" / "Bericht über Öl.txt")
    (corpus / "loop.txt").symlink_to("loop.txt")
    (Path(os.fsdecode(os.fsencode(corpus) + b"/caf\xe9.txt"))).write_text(STORY)
    found = {file.name: file.problem.reason if file.problem else "" for file in discover(corpus)}
    assert found == {
        "caf\\xe9.txt": "",
        "in-folder": "link_to_folder",
        "inside.txt": "",
        "loop.txt": "broken_link",
        "out-folder": "link_outside",
        "out.txt": "link_outside",
        "relative.txt": "link_outside",
        "with space/Bericht über Öl.txt": "",
    }
    assert {file.name: file.problem for file in discover(corpus, follow_links=True)}[
        "out.txt"
    ] is None


def test_a_name_with_a_byte_and_one_that_spells_it_are_two_files(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    names = [b"caf\xe9.txt", b"caf\\xe9.txt", b"caf\xe8.txt", b"caf\\\xe9.txt", "café.txt".encode()]
    for name in names:
        Path(os.fsdecode(folder + b"/" + name)).write_text(STORY)
    assert sorted(file.name for file in discover(tmp_path)) == sorted(
        ["caf\\xe9.txt", "caf\\\\xe9.txt", "caf\\xe8.txt", "caf\\\\\\xe9.txt", "café.txt"]
    )


def test_a_file_too_large_to_be_read_is_not_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sparse.txt"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    monkeypatch.setattr(sources, "sha256_file", lambda _: pytest.fail("hashed"))
    corpus = sources.LocalCorpus(tmp_path, False, 1 << 20)
    (file,) = corpus.files()
    with pytest.raises(Unreadable, match="too_large: 1048576 MiB, the most is 1"):
        corpus.version(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_closed_folder_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(STORY)
    (tmp_path / "closed").mkdir(mode=0)
    found = {file.name: file.problem.reason if file.problem else "" for file in discover(tmp_path)}
    assert found == {"a.txt": "", "closed": "unreadable"}


def test_every_reason_is_explained() -> None:
    """The reasons in the code, the table that explains them on the page, and docs/corpus.md name
    the same.
    """
    import re

    root = Path(__file__).resolve().parents[2]
    code = "\n".join(
        path.read_text()
        for path in sorted((root / "tasks" / "ingest").rglob("*.py"))
        if path.name != "reasons.py"
    )
    used = set(re.findall(r"""(?:Unreadable|reject|_refused|_reject)\(\s*"([a-z_]+)",""", code))
    used |= set(re.findall(r'Reject\(\s*[^,]+,\s*"([a-z_]+)"', code))
    used |= set(re.findall(r'values\["reason"\], values\["detail"\] = "([a-z_]+)"', code)) | set(
        re.findall(r'return "([a-z_]+)", f', code)
    )
    used = {reason for reason in used if reason}
    assert len(used) > 20
    assert used <= set(REASONS)
    assert set(REASONS) <= set(
        re.findall(r"^\| `([a-z_]+)` \|", (root / "docs" / "corpus.md").read_text(), re.MULTILINE)
    )


class _Endless(BaseHTTPRequestHandler):
    """A body without an end, after a header without a length."""

    sent = 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while type(self).sent < 200 << 20:
                self.wfile.write(bytes(1 << 20))
                type(self).sent += 1 << 20

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_an_endless_remote_file_does_not_fill_the_disk(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/endless.txt"
        corpus = sources.RemoteCorpus(address, tmp_path / "staging", 3 << 20)
        with pytest.raises(Unreadable, match="too_large: more than 3 MiB to fetch"):
            corpus.fetch(address)
        server.shutdown()
    assert not any((tmp_path / "staging").iterdir())
