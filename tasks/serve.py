"""Serve a registered model over HTTP, as OpenAI's API: ``python -m tasks.serve --model
models:/NAME@champion``.

vLLM's own server, on loopback, with the adapter merged into the base weights: the very checkpoint
whose F1 is in MLflow, and whose answers register compared. Before the server is called ready it is
asked over HTTP for some of those answers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tasks.core.card import give_cards_back, take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.log_lines import set_up_logging
from tasks.core.own_pages import VARIABLE, OwnPagesOnly
from tasks.core.parquet import read_table
from tasks.core.ports import need_free_port, read_port
from tasks.core.privacy import cache_folder
from tasks.core.process import start_guard
from tasks.core.stage import one_line_errors
from tasks.lm.merged import scored_folder
from tasks.lm.models import count_positions
from tasks.lm.prompts import Prompter
from tasks.lm.tokenizers import load_tokenizer
from tasks.lm.vllm_settings import need_share, serve_command
from tasks.tracking.fetch_model import fetch_artifact, fetch_model
from tasks.tracking.kept_answers import KeptAnswers, fetch_kept_answers

log = logging.getLogger(__name__)
#: Seconds between looks at the server, that it has to end, and that an answer may take.
_POLL, _PATIENCE, _ANSWER = 0.5, 10.0, 300.0
#: Tokens of the example's answer.
_TOKENS = 64
#: What the example asks where no answer of the model's evaluation is kept, or none is short enough.
_QUESTION = "Water boils at 100 degrees Celsius at sea level.\n\nQ: At what temperature?\n\nA:"


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the model, prepare its weights, and run vLLM's server until it is stopped.

    Returns 2 after an error that the user can fix.
    """
    parser = argparse.ArgumentParser(prog="python -m tasks.serve", allow_abbrev=False)
    parser.add_argument("--model", required=True, help="models:/NAME@champion or models:/NAME/3")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="who reaches this address can use the model; VLLM_API_KEY sets a key",
    )
    parser.add_argument("--port", default="8000")
    parser.add_argument(
        "--gpu-memory",
        default="",
        help="share of the GPU's memory (0-1), so that runs have the rest; empty: vLLM's default",
    )
    parser.add_argument(
        "--max-length", type=int, default=2048, help="tokens of prompt and answer together"
    )
    arguments = parser.parse_args(argv)
    set_up_logging("serve")
    with one_line_errors("serve"):
        return run(
            prepare(
                arguments.model,
                arguments.host,
                read_port(arguments.port, "SERVE_PORT"),
                arguments.max_length,
                read_share(arguments.gpu_memory),
            )
        )
    return 2


def read_share(text: str) -> float:
    """Return GPU_MEMORY, a share in 0-1; 0 for an empty text. Anything else is a
    :class:`PipelineError`.
    """
    with contextlib.suppress(ValueError):
        if not text or 0 < float(text) <= 1:
            return float(text or 0)
    raise PipelineError(f"GPU_MEMORY={text} must be a share of the GPU's memory, such as 0.4")


@dataclass(frozen=True)
class Server:
    """A server to start: its command line, what its environment needs, its address, a curl line
    that works, and the served model's name with its kept answers.
    """

    command: list[str]
    environment: dict[str, str]
    address: str
    example: str
    name: str
    kept: KeptAnswers | None


def run(asked: Server) -> int:
    """Run the server until it is stopped (TERM, INT), and say when it answers; return 0.

    All that it started ends with it, also when this process is killed. A server that ends by itself
    is a :class:`PipelineError`.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    guard = start_guard()
    server = subprocess.Popen(
        asked.command,
        env={**os.environ, **asked.environment},
        process_group=guard.pid,
        stdin=subprocess.DEVNULL,
    )

    def runs() -> bool:
        return not stop.is_set() and server.poll() is None

    try:
        while runs() and not _is_up(asked):
            stop.wait(_POLL)
        if runs():
            # Its memory is taken by now, so a run beside it sees what is left.
            give_cards_back()
            check_answers(asked, stop)
        if runs():
            log.info("ready: %s/v1 answers; Ctrl-C ends it", asked.address)
            log.info("try it: %s", asked.example)
        while runs():
            stop.wait(_POLL)
    finally:
        os.killpg(guard.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_PATIENCE)
        guard.communicate()  # its input ends: it kills what is left
    if not stop.is_set():
        raise PipelineError(
            f"the server ended by itself with status {server.returncode}; its message is above"
        )
    log.info("stopped")
    return 0


def check_answers(asked: Server, stop: threading.Event) -> None:
    """Ask the server for the kept answers, prompts as token ids, and say how many are as scored.

    A warning where fewer than ``register.parity_floor`` are, or none. Ends early with ``stop``.
    """
    if asked.kept is None or not asked.kept.answers:
        log.info("answers not checked: none that fit are kept with this version")
        return
    known, same = asked.kept.answers, 0
    for one in known:
        if stop.is_set():
            return
        try:
            text = _complete(asked, list(one.prompt), asked.kept.max_tokens)
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            reason = str(error).partition("\n")[0]  # httpx adds a link
            log.warning("answers not checked: %s/v1/completions: %s", asked.address, reason)
            return
        same += text.strip() == one.answer
    told = f"answers as scored: {same} of {len(known)}"
    if same and same >= asked.kept.floor * len(known):
        log.info(told)
    else:
        log.warning(
            "%s (register.parity_floor was %g): the F1 in MLflow may not be that of this server",
            told,
            asked.kept.floor,
        )


def _complete(asked: Server, prompt: list[int], max_tokens: int) -> str:
    """Return the server's greedy text after a prompt of token ids."""
    key = os.environ.get("VLLM_API_KEY")
    body = {"model": asked.name, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with _open_client(asked) as client:
        response = client.post("/v1/completions", json=body, headers=headers, timeout=_ANSWER)
    return str(response.raise_for_status().json()["choices"][0]["text"])


def prepare(model: str, host: str, port: int, max_length: int, gpu_memory: float = 0.0) -> Server:
    """Fetch the model, prepare its weights, and return the server to start."""
    need_free_port(host, port, "SERVE_PORT")
    folder = cache_folder() / "served"
    name, version, adapter, provenance = fetch_model(model, folder)
    kept = fetch_kept_answers(name, version, folder)
    take_cards()
    need_share(gpu_memory)  # before a merge that takes minutes; serve_command asks again
    weights = scored_folder(provenance, adapter)
    address = f"http://{host}:{port}"
    log.info("%s version %s starts on %s/v1", name, version, address)
    # vLLM does not start for more than the model has.
    max_length = min(max_length, count_positions(str(weights)) or max_length)
    prompter = Prompter(load_tokenizer(str(weights)), provenance["prompt"])
    example = _example(name, version, provenance, prompter, max_length - _TOKENS)
    body = question(name, prompter, example.instruction)
    body |= among(prompter, example.choices, example.prior)
    key = ' -H "Authorization: Bearer $VLLM_API_KEY"' if os.environ.get("VLLM_API_KEY") else ""
    line = (
        f"curl {address}/v1/completions -H 'Content-Type: application/json'{key} "
        f"-d {shlex.quote(json.dumps(body))}"
    )
    command, environment = serve_command(
        weights, name, host, port, max_length, provenance["precision"], gpu_memory
    )
    command += ["--middleware", f"{OwnPagesOnly.__module__}.{OwnPagesOnly.__name__}"]
    environment |= {VARIABLE: ",".join([os.environ.get(VARIABLE, ""), address])}
    return Server(command, environment, address, line, name, kept and kept.fitting(max_length))


@dataclass(frozen=True)
class _Example:
    """A request to show: an instruction, and for a label its choices with the model's prior."""

    instruction: str = _QUESTION
    choices: tuple[str, ...] = ()
    prior: Mapping[str, float] = field(default_factory=dict)


def _example(
    name: str, version: str, provenance: dict[str, Any], prompter: Prompter, most: int
) -> _Example:
    """Return an instruction that evaluate asked the model, with its passage, in a prompt of at most
    ``most`` tokens; a plain question where there is none, or the run's answers are lost.
    """
    folder = cache_folder() / "served"
    answers = fetch_artifact(name, version, "evaluation/predictions.parquet", folder)
    if answers is None:
        return _Example()
    calibration = fetch_artifact(name, version, "evaluation/calibration.json", folder)
    priors = read_json(calibration) if calibration else {}
    head, _, tail = provenance["prompt_example"].partition("INSTRUCTION")
    for row in read_table(answers, ["template", "prompt", "choices"]).to_pylist():
        prompt = str(row["prompt"])
        if prompt.startswith(head) and prompt.endswith(tail):
            instruction = prompt[len(head) : len(prompt) - len(tail)]
            if len(prompter.prompt(instruction)) > most:
                continue
            return _Example(instruction, tuple(row["choices"]), priors.get(row["template"], {}))
    return _Example()


def among(prompter: Prompter, choices: Sequence[str], prior: Mapping[str, float]) -> dict[str, Any]:
    """Return what a request needs to answer with one of the choices: its first token alone, the
    model's own preference (``prior``, choice -> mean probability, 0-1) divided out.

    The preference is for whole choices with their end mark, as evaluate scores them; here it is
    divided out of the first token's probability. The two choose alike where each choice is one
    token.

    Empty without choices, and where two of them begin with the same token.
    """
    first = {choice: prompter.response(choice)[0] for choice in choices}
    if not first or len(set(first.values())) < len(first):
        return {}
    bias = {
        str(token): round(-math.log(max(prior[choice], 1e-6)), 4)
        for choice, token in first.items()
        if choice in prior
    }
    return {"max_tokens": 1, "allowed_token_ids": sorted(first.values()), "logit_bias": bias}


def _open_client(asked: Server) -> httpx.Client:
    """Return a client that asks the server itself: no proxy of the environment knows it, and none
    may see what it is asked.
    """
    return httpx.Client(base_url=asked.address, trust_env=False)


def _is_up(asked: Server) -> bool:
    with contextlib.suppress(httpx.HTTPError), _open_client(asked) as client:
        return client.get("/health").is_success
    return False


def question(
    name: str, prompter: Prompter, instruction: str, max_tokens: int = _TOKENS
) -> dict[str, Any]:
    """Return the body of a request, with the prompt that the adapter was trained on, to the token.

    The prompt is text, with its BOS where training had one, if the server's tokenizer makes the
    same tokens of it (``add_special_tokens`` false: no marks of its own). Tokenizers of the
    SentencePiece kind put a space after the BOS; then the prompt is token ids.
    """
    ids = prompter.prompt(instruction)
    text = prompter.tokenizer.decode(ids)
    same = prompter.tokenizer.encode(text, add_special_tokens=False) == ids
    return {
        "model": name,
        "prompt": text if same else ids,
        "add_special_tokens": False,
        "max_tokens": max_tokens,
        "temperature": 0,
    }


if __name__ == "__main__":
    sys.exit(main())
