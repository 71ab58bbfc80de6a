"""Serve a registered model over HTTP, as OpenAI's API: ``python -m tasks.serve --model
models:/NAME@champion``.

vLLM's own server, on loopback. On a GPU the adapter is a LoRA beside the base weights it was scored
on; on the CPU, where that is six times slower, it is merged into them first. Both are the weights
whose F1 stands in MLflow.
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

import torch

from tasks.core.files import read_json
from tasks.core.log_lines import set_up_logging
from tasks.core.ports import need_free_port
from tasks.core.privacy import cache_folder
from tasks.core.stage import one_line_errors
from tasks.lm.engine import serve_command
from tasks.lm.models import load_tokenizer, merged_folder
from tasks.lm.prompts import Prompter
from tasks.tracking.ledger import fetch_model

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the model, make its weights ready, say how to ask it, and become vLLM's server.

    Returns 2 where that is not to be had.
    """
    parser = argparse.ArgumentParser(prog="python -m tasks.serve", allow_abbrev=False)
    parser.add_argument("--model", required=True, help="models:/NAME@champion or models:/NAME/3")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="whoever reaches this address may ask; set VLLM_API_KEY where that is not you alone",
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--max-length", type=int, default=2048, help="tokens of prompt and answer together"
    )
    given = parser.parse_args(argv)
    set_up_logging("serve")
    with one_line_errors("serve"):
        command, environment = prepare(given.model, given.host, given.port, given.max_length)
        os.execve(command[0], command, {**os.environ, **environment})  # noqa: S606 - the server takes this process's place and signals
    return 2


def prepare(model: str, host: str, port: int, max_length: int) -> tuple[list[str], dict[str, str]]:
    """Return the server's command line and what its environment needs."""
    need_free_port(host, port, "SERVE_PORT")
    name, version, adapter, provenance = fetch_model(model, cache_folder() / "served")
    gpu = torch.cuda.is_available()
    merged = None if gpu else adapter
    weights = merged_folder(
        provenance["base"],
        provenance["revision"],
        merged,
        provenance["quantization"],
        provenance["precision"],
    )
    log.info("%s version %s will answer on http://%s:%d/v1 in a minute", name, version, host, port)
    asked = json.dumps(question(name, weights, provenance["prompt"], "..."))
    log.info(
        "ask it so: curl http://%s:%d/v1/completions -H 'Content-Type: application/json' -d '%s'",
        host,
        port,
        asked,
    )
    return serve_command(
        weights,
        name,
        host,
        port,
        max_length,
        provenance["precision"],
        adapter if gpu else None,
        _rank(adapter),
    )


def question(
    name: str, weights: Path, form: str, instruction: str, max_tokens: int = 64
) -> dict[str, Any]:
    """Return the body of a request for the server: the prompt the adapter was trained on, to the
    token.

    The server must not add marks of its own: the prompt's text has its BOS where training had one.
    """
    tokenizer = load_tokenizer(str(weights))
    prompt = tokenizer.decode(Prompter(tokenizer, form).prompt(instruction))
    return {
        "model": name,
        "prompt": prompt,
        "add_special_tokens": False,
        "max_tokens": max_tokens,
        "temperature": 0,
    }


def _rank(adapter: Path) -> int:
    config: dict[str, Any] = read_json(adapter / "adapter_config.json")
    return int(config["r"])


if __name__ == "__main__":
    sys.exit(main())
