"""The server of ``make review`` and ``make label``: one page on loopback, its script's requests.

The page shows a state and sends changes; a desk keeps both. Documents are hostile: the script puts
their text into the page as text, and the policy lets nothing else run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Body, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from tasks.core.errors import PipelineError
from tasks.core.own_pages import Application, Message, OwnPagesOnly, Receive, Send
from tasks.core.page import Page, render
from tasks.core.ports import need_free_port

HOST = "127.0.0.1"
_HERE = Path(__file__).parent
_TEMPLATE = _HERE / "templates" / "page.html"
#: Bytes of a request: more than any form of ours sends.
_MOST = 200_000
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
        "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Desk(Protocol):
    """What a page works on. An error of both methods that the user can fix is shown in the page."""

    def state(self) -> dict[str, Any]:
        """Return everything that the page shows."""

    def save(self, change: dict[str, Any]) -> dict[str, Any]:
        """Write a change to the disk; return what of the state it changed."""


def make_app(desk: Desk, page: Page) -> FastAPI:
    """Return the application. It answers to its own pages only (:mod:`tasks.core.own_pages`)."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def add_headers(request: Request, answer: Callable[[Request], Any]) -> Response:
        response: Response = await answer(request)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(PipelineError)
    async def tell(_: Request, error: PipelineError) -> JSONResponse:
        return JSONResponse({"error": " ".join(str(error).split())}, 409)

    @app.exception_handler(OSError)
    async def tell_disk(request: Request, error: OSError) -> JSONResponse:
        """A full or read-only disk: what the file held before it still holds."""
        what = "not saved: " if request.method == "POST" else ""
        where = f": {error.filename}" if error.filename else ""
        return JSONResponse({"error": f"{what}{error.strerror or error}{where}"}, 409)

    @app.get("/")
    def show() -> HTMLResponse:
        return HTMLResponse("".join(render(_TEMPLATE, page)))

    @app.get("/scripts/{name}.js")
    def script(name: str) -> Response:
        file = _HERE / "scripts" / f"{name}.js"
        known = name.isalpha() and file.is_file()
        text = file.read_text(encoding="utf-8") if known else "not found\n"
        return Response(text, 200 if known else 404, media_type="text/javascript")

    @app.get("/state")
    def state() -> dict[str, Any]:
        return desk.state()

    @app.post("/save")
    def save(change: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        try:
            json.dumps(change, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise PipelineError(
                "half a character (a surrogate) is in the form: write it again"
            ) from error
        return desk.save(change)

    app.add_middleware(SmallRequests)
    app.add_middleware(OwnPagesOnly)
    return app


class SmallRequests:
    """ASGI middleware: a body of more than :data:`_MOST` bytes is answered with 413.

    Its bytes are counted as they come: a chunked request does not tell its length.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a small request on with its whole body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = await _read_body(receive)
        if body is None:
            large = JSONResponse({"error": "the request is too large"}, 413, _HEADERS)
            await large(scope, receive, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def first_the_body() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, first_the_body, send)


async def _read_body(receive: Receive) -> bytes | None:
    """Return the body, None as soon as it is too large; of a sender that has gone what it sent."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > _MOST:
            return None
    return body


def serve(desk: Desk, page: Page, port: int, variable: str) -> None:
    """Answer on loopback until Ctrl-C; a port in use is one line that names ``variable``."""
    import uvicorn

    need_free_port(HOST, port, variable)
    print(f"{'page':<10}http://{HOST}:{port}   Ctrl-C ends it", flush=True)
    uvicorn.run(make_app(desk, page), host=HOST, port=port, log_level="warning", access_log=False)
