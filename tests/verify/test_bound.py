"""The reader's engine starts without the token ids of all rows: how long a prompt can be follows from
its bytes.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.core.params import Params
from tasks.lm.prompts import Prompter
from tasks.verify.reader import Reader, ReaderQuestion, bound_prompts

_TEXTS = ("x" * 90, "\u2603\U0001f600" * 20, "Why did the pump fail at noon? " * 5, "Why?")
_ROWS = [ReaderQuestion(f"row-{number}", text) for number, text in enumerate(_TEXTS)]


@pytest.fixture
def reader(params: Params, tiny_model: Path, tmp_path: Path) -> Reader:
    """A reader of 1024 positions that may answer in 8 tokens."""
    folder = shutil.copytree(tiny_model, tmp_path / "reader")
    settings = {"reader": str(folder), "max_tokens": 8}
    return Reader.of(params.verify.model_copy(update=settings))


def _set_positions(reader: Reader, count: int) -> None:
    path = Path(reader.params.reader) / "config.json"
    write_json(path, {**read_json(path), "max_position_embeddings": count})


@pytest.mark.parametrize("form", ["chat", "bonito", "pretrained", "plain"])
def test_no_prompt_is_longer_than_its_bound(reader: Reader, form: str) -> None:
    reader = replace(reader, form=form)
    prompter = reader.prompter()
    assert prompter is not None
    longest = max(len(prompter.prompt(text)) for text in _TEXTS)
    most = max(len(text.encode()) for text in _TEXTS)
    assert longest <= bound_prompts(reader, _ROWS) < most + 100
    # Too few positions for the bytes, but not for the tokens: the longest prompts are measured.
    _set_positions(reader, longest + 8)
    assert bound_prompts(reader, _ROWS) == longest
    _set_positions(reader, longest + 7)
    with pytest.raises(PipelineError, match=rf"row-1 has {longest} tokens, .* another verify.read"):
        bound_prompts(reader, _ROWS)


def test_only_what_may_not_fit_is_made_into_tokens(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    prompt = Prompter.prompt

    def spy(self: Prompter, instruction: str, max_tokens: int | None = None) -> list[int]:
        made.append(instruction)
        return prompt(self, instruction, max_tokens)

    monkeypatch.setattr(Prompter, "prompt", spy)
    rows = [ReaderQuestion(f"row-{number}", f"Why did P-{number} fail?") for number in range(1000)]
    assert bound_prompts(reader, rows) < 200 and len(made) == 1, "the form's marks alone"
    made.clear()
    long = "the pump failed at noon " * 60
    assert len(long) > 1024 > bound_prompts(reader, [*rows, ReaderQuestion("long", long)])
    assert made[1:] == [long]
