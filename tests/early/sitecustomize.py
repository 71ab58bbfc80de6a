"""On PYTHONPATH of what the tests start: garbage is collected as seldom as in tests/conftest.py."""

import gc

gc.set_threshold(10_000, 20, 20)
