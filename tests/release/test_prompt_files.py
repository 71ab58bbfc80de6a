"""The prompt that Ollama and llama.cpp send is the pipeline's own, to the token."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from tasks.core.errors import PipelineError
from tasks.lm.prompts import Prompter
from tasks.lm.tokenizers import load_tokenizer
from tasks.release.prompt_files import (
    MODELFILE,
    SCRIPT,
    PromptEnds,
    find_ends,
    modelfile,
    write_prompt_files,
)

_QUESTION = 'It\'s "P-7" that failed \\n at $HOME {{ x }} `date`.\n\nQ: Why?\n\nA:'


def ollama_prompt(folder: Path, question: str) -> str:
    """Return the prompt as Ollama makes it of the Modelfile's template and a question."""
    text = (folder / MODELFILE).read_text()
    [template] = re.findall(r'^TEMPLATE """(.*?)"""$', text, re.MULTILINE | re.DOTALL)
    actions = {".Prompt": question, '"{{"': "{{", '"{"': "{"}
    return re.sub(r"\{\{ (.*?) \}\}", lambda found: actions[found[1]], template)


def llama_arguments(folder: Path, question: str) -> list[str]:
    """Return the arguments that the script gives to llama.cpp."""
    program = folder / "llama-completion"
    program.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", str(folder / SCRIPT), question],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    program.unlink()
    return done.stdout.split("\0")[:-1]


def ask_in_other_programs(folder: Path, provenance: dict[str, Any]) -> None:
    """Assert that an exported folder sends what was scored."""
    ids = Prompter(load_tokenizer(str(folder)), provenance["prompt"]).prompt(_QUESTION)
    said = llama_arguments(folder, _QUESTION)
    assert Path(said[said.index("--model") + 1]).is_file()
    for text in (ollama_prompt(folder, _QUESTION), said[said.index("--prompt") + 1]):
        assert ids == _llama_tokens(folder, text)
    assert text == provenance["prompt_example"].replace("INSTRUCTION", _QUESTION)


def _llama_tokens(folder: Path, text: str) -> list[int]:
    """Return the tokens of a prompt in llama.cpp: the BOS where the GGUF file has it added."""
    tokenizer = load_tokenizer(str(folder))
    begins = tokenizer.encode("x")[:1] == [tokenizer.bos_token_id]
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [tokenizer.bos_token_id, *ids] if begins else list(ids)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "mo'del"))


@pytest.mark.parametrize("form", ["chat", "bonito", "pretrained", "plain"])
@pytest.mark.parametrize("adds", [False, True])
def test_every_prompt_form_is_sent_as_it_was_scored(folder: Path, form: str, adds: bool) -> None:
    if adds:
        add_bos(folder)
    write_prompt_files(folder, "it's.gguf", form, 25)
    ids = Prompter(load_tokenizer(str(folder)), form).prompt(_QUESTION)
    said = llama_arguments(folder, _QUESTION)
    assert _llama_tokens(folder, ollama_prompt(folder, _QUESTION)) == ids
    assert _llama_tokens(folder, said[said.index("--prompt") + 1]) == ids
    assert said[said.index("--model") + 1] == str(folder / "it's.gguf")
    assert said[said.index("--n-predict") + 1] == "25" and "--no-escape" in said


def test_ollama_answers_greedily_and_stops_where_training_did(folder: Path) -> None:
    write_prompt_files(folder, "m.gguf", "chat", 25)
    lines = (folder / MODELFILE).read_text().splitlines()
    stop = load_tokenizer(str(folder)).eos_token
    assert "FROM ./m.gguf" in lines
    told = [line.removeprefix("PARAMETER ") for line in lines if line.startswith("PARAMETER ")]
    assert told == [f'stop "{stop}"', "temperature 0", "repeat_penalty 1", "num_predict 25"]


def test_a_prompt_without_the_bos_that_llama_cpp_would_add_is_refused(folder: Path) -> None:
    add_bos(folder)
    path = folder / "chat_template.jinja"
    path.write_text("Question: " + path.read_text())
    with pytest.raises(PipelineError, match="llama.cpp would make other tokens of the prompt"):
        find_ends(folder, "chat")


def test_braces_of_a_chat_template_stay_and_three_quotes_are_refused(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    text = path.read_text()
    path.write_text("{{ '{{x}}' }}\n" + text)
    write_prompt_files(folder, "m.gguf", "chat", 25)
    assert ollama_prompt(folder, "Why?").startswith("{{x}}")
    (folder / MODELFILE).write_text(modelfile(PromptEnds("Q{{ {", "}", "</s>"), "m.gguf", 25))
    assert ollama_prompt(folder, "Why?") == "Q{{ {Why?}"
    path.write_text('{{ \'"""\' }}\n' + text)
    with pytest.raises(PipelineError, match="which a Modelfile cannot hold"):
        write_prompt_files(folder, "m.gguf", "chat", 25)


def add_bos(folder: Path) -> None:
    """Make the tokenizer put its BOS before a text, as many do."""
    tokenizer = load_tokenizer(str(folder))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.bos_token} $A",
        special_tokens=[(tokenizer.bos_token, tokenizer.bos_token_id)],
    )
    tokenizer.save_pretrained(folder)
