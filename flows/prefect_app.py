"""Prefect's server application, which answers to its own names and pages only.

uvicorn runs it (``--factory flows.prefect_app:create_app``): Prefect's own command takes no
middleware, and Prefect compares neither Host nor Origin.
"""

from __future__ import annotations

from prefect.server.api import server
from prefect.settings import PREFECT_SERVER_CORS_ALLOWED_ORIGINS

from tasks.core.own_pages import OwnPagesOnly


def create_app() -> OwnPagesOnly:
    """Return Prefect's application behind :class:`OwnPagesOnly`.

    Around it, not as a middleware in it: automations ask the application within its process, under
    a name of their own (``prefect-in-memory``) that nothing from outside may use.
    """
    origins = PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value().split(",")
    return OwnPagesOnly(server.create_app(final=True), origins=origins)
