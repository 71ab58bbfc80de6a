"""Prefect's server application, which answers to its own names and pages only.

uvicorn runs it (``--factory flows.prefect_app:create_app``): Prefect's own command takes no
middleware, and Prefect compares neither Host nor Origin.
"""

from __future__ import annotations

from fastapi import FastAPI
from prefect.server.api import server
from prefect.settings import PREFECT_SERVER_CORS_ALLOWED_ORIGINS

from tasks.core.own_pages import OwnPagesOnly


def create_app() -> FastAPI:
    """Return Prefect's application behind :class:`OwnPagesOnly`."""
    app = server.create_app(final=True)
    origins = PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value().split(",")
    app.add_middleware(OwnPagesOnly, origins=origins)
    return app
