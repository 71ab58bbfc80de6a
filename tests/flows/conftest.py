"""A Prefect server for a module of tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prefect_server import prefect_server


@pytest.fixture(scope="module")
def api(toy: Path, empty_prefect: Path) -> Iterator[str]:
    """The address of a server for the module's ``toy``: starting one costs more than a run."""
    with prefect_server(toy, empty_prefect) as url:
        yield url
