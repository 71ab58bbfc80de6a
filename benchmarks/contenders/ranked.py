"""What our contender and the authors' way of the bench ``evaluate`` load alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.lm.loading import load_model
from tasks.lm.prompts import Prompter
from tasks.lm.tokenizers import load_tokenizer


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Load the model and read the questions."""
    model = load_model(config["model"]).eval()
    asked = json.loads(Path(config["questions"]).read_text(encoding="utf-8"))
    return {
        **config,
        "weights": model,
        "prompter": Prompter(load_tokenizer(config["model"]), config["form"]),
        "asked": asked,
    }
