"""A Prefect server for the tests of a toy repository."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows import server
from tasks.core.ports import find_free_port


@contextmanager
def prefect_server(root: Path, home: Path | None = None) -> Iterator[str]:
    """Lend the address of a Prefect server with its home in a toy repository: a copy of ``home``
    (``empty_prefect`` of tests/conftest.py), or else one that it has to make.
    """
    if home:
        shutil.copytree(home, root / ".prefect")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PREFECT", "MLFLOW"))]:
            patch.delenv(name)
        patch.setenv("PREFECT_HOME", str(root / ".prefect"))
        patch.setenv("PREFECT_SERVER_MEMO_STORE_PATH", str(root / ".prefect" / "memo_store.toml"))
        port = find_free_port()
        process, url = server._start(port), f"http://127.0.0.1:{port}/api"
        try:
            server.await_answer(url, process)
            yield url
        finally:
            server.stop(process)
