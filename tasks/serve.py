"""Serve a registered model over HTTP, as OpenAI's API: ``python -m tasks.serve --model
models:/NAME@champion``.

vLLM's own server, on loopback, with the adapter merged into the base weights: the very checkpoint
whose F1 is in MLflow, and whose answers register compared.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core.card import take_cards
from tasks.core.log_lines import set_up_logging
from tasks.core.own_pages import VARIABLE, OwnPagesOnly
from tasks.core.ports import need_free_port
from tasks.core.privacy import cache_folder
from tasks.core.stage import one_line_errors
from tasks.lm.engine import serve_command
from tasks.lm.merged import merged_folder
from tasks.lm.models import load_tokenizer
from tasks.lm.prompts import Prompter
from tasks.tracking.fetch_model import fetch_model

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the model, prepare its weights, log a request, and become vLLM's server.

    Returns 2 after an error that the user can fix.
    """
    parser = argparse.ArgumentParser(prog="python -m tasks.serve", allow_abbrev=False)
    parser.add_argument("--model", required=True, help="models:/NAME@champion or models:/NAME/3")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="who reaches this address can use the model; VLLM_API_KEY sets a key",
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--gpu-memory",
        type=float,
        default=0.0,
        help="share of the GPU's memory; 0: vLLM's own default",
    )
    parser.add_argument(
        "--max-length", type=int, default=2048, help="tokens of prompt and answer together"
    )
    arguments = parser.parse_args(argv)
    set_up_logging("serve")
    with one_line_errors("serve"):
        command, environment = prepare(
            arguments.model,
            arguments.host,
            arguments.port,
            arguments.max_length,
            arguments.gpu_memory,
        )
        os.execve(command[0], command, {**os.environ, **environment})  # noqa: S606 - the server takes this process's place and signals
    return 2


def prepare(
    model: str, host: str, port: int, max_length: int, gpu_memory: float = 0.0
) -> tuple[list[str], dict[str, str]]:
    """Return the server's command line and what its environment needs."""
    need_free_port(host, port, "SERVE_PORT")
    name, version, adapter, provenance = fetch_model(model, cache_folder() / "served")
    take_cards()
    weights = merged_folder(
        provenance["base"],
        provenance["revision"],
        adapter,
        provenance["quantization"],
        provenance["precision"],
    )
    log.info("%s version %s will answer on http://%s:%d/v1 in a minute", name, version, host, port)
    request = json.dumps(question(name, weights, provenance["prompt"], "..."))
    log.info(
        "example: curl http://%s:%d/v1/completions -H 'Content-Type: application/json' -d '%s'",
        host,
        port,
        request,
    )
    command, environment = serve_command(
        weights, name, host, port, max_length, provenance["precision"], gpu_memory
    )
    command += ["--middleware", f"{OwnPagesOnly.__module__}.{OwnPagesOnly.__name__}"]
    origins = [os.environ.get(VARIABLE, ""), f"http://{host}:{port}"]
    return command, {**environment, VARIABLE: ",".join(origins)}


def question(
    name: str, weights: Path, form: str, instruction: str, max_tokens: int = 64
) -> dict[str, Any]:
    """Return the body of a request, with the prompt that the adapter was trained on, to the token.

    The prompt is text, with its BOS where training had one, if the server's tokenizer makes the
    same tokens of it (``add_special_tokens`` false: no marks of its own). Tokenizers of the
    SentencePiece kind put a space after the BOS; then the prompt is token ids.
    """
    tokenizer = load_tokenizer(str(weights))
    ids = Prompter(tokenizer, form).prompt(instruction)
    text = tokenizer.decode(ids)
    same = tokenizer.encode(text, add_special_tokens=False) == ids
    return {
        "model": name,
        "prompt": text if same else ids,
        "add_special_tokens": False,
        "max_tokens": max_tokens,
        "temperature": 0,
    }


if __name__ == "__main__":
    sys.exit(main())
