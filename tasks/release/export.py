"""Write a registered model as files for other programs: ``python -m tasks.release.export --model
models:/NAME@champion --out folder``.

The folder gets the merged checkpoint that was scored (safetensors with its tokenizer), the model's
card, and one GGUF file where the model is of a kind that :mod:`tasks.release.gguf_file` writes,
with the prompt that was scored for Ollama and llama.cpp (:mod:`tasks.release.prompt_files`).
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import staged_folder
from tasks.core.log_lines import set_up_logging
from tasks.core.privacy import cache_folder
from tasks.core.stage import one_line_errors
from tasks.lm.merged import scored_folder
from tasks.release.gguf_file import NoGgufError, write_gguf
from tasks.release.prompt_files import MODELFILE, SCRIPT, write_prompt_files
from tasks.tracking.fetch_model import fetch_model
from tasks.tracking.kept_answers import fetch_kept_answers

log = logging.getLogger(__name__)
CARD = "README.md"
#: What of a cached checkpoint is the model.
_MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*.jinja", "*.model")
_CONFIGS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def main(argv: Sequence[str] | None = None) -> int:
    """Export a model; return 2 after an error that the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m tasks.release.export", allow_abbrev=False)
    parser.add_argument("--model", default="", help="models:/NAME@champion or models:/NAME/3")
    parser.add_argument("--out", default="", help="a folder that is not there, or is empty")
    arguments = parser.parse_args(argv)
    set_up_logging("export")
    with one_line_errors("export"):
        export(arguments.model, arguments.out)
        return 0
    return 2


def export(uri: str, out: str) -> Path:
    """Write the model to a folder, whole or not at all, and print what was written."""
    folder = _need_empty(out)
    name, version, adapter, told = fetch_model(uri, cache_folder() / "served")
    take_cards()
    # What can fail in seconds comes before what takes minutes.
    longest = _longest_answer(name, version, told)
    merged = scored_folder(told, adapter)
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    with staged_folder(folder, scratch) as staged:
        log.info("copying the merged checkpoint to %s", folder)
        for file in _files(merged):
            shutil.copyfile(file, staged / file.name)
        if (adapter / CARD).is_file():
            shutil.copyfile(adapter / CARD, staged / CARD)
        gguf = staged / f"{name}-{version}-f16.gguf"
        log.info("writing %s", gguf.name)
        try:
            compared = write_gguf(staged, gguf, f"{name} {version}")
            said = (
                f"read back: {compared.same} of {compared.positions} likeliest tokens are the "
                f"same, logits differ by at most {compared.change:.1g} of their spread"
            )
            asked = _write_prompts(staged, gguf.name, told, longest, folder, name)
        except NoGgufError as error:
            said, asked = f"not written: {error}", []
    print(f"model     models:/{name}/{version}, merged, in {folder}")
    for file in sorted(folder.iterdir()):
        print(f"file      {file.name:<40} {file.stat().st_size / 1e6:>10,.1f} MB")
    print(f"gguf      {said}")
    for line in asked:
        print(line)
    return folder


def _write_prompts(
    staged: Path, gguf: str, told: dict[str, Any], max_tokens: int, folder: Path, name: str
) -> list[str]:
    """Write the prompt for Ollama and llama.cpp beside the file; return the lines that say how to
    use it in ``folder``.
    """
    try:
        write_prompt_files(staged, gguf, told["prompt"], max_tokens)
    except PipelineError as error:
        return [f"prompt    no {MODELFILE} for Ollama, no {SCRIPT}: {error}"]
    place, name, asked = shlex.quote(str(folder)), name.lower(), "'passage and question'"
    return [
        f"ollama    ollama create {name} -f {place}/{MODELFILE} && ollama run {name} {asked}",
        f"llama.cpp sh {place}/{SCRIPT} {asked}",
    ]


def _longest_answer(name: str, version: str, told: dict[str, Any]) -> int:
    """Return the tokens of the longest answer that was scored; where no answers are kept, those of
    the longest response that was trained on.
    """
    kept = fetch_kept_answers(name, version, cache_folder() / "served")
    return kept.max_tokens if kept else int(told["settings"]["max_response_tokens"])


def _need_empty(out: str) -> Path:
    """Return the folder, which must not hold anything yet."""
    if not out.strip():
        raise PipelineError("no folder: make export MODEL=models:/NAME@champion OUT=folder")
    folder = Path(out).expanduser().resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise PipelineError(f"{folder} is not an empty folder: name another one with OUT")
    return folder


def _files(merged: Path) -> list[Path]:
    found = [path for pattern in _MODEL_FILES for path in merged.glob(pattern)]
    return sorted([*found, *(merged / name for name in _CONFIGS if (merged / name).is_file())])


if __name__ == "__main__":
    sys.exit(main())
