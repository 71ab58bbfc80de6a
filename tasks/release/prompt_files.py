"""What sends the prompt that was scored to an exported model: a ``Modelfile`` for Ollama, and a
small shell script for llama.cpp.

Both programs have defaults of their own: another chat template, a sampled answer, a penalty on
words that the passage holds already. The F1 is that of none of these.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.files import write_text
from tasks.lm.prompts import Prompter
from tasks.lm.tokenizers import load_tokenizer

MODELFILE, SCRIPT = "Modelfile", "ask.sh"
#: Stands for the instruction while the prompt is taken apart.
_MARK = "INSTRUCTION"
#: With these the two ends of the prompt are tried.
_TRIED = ("Why did the pump fail?", "A passage.\n\nQ: Who? {{ braces }}\n\nA:", "1 + 1 = 2")


@dataclass(frozen=True)
class PromptEnds:
    """The text before and after an instruction, as llama.cpp tokenises it: it puts the BOS before
    a prompt itself where the GGUF file says so. ``stop`` is the end mark.
    """

    head: str
    tail: str
    stop: str


def write_prompt_files(folder: Path, gguf: str, form: str, max_tokens: int) -> None:
    """Write both files beside ``gguf``, a file of the folder of a checkpoint; ``form`` is the
    prompt form that was scored, ``max_tokens`` the longest answer.
    """
    ends = find_ends(folder, form)
    write_text(folder / MODELFILE, modelfile(ends, gguf, max_tokens))
    write_text(folder / SCRIPT, _script(ends, gguf, max_tokens))


def find_ends(folder: Path, form: str) -> PromptEnds:
    """Return the two ends of the prompt of a checkpoint's folder.

    A prompt that llama.cpp would cut into other tokens is a :class:`PipelineError`.
    """
    tokenizer = load_tokenizer(str(folder))
    if not tokenizer.eos_token:
        raise PipelineError(f"{folder}: the tokenizer has no end mark for the answer to stop at")
    prompter, bos = Prompter(tokenizer, form), tokenizer.bos_token_id
    added = [bos] if bos is not None and tokenizer.encode("x")[:1] == [bos] else []
    head, _, tail = prompter.text(_MARK).partition(_MARK)
    if bos is not None and form != "chat":
        head = f"{tokenizer.bos_token}{head}"
    if added:
        head = head.removeprefix(tokenizer.bos_token)
    for text in _TRIED:
        ids = tokenizer.encode(f"{head}{text}{tail}", add_special_tokens=False)
        if added + ids != prompter.prompt(text):
            raise PipelineError(
                f"llama.cpp would make other tokens of the prompt (form {form}): send token ids, "
                "as make serve does"
            )
    return PromptEnds(head, tail, tokenizer.eos_token)


def modelfile(ends: PromptEnds, gguf: str, max_tokens: int) -> str:
    """Return the text of Ollama's file: the prompt with its question, and greedy answers."""
    template = f"{_go(ends.head)}{{{{ .Prompt }}}}{_go(ends.tail)}"
    if '"""' in template:
        raise PipelineError('the prompt has """ in it, which a Modelfile cannot hold')
    return f'''# The prompt that was scored: a passage with its question, one question in each call.
# ollama create NAME -f {MODELFILE} && ollama run NAME 'passage and question'
FROM ./{gguf}
TEMPLATE """{template}"""
PARAMETER stop "{ends.stop}"
PARAMETER temperature 0
PARAMETER repeat_penalty 1
PARAMETER num_predict {max_tokens}
'''


def _go(text: str) -> str:
    """Return text for Go's templates, in which its own braces stay."""
    text = text.replace("{{", '{{ "{{" }}')
    # A single one at the end would stand before the two of what follows.
    return f'{text[:-1]}{{{{ "{{" }}}}' if text.endswith("{") else text


def _script(ends: PromptEnds, gguf: str, max_tokens: int) -> str:
    prompt = f'{shlex.quote(ends.head)}"$1"{shlex.quote(ends.tail)}'
    return f"""#!/bin/sh
# Ask llama.cpp, in the prompt that was scored: sh {SCRIPT} 'passage and question'
# LLAMA names another program than llama-completion (older builds: llama-cli).
[ $# -eq 1 ] || {{ echo "usage: sh {SCRIPT} 'passage and question'" >&2; exit 2; }}
exec "${{LLAMA:-llama-completion}}" --model "$(dirname "$0")"/{shlex.quote(gguf)} \\
  --no-conversation --no-escape --no-display-prompt --temp 0 --repeat-penalty 1 \\
  --n-predict {max_tokens} --prompt {prompt}
"""
