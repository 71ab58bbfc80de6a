"""ASGI middleware: a server on loopback answers to its own names, and to its own pages only.

Without it any web page can use such a server: its domain name is pointed at 127.0.0.1 (DNS
rebinding), and the browser takes the server for the page's own. Or it shows the server's page in a
frame, unseen, and lets the user click in it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from tasks.core.errors import PipelineError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

#: Further addresses that a server is reached by, separated by commas: ``https://runs.example.org``.
VARIABLE = "PIPELINE_ORIGINS"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Host or address, and port, of a Host header in lower case.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{0,5})?")
_NO_FRAME = (b"x-frame-options", b"SAMEORIGIN")


class OwnPagesOnly:
    """Refuse a request whose Host is foreign, and one that a page of another Origin sent or shows
    within itself (as a frame, script, picture): it may link here, no more.

    Own are the names of the loopback interface, and ``origins`` with those of ``PIPELINE_ORIGINS``.
    A program sends no Origin. A browser sends none with what a page only shows, but says so
    (``Sec-Fetch-Site``); older ones heed ``X-Frame-Options``.
    """

    def __init__(self, app: Application, origins: Iterable[str] = ()) -> None:
        """``origins`` are addresses such as ``https://runs.example.org``; ``*`` is no address."""
        self.app = app
        given = [*origins, *os.environ.get(VARIABLE, "").split(",")]
        self.origins = {one.strip().lower().rstrip("/") for one in given} - {"", "*"}
        self.hosts = {*_LOOPBACK, *map(_host_of, self.origins)}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass an own request on, answer a foreign one with 403."""
        if scope["type"] in ("http", "websocket") and not self._is_own(scope["headers"]):
            await _refuse(scope, send)
            return

        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), _NO_FRAME]}
            await send(message)

        await self.app(scope, receive, send_unframed)

    def _is_own(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        hosts = _values(headers, b"host")
        if len(hosts) != 1 or _hostname(hosts[0]) not in self.hosts:
            return False
        origins = _values(headers, b"origin")
        if not origins:
            return not _is_shown_elsewhere(headers)
        own = {*self.origins, f"http://{hosts[0]}", f"https://{hosts[0]}"}
        return own.issuperset(origins)


def _is_shown_elsewhere(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether a page of another origin shows the answer within itself."""
    sites, places = _values(headers, b"sec-fetch-site"), _values(headers, b"sec-fetch-dest")
    foreign = {"cross-site", "same-site"}.intersection(sites)
    return bool(foreign) and places != ["document"]


def _host_of(origin: str) -> str:
    """Return the host of an origin; a text that is none is a :class:`PipelineError`."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(origin)
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts.hostname
    raise PipelineError(f"{VARIABLE}: {origin!r} is no address such as https://runs.example.org")


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1").lower() for key, value in headers if key.lower() == name]


def _hostname(host: str) -> str | None:
    found = _HOST.fullmatch(host)
    return found and (found[1] or found[2])


async def _refuse(scope: Message, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # before "accept": status 403
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    text = f"foreign Host or Origin refused; {VARIABLE} names further addresses of this server\n"
    await send({"type": "http.response.body", "body": text.encode()})
