"""Prefect's server application, as uvicorn starts it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy import text

from flows.prefect_app import LockingSqlite


async def _poll_twice(database: AioSqliteConfiguration) -> None:
    """Write in two transactions at once: each first reads what it then changes."""
    engine = await database.engine()

    async def poll() -> None:
        session = await database.session(engine)
        async with session, database.begin_transaction(session):
            await session.execute(text("SELECT count FROM polls"))
            await asyncio.sleep(0.2)  # until the other one has begun
            await session.execute(text("UPDATE polls SET count = count + 1"))

    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE polls AS SELECT 0 AS count"))
    await asyncio.gather(poll(), poll())
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count FROM polls"))).scalar() == 2
    await engine.dispose()


def test_two_transactions_that_read_and_write_take_turns(tmp_path: Path) -> None:
    """Prefect's own configuration lets the second one fail: "database is locked"."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"
    asyncio.run(_poll_twice(LockingSqlite(connection_url=url)))
