"""Many rows of every task type at once, good ones and bad ones: how fast they are judged may
change, what is found in them may not.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tasks.core.files import read_json
from tasks.core.parquet import read_table
from tasks.core.task_types import TASK_TYPES
from tasks.validate import stage as validate
from tests.validate.test_validate import EXQA, FAILING, GOOD, NLI, PASSAGE, YNQA, predictions

ROWS = 20_000
#: Passages, instructions and responses beside those of FAILING: what the fast paths over whole
#: columns could get wrong.
PASSAGES = (
    PASSAGE,
    PASSAGE.replace(". ", ".\n\n"),
    f"  {PASSAGE}\u00a0\u2003Ärger im Werk İzmir: ΟΔΟΣ gesperrt.  ",
    "See {{context}} and {{title}}; the pump was kept.",
    "...",
    "",
    "水泵于2021年3月14日更换。 没有人受伤。",
)
INSTRUCTIONS = (
    "{{ context }}\n\nQuestion: When  was the pump replaced?",
    "{{context}}{{context}}{{context}} Which crew?",
    "Read the passage.\n{{\tcontext}}\tQUESTION: Is it true that nobody was hurt? Yes or no?",
    "{{context}}\nWas it kept?\noptions: yes, no\n",
    "{{context}}\nWhich?\na) the night crew\nb) the day crew",
    'Is the claim "The Oak Street pump was replaced on 14 March 2021 by the night crew" true?\n'
    "{{context}}",
    "{{{context}}} {{CONTEXT}} who?\x1f\x0b",
    "{{context}} 水泵什么时候更换？",
    "no no no no no no no no {{context}} why?",
)
RESPONSES = (
    "14  March\n2021",
    '"the night crew."',
    "Yes.",
    "NO",
    "true",
    "inconclusive",
    "maybe",
    "b)",
    "{{ context }}",
    "I say: {{context}} and {{context}}",
    "★★★",
    "…",
    "2021年3月14日",
    PASSAGE.lower(),
    "was it kept?",
)


def mixed_rows(count: int) -> list[tuple[str, ...]]:
    """Return (task type, instruction, response, passage, reason) of rows of all task types."""
    draw = random.Random(1)
    kinds = list(TASK_TYPES)
    templates = [row[1] for row in FAILING.values()] + [EXQA, YNQA, NLI, *INSTRUCTIONS]
    answers = [row[2] for row in FAILING.values()] + ["Yes", "False", *RESPONSES]
    rows: list[tuple[str, ...]] = []
    for number in range(count):
        kind, instruction, response = draw.choice([GOOD, *FAILING.values()])
        if draw.random() < 0.7:
            kind, instruction = draw.choice(kinds), draw.choice(templates)
            response = draw.choice(answers)
        passage = draw.choice(PASSAGES) if draw.random() < 0.5 else f"{PASSAGE} Case {number}."
        reason = draw.choice(["no_pipe", "truncated", ""]) if draw.random() < 0.1 else ""
        rows.append((kind, instruction, response, passage, reason))
    return rows


def test_twenty_thousand_mixed_rows_are_judged_as_before(
    tmp_path: Path, make_params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digests are those of the code that validated each task type by itself, since Chinese
    questions and words are known as such.
    """
    monkeypatch.chdir(tmp_path)
    given = predictions(tmp_path / "predictions.parquet", mixed_rows(ROWS))
    settings = {"min_yield": 0.0, "max_label_share": 0.6, "max_rows": 2000}
    arguments = ["--params", str(make_params(validate=settings)), "--predictions", str(given)]
    assert validate.main([*arguments, "--out", "out"]) == 0
    summary = read_json(Path("out/summary.json"))
    assert (summary["rows_in"], summary["rows_kept"]) == (ROWS, 2000)
    assert {
        name: _digest(read_table(Path(f"out/{name}.parquet")).to_pylist())
        for name in ("instructions", "quarantine")
    } == {"instructions": "b01f8c971530d0ee", "quarantine": "f4a91c6068e7294d"}
    numbers = {key: summary[key] for key in ("dropped", "by_task_type", "labels", "failures")}
    assert _digest(numbers) == "0f9d2eef94372a55"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
