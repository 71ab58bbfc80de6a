"""Imports put off until they are used: nothing of them is loaded at the start, and whoever uses them has the real thing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_ASKED = """
import sys, tasks
from transformers import AutoModelForCausalLM, Trainer
from transformers.data import metrics
from transformers.generation import candidate_generator as drafts
from transformers.loss import loss_for_object_detection as detection
print(sorted({"sklearn", "scipy.stats", "scipy.optimize"} & set(sys.modules)))
print(detection.linear_sum_assignment([[1, 0], [0, 1]])[1].tolist(), drafts.roc_curve([0, 1], [0.1, 0.9])[1].tolist())
print(metrics.f1_score([0, 1], [0, 1]), round(float(metrics.pearsonr([1, 2, 3], [2, 4, 6])[0]), 6))
import scipy.optimize, sklearn.metrics
print(sklearn.metrics is sys.modules["sklearn.metrics"], sklearn.metrics.accuracy_score([1], [1]), scipy.optimize.__name__)
"""


def test_transformers_is_imported_without_scikit_learn_and_still_has_its_functions() -> None:
    done = subprocess.run([sys.executable, "-c", _ASKED], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines() == ["[]", "[1, 0] [0.0, 1.0, 1.0]", "1.0 1.0", "True 1.0 scipy.optimize"]
