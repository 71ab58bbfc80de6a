"""A corpus at an HTTP server: what tells that a file changed, and where its server may send us."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.ingest import http_client, sources


@contextmanager
def _serve(pages: dict[str, tuple[int, dict[str, str], str]]) -> Iterator[tuple[str, list[Any]]]:
    """Lend host and port of a server with these pages (status, head, body), and the list of the
    paths and heads that it was asked for.
    """
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, dict(self.headers)))
            status, head, body = pages.get(self.path, (404, {}, ""))
            self.send_response(status)
            for name, value in {**head, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body.encode())

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()


def _to(address: str) -> tuple[int, dict[str, str], str]:
    return 302, {"Location": address}, ""


@pytest.fixture
def places() -> Iterator[tuple[str, list[Any], str, list[Any]]]:
    """A corpus's server and another of this machine, each with what it was asked."""
    with ExitStack() as stack:
        other, asked_other = stack.enter_context(_serve({"/secret.txt": (200, {}, "a secret")}))
        pages = {
            "/own.txt": _to("/moved.txt"),
            "/moved.txt": (200, {}, "a text"),
            "/away.txt": _to(f"http://{other}/secret.txt"),
            "/round.txt": _to("/round.txt"),
        }
        own, asked = stack.enter_context(_serve(pages))
        yield own, asked, other, asked_other


def _fetch(address: str, folder: Path, place: str = "") -> str:
    corpus = sources.RemoteCorpus(address, folder / "staging", 1 << 20)
    return corpus.fetch(place or address).read_text()


def test_a_redirect_within_the_corpus_is_followed_with_its_password(
    places: Any, tmp_path: Path
) -> None:
    own, asked, *_ = places
    assert _fetch(f"http://me:pw@{own}/own.txt", tmp_path) == "a text"
    told = f"Basic {base64.b64encode(b'me:pw').decode()}"
    heads = {path: head.get("Authorization") for path, head in asked}
    assert heads["/own.txt"] == heads["/moved.txt"] == told


def test_a_redirect_to_another_service_of_this_machine_is_refused(
    places: Any, tmp_path: Path
) -> None:
    own, _, other, asked_other = places
    with pytest.raises(OSError, match="neither the corpus's own host and port nor a public"):
        _fetch(f"http://{own}/away.txt", tmp_path)
    assert not asked_other and not list((tmp_path / "staging").iterdir())
    name = f"http://localhost:{other.partition(':')[2]}/secret.txt"
    with pytest.raises(OSError, match="nor a public address"), _serve({"/x": _to(name)}) as there:
        _fetch(f"http://{there[0]}/x", tmp_path)
    assert not asked_other, "nor by its name"


def test_another_host_gets_neither_password_nor_header(
    places: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, asked, _, asked_other = places
    monkeypatch.setattr(http_client, "is_public", lambda _: True)
    address = f"http://me:pw@{own}/away.txt"
    corpus = sources.RemoteCorpus(address, tmp_path / "staging", 1 << 20)
    corpus._system.kwargs["headers"] = {"Private-Token": "a secret"}
    assert corpus.fetch(address).read_text() == "a secret"
    (first, *_), (last, *_) = asked, asked_other
    assert {"Authorization", "Private-Token"} <= set(first[1])
    assert {name.lower() for name in last[1]} <= http_client._HARMLESS


def test_a_server_that_sends_us_round_in_a_circle_is_left(places: Any, tmp_path: Path) -> None:
    own, asked, *_ = places
    with pytest.raises(Exception, match="/round.txt"):
        _fetch(f"http://{own}/round.txt", tmp_path)
    assert len(asked) <= 12


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("::ffff:127.0.0.1", False),
        ("0.0.0.0", False),
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07::1", True),
        ("224.0.0.1", False),
        ("fec0::1", False),
        ("64:ff9b::a00:1", False),  # a gateway's address of 10.0.0.1
        ("64:ff9b::808:808", True),
        ("2002:a00:1::1", False),
        ("2001:4860:4860::8888", True),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert http_client.is_public(address) is public


@pytest.mark.parametrize(
    ("address", "scheme"),
    [
        ("https://h.example/a/", "https"),
        ("HTTP://h.example", "http"),
        ("zip://*.txt::https://h.example/a.zip", "https"),
        ("s3://bucket/http://x", ""),
        ("/a/http://b", ""),
    ],
)
def test_which_addresses_have_the_guarded_client(address: str, scheme: str) -> None:
    assert list(http_client.guard(address)) == ([scheme] if scheme else [])


def test_what_tells_that_a_file_changed(tmp_path: Path) -> None:
    pages = {
        "/a.txt": (200, {"ETag": '"1"'}, "a text"),
        "/b.txt": (200, {"Last-Modified": "Mon, 30 Nov 2026 12:00:00 GMT"}, "a text"),
        "/c.txt": (200, {}, "a text"),
    }

    def version(place: str, name: str) -> str:
        corpus = sources.RemoteCorpus(f"http://{place}/{name}.txt", tmp_path / "staging", 1 << 20)
        (file,) = corpus.files()
        return corpus.version(file)

    with _serve(pages) as (place, _):
        before = {name: version(place, name) for name in "abc"}
        assert {name: version(place, name) for name in "abc"} == before
        pages["/a.txt"] = (200, {"ETag": '"2"'}, "b text")
        pages["/b.txt"] = (200, {"Last-Modified": "Mon, 30 Nov 2026 12:00:09 GMT"}, "b text")
        pages["/c.txt"] = (200, {}, "b text")
        assert all(version(place, name) != before[name] for name in "abc")
