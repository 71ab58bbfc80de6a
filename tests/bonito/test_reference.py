"""The same prompt bytes and the same parsing as the authors' public package, bonito-llm 0.1.0
(BSD-3-Clause; installed for this test alone).

Its top-level module is called ``bonito`` like our folder, so it is loaded from its files under
another name; of ``vllm`` it only wants the names.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from tasks.core.task_types import TASK_TYPES, task_type
from tasks.lm.prompts import bonito_input, bonito_output, fill, parse_prediction

PASSAGES = [
    "The pump failed at noon.",
    "  Two lines,\nwith {{context}} and <|pipe|> in them.\n",
    "Ein Satz über Öl – und “Strom”.\t",
]
WELL_FORMED = [
    "{{context}}\n\nWhy did it fail?\n<|pipe|>\nits seal broke",
    "  Read: {{context}} Twice: {{context}}<|pipe|>Yes ",
    "Write an article.\n<|pipe|>\nA new one",
    "Is it so?\n<|pipe|>\nline one\nline two",
]
MALFORMED = ["no mark", "a\n<|pipe|>\nb\n<|pipe|>\nc", ""]


@pytest.fixture(scope="module")
def reference() -> Any:
    """The package's class without vLLM's engine."""
    folder = Path(str(distribution("bonito-llm").locate_file("bonito")))
    stand_in = types.ModuleType("vllm")
    vars(stand_in).update(LLM=type("LLM", (), {}), SamplingParams=object)
    held = {name: sys.modules.get(name) for name in ("vllm", "reference_bonito")}
    spec = importlib.util.spec_from_file_location(
        "reference_bonito", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.update({"vllm": stand_in, "reference_bonito": module})
    try:
        spec.loader.exec_module(module)
        yield module.Bonito()
    finally:
        for name, before in held.items():
            sys.modules.pop(name)
            if before is not None:
                sys.modules[name] = before


def _dataset(rows: list[dict[str, str]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows)


@pytest.mark.parametrize("short", TASK_TYPES)
def test_the_prompt_is_the_reference_to_the_byte(reference: Any, short: str) -> None:
    rows = _dataset([{"text": passage} for passage in PASSAGES])
    for name in (short, TASK_TYPES[short].full_name):
        built = reference._prepare_bonito_input(rows, name, "text", num_proc=None)["input"]
        assert [text.encode() for text in built] == [
            bonito_input(passage, task_type(name)).encode() for passage in PASSAGES
        ]


def test_the_16_task_types_are_the_reference(reference: Any) -> None:
    from reference_bonito.abstract import SHORTFORM_TO_FULL_TASK_TYPES  # type: ignore[import-not-found]

    assert len(SHORTFORM_TO_FULL_TASK_TYPES) == 16
    assert (
        SHORTFORM_TO_FULL_TASK_TYPES.items()
        <= {name: kind.full_name for name, kind in TASK_TYPES.items()}.items()
    )  # one of our own may stand beside them


def test_well_formed_predictions_are_parsed_alike(reference: Any) -> None:
    rows = [
        {"context": passage, "prediction": prediction}
        for passage in PASSAGES[::2]
        for prediction in (*WELL_FORMED, *MALFORMED)
    ]
    theirs = reference._postprocess_dataset(_dataset(rows), "context", num_proc=None).to_list()
    ours = []
    for row in rows:
        task = parse_prediction(row["prediction"])
        if not task.reason:
            ours.append(
                {
                    "input": fill(task.instruction, row["context"].strip()),
                    "output": fill(task.response, row["context"].strip()),
                }
            )
    assert ours == theirs and len(ours) == 2 * len(WELL_FORMED)


def test_what_is_trained_on_is_parsed_alike(reference: Any) -> None:
    """The generator learns to write what both can read."""
    prediction = bonito_output(" Why did {{context}} fail? ", "its seal\n")
    (theirs,) = reference._postprocess_dataset(
        _dataset([{"context": "it", "prediction": prediction}]), "context", num_proc=None
    ).to_list()
    assert theirs == {"input": "Why did it fail?", "output": "its seal"}
    assert parse_prediction(prediction).response == "its seal"


@pytest.mark.parametrize(
    ("prediction", "finished", "theirs", "ours"),
    [
        # A response may hold the passage (text generation); there the placeholder would otherwise
        # leak into the training rows.
        ("Write it\n<|pipe|>\n{{context}}", True, ("Write it", "{{context}}"), ("Write it", "P")),
        ("{{ context }} Why?\n<|pipe|>\nno", True, ("{{ context }} Why?", "no"), ("P Why?", "no")),
        # Half a response, or none, is no answer to learn from: rejected, with its reason, and
        # counted.
        ("{{context}} Why?\n<|pipe|>\n", True, ("P Why?", ""), "empty_response"),
        ("\n<|pipe|>\nno", True, ("", "no"), "empty_instruction"),
        (
            "{{context}} Why?\n<|pipe|>\nbecause of the",
            False,
            ("P Why?", "because of the"),
            "truncated",
        ),
        ("no mark", True, None, "no_pipe"),
        ("a<|pipe|>b<|pipe|>c", True, None, "many_pipes"),
    ],
)
def test_where_we_differ_on_purpose(
    reference: Any, prediction: str, finished: bool, theirs: Any, ours: Any
) -> None:
    rows = reference._postprocess_dataset(
        _dataset([{"context": "P", "prediction": prediction}]), "context", num_proc=None
    ).to_list()
    assert [(row["input"], row["output"]) for row in rows] == ([theirs] if theirs else [])
    task = parse_prediction(prediction, finished)
    assert (task.reason or (fill(task.instruction, "P"), fill(task.response, "P"))) == ours
