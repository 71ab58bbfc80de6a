"""Prefect's server application, which answers to its own names and pages only.

uvicorn runs it (``--factory flows.prefect_app:create_app``): Prefect's own command takes no
middleware, and Prefect compares neither Host nor Origin.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from prefect.server.api import server
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import MODELS_DEPENDENCIES
from prefect.server.utilities.database import get_dialect
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_CORS_ALLOWED_ORIGINS,
)
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from tasks.core.own_pages import OwnPagesOnly


class LockingSqlite(AioSqliteConfiguration):
    """Prefect's SQLite database, whose transactions take the write lock when they begin.

    Prefect begins most of them as readers. One that reads first and then writes fails at once with
    "database is locked" if another has written in between; no timeout helps. In Prefect 3.7.7 this
    met nearly every poll of the worker. One that asks for the lock first waits for its turn.
    """

    def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
        """Begin a transaction that may write, whatever ``with_for_update`` says."""
        return super().begin_transaction(session, with_for_update=True)


def create_app() -> OwnPagesOnly:
    """Return Prefect's application behind :class:`OwnPagesOnly`.

    Around it, not as a middleware in it: automations ask the application within its process, under
    a name of their own (``prefect-in-memory``) that nothing from outside may use.
    """
    database = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if get_dialect(database).name == "sqlite":
        MODELS_DEPENDENCIES["database_config"] = LockingSqlite(connection_url=database)
    origins = PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value().split(",")
    return OwnPagesOnly(server.create_app(final=True), origins=origins)
