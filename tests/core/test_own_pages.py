"""A server on loopback refuses foreign names and foreign pages."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from tasks.core.errors import PipelineError
from tasks.core.own_pages import VARIABLE, OwnPagesOnly


async def _answer(_request: Any) -> PlainTextResponse:
    return PlainTextResponse("answered")


async def _talk(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("answered")
    await socket.close()


def _client(origins: tuple[str, ...] = ()) -> TestClient:
    routes = [Route("/", _answer, methods=["GET", "POST"]), WebSocketRoute("/ws", _talk)]
    app = Starlette(routes=routes)
    app.add_middleware(OwnPagesOnly, origins=origins)
    return TestClient(app, base_url="http://127.0.0.1:4200")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:4200"}, 200),
        ({"Host": "[::1]:4200"}, 200),
        ({"Origin": "http://127.0.0.1:4200"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:4200"}, 403),
        ({"Host": "me@evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:3000"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_foreign_hosts_and_origins_are_refused(headers: dict[str, str], status: int) -> None:
    for method in ("GET", "POST", "OPTIONS", "DELETE") if status == 403 else ("GET", "POST"):
        answer = _client().request(method, "/", headers=headers)
        assert answer.status_code == status
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_websocket_of_a_foreign_page_is_refused() -> None:
    with _client().websocket_connect("ws://127.0.0.1:4200/ws") as socket:
        assert socket.receive_text() == "answered"
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with (
            pytest.raises(WebSocketDisconnect),
            _client().websocket_connect("ws://127.0.0.1:4200/ws", headers=headers),
        ):
            pass


def test_a_foreign_page_shows_nothing_of_ours_within_itself() -> None:
    """A frame that nobody sees would let it have the user's clicks. A browser says where the answer
    goes; an older one heeds the header.
    """
    for site in ("cross-site", "same-site"):
        for place in ("iframe", "frame", "object", "script", "image", "empty"):
            headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": place}
            assert _client().get("/", headers=headers).status_code == 403, place
        linked = _client().get("/", headers=headers | {"Sec-Fetch-Dest": "document"})
        assert linked.status_code == 200
    assert _client().get("/").headers["X-Frame-Options"] == "SAMEORIGIN"
    page = {"Sec-Fetch-Site": "same-site", "Origin": "https://ui.example.org"}
    assert _client(("https://ui.example.org",)).get("/", headers=page).status_code == 200


@pytest.mark.parametrize(
    "origin", ["runs.example.org", "http://::1:8000", "http://[bad", "file:///x"]
)
def test_an_address_that_is_none_is_refused_at_the_start(origin: str) -> None:
    """It would let in every Host that cannot be read."""
    with pytest.raises(PipelineError, match="is no address such as"):
        _client((origin,)).get("/")


def test_the_names_of_a_proxy_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"Host": "runs.example.org", "Origin": "https://runs.example.org"}
    assert _client(("*",)).get("/", headers=page).status_code == 403, "* is no address"
    assert _client(("https://runs.example.org",)).get("/", headers=page).status_code == 200
    monkeypatch.setenv(VARIABLE, "https://runs.example.org/")
    assert _client().get("/", headers=page).status_code == 200
    inner = {"Origin": "https://runs.example.org"}  # a proxy that sets Host itself
    assert _client().post("/", headers=inner).status_code == 200
