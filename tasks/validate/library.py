"""Great Expectations, imported without what no suite of ours needs.

:mod:`tasks.validate.suites` takes it from here, and so does what loads it before the stage's turn.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

#: Modules that Great Expectations imports for expectations that no suite here has: half of its
#: import time.
_SELDOM_USED = ("altair", "jsonschema", "scipy.stats")
#: Libraries of databases and clouds. Great Expectations works without them, and half a second of
#: its import is theirs.
_UNUSED = ("google.auth", "sqlalchemy")


@contextlib.contextmanager
def imported_on_use(*names: str) -> Iterator[None]:
    """Delay an ``import`` of these modules within the block until their first use.

    Modules loaded before are not touched.
    """
    later = {name: _Later(name) for name in names if name not in sys.modules}
    sys.modules.update(later)
    try:
        yield
    finally:
        for name, module in later.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


@contextlib.contextmanager
def left_out(*names: str) -> Iterator[None]:
    """Let an ``import`` of these modules fail within the block, as where they are not installed.

    Modules loaded before are not touched.
    """
    missing = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


class _Later(ModuleType):
    """A module that is imported when one of its attributes is read."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # read by the import machinery
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


with imported_on_use(*_SELDOM_USED), left_out(*_UNUSED):
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

__all__ = ["DataContextConfig", "InMemoryStoreBackendDefaults", "ProgressBarsConfig", "gx"]
