"""On PYTHONPATH of what a soak starts: counts the recovery branches there too; garbage is collected
as seldom as in tests/conftest.py.
"""

import gc
import os

gc.set_threshold(10_000, 20, 20)

if os.environ.get("FAULT_BRANCHES"):
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    # By its path: what is started has packages of its own called tests and tasks.
    place = Path(__file__).resolve().parents[1] / "sometimes.py"
    spec = spec_from_file_location("faults_sometimes", place)
    sometimes = module_from_spec(spec)
    __import__("sys").modules[spec.name] = sometimes
    spec.loader.exec_module(sometimes)
    sometimes.install()
