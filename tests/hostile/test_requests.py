"""Requests as bytes, and bodies, to the servers of our pages: none reaches what the page works on,
none ends in a trace.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.testclient import TestClient

from flows.review.server import make_app
from tasks.core.page import Page
from tests.hostile.test_hostile import _Desk

pytestmark = pytest.mark.timeout(120)

_OWN = b"Host: 127.0.0.1\r\n"
_SAVE = b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"

#: (name, request). Each is refused, or ends without an answer.
RAW = (
    ("no Host", b"GET /state HTTP/1.1\r\n\r\n"),
    ("HTTP/1.0 without a Host", b"GET /state HTTP/1.0\r\n\r\n"),
    ("HTTP/0.9", b"GET /state\r\n\r\n"),
    ("two Hosts", b"GET /state HTTP/1.1\r\n" + _OWN + b"Host: evil.example\r\n\r\n"),
    ("a Host twice", b"GET /state HTTP/1.1\r\n" + _OWN * 2 + b"\r\n"),
    ("a Host over two lines", b"GET /state HTTP/1.1\r\nHost: 127.0.0.1\r\n evil.example\r\n\r\n"),
    ("a wide letter in the Host", b"GET /state HTTP/1.1\r\nHost: \xedocalhost\r\n\r\n"),
    ("a zero byte in the Host", b"GET /state HTTP/1.1\r\nHost: 127.0.0.1\0.evil\r\n\r\n"),
    (
        "an address as target",
        b"GET http://evil.example/state HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ),
    ("a tunnel", b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n"),
    ("another server's path", b"GET //evil.example/state HTTP/1.1\r\n" + _OWN + b"\r\n"),
    ("a path that climbs", b"GET /scripts/../../server.js HTTP/1.1\r\n" + _OWN + b"\r\n"),
    (
        "a path that climbs, encoded",
        b"GET /scripts/%2e%2e%2fserver.js HTTP/1.1\r\n" + _OWN + b"\r\n",
    ),
    ("a path of zero bytes", b"GET /scripts/a%00.js HTTP/1.1\r\n" + _OWN + b"\r\n"),
    ("a path of half a character", b"GET /scripts/%ff.js HTTP/1.1\r\n" + _OWN + b"\r\n"),
    ("a long path", b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + _OWN + b"\r\n"),
    ("many headers", b"GET /state HTTP/1.1\r\nHost: evil\r\n" + b"X: a\r\n" * 20_000 + b"\r\n"),
    ("a foreign page's form", b"POST /save HTTP/1.1\r\n" + _OWN + b"Origin: null\r\n" + _SAVE),
    (
        "a request behind a request",
        b"POST /save HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 4\r\n" + _CHUNKED,
    ),
    ("a negative length", b"POST /save HTTP/1.1\r\n" + _OWN + b"Content-Length: -1\r\n\r\n{}"),
    ("two lengths", b"POST /save HTTP/1.1\r\n" + _OWN + b"Content-Length: 1\r\n" + _SAVE),
    (
        "an upgrade",
        b"GET /state HTTP/1.1\r\nHost: evil\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ),
    (
        "a foreign page beside its own",
        b"POST /save HTTP/1.1\r\n"
        + _OWN
        + b"Origin: http://127.0.0.1\r\nOrigin: http://evil.example\r\n"
        + _SAVE,
    ),
    (
        "a frame that is a document too",
        b"GET /state HTTP/1.1\r\n"
        + _OWN
        + b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Dest: iframe\r\n\r\n",
    ),
    (
        "a Host behind the body",
        b"POST /save HTTP/1.1\r\nHost: evil\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        + _OWN
        + b"\r\n",
    ),
    (
        "a piece without an end",
        b"POST /save HTTP/1.1\r\n"
        + _OWN
        + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n{}",
    ),
    (
        "a length and pieces",
        b"POST /save HTTP/1.1\r\n" + _OWN + b"Content-Length: 2\r\n" + _CHUNKED,
    ),
    ("another protocol", b"\x16\x03\x01\x02\x00\x01\x00" + bytes(99)),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
)

#: Which of them answers, the parser of HTTP or the page, may depend on the packets.
_REFUSED = (b"400", b"403", b"404", b"405", b"422", b"431")
#: (name, headers, body, status) of a POST of the page's own.
BODIES = (
    ("good", {}, b"{}", 200),
    ("JSON as text", {"Content-Type": "text/plain"}, b"{}", 422),
    ("JSON as a form", {"Content-Type": "application/x-www-form-urlencoded"}, b"{}", 422),
    ("JSON as a file", {"Content-Type": "multipart/form-data; boundary=x"}, b"{}", 422),
    ("a list", {}, b"[]", 422),
    ("null", {}, b"null", 422),
    ("nothing", {}, b"", 422),
    ("half", {}, b'{"a": ', 422),
    ("not UTF-8", {}, b'{"a": "\xff"}', 400),
    ("deep", {}, b"[" * 99_999, 400),
    ("deep objects", {}, b'{"a":' * 30_000, 400),
    ("a huge number", {}, b'{"a": 1' + b"0" * 9_999 + b"}", 400),
    ("too large", {}, b'{"a": "' + b"a" * 300_000 + b'"}', 413),
)


@pytest.fixture(scope="module", params=["httptools", "h11"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[int, _Desk]]:
    """A server of one of our pages on a port of its own, with either of uvicorn's parsers."""
    desk = _Desk()
    app = make_app(desk, Page("Review"))
    running = uvicorn.Server(
        uvicorn.Config(app, port=0, http=request.param, log_level="critical", lifespan="off")
    )
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.05)
    yield running.servers[0].sockets[0].getsockname()[1], desk
    running.should_exit = True
    thread.join(20)


def _send(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(OSError):  # refused before all of it was sent
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
    return answer


@pytest.mark.parametrize(("name", "request_bytes"), RAW, ids=[row[0] for row in RAW])
def test_hostile_bytes(server: tuple[int, _Desk], name: str, request_bytes: bytes) -> None:
    port, desk = server
    answer = _send(port, request_bytes)
    assert desk.reached == 0
    first = answer.split(b"\r\n")[0]
    assert not answer or first.split()[1] in _REFUSED, first
    assert b"Traceback" not in answer


@pytest.mark.parametrize(
    ("name", "headers", "body", "status"), BODIES, ids=[row[0] for row in BODIES]
)
def test_hostile_bodies(name: str, headers: dict[str, str], body: bytes, status: int) -> None:
    desk = _Desk()
    client = TestClient(make_app(desk, Page("Review")), base_url="http://127.0.0.1:4300")
    headers = {"Content-Type": "application/json", "Origin": "http://127.0.0.1:4300"} | headers
    answer = client.post("/save", content=body, headers=headers)
    assert (answer.status_code, desk.reached) == (status, int(status == 200))
    if "application/json" in answer.headers["Content-Type"]:
        json.loads(answer.content)
