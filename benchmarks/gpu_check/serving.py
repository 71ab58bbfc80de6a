"""The paths of serving: ``make serve``'s command on the merged model, asked over HTTP with token
ids, and whether the 4-bit adapter answers as what is served.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu_check.generation import compare_answers, need_engine
from benchmarks.gpu_check.outcome import MOST_LEFT_GIB, Figures, held_gib
from benchmarks.gpu_check.setting import Setting
from benchmarks.harness import PASSED, ROOT, last_line
from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.ports import find_free_port
from tasks.lm.memory import freed_after
from tasks.lm.training import lora_model
from tasks.tracking.kept_answers import KeptAnswer, KeptAnswers

_NAME, _FILES = "gpu-check", "served"
#: Share of the GPU that the server takes: this process and the command have some of the rest.
_SHARE = 0.8
#: Seconds that the server has to start, to answer, and to end with all that it started.
_START, _ANSWER, _END = 900.0, 120.0, 60.0


def serve(setting: Setting) -> Figures:
    """Serve the merged model; its answers over HTTP are to be those of the engine transformers.

    The memory that is left behind shows whether the server's processes have ended.
    """
    need_engine("vllm")
    scored, asked = setting.kept("transformers"), setting.asked()
    _register(setting, scored)
    longest = max(map(len, asked)) + setting.shape.new_tokens
    log = setting.work / "serve.log"
    with _running(setting, longest, log) as address:
        start = time.perf_counter()
        served = [_ask(address, prompt, setting.shape.new_tokens) for prompt in asked]
        seconds = time.perf_counter() - start
        alike = re.search(r"answers as scored: (\d+ of \d+)", log.read_text(encoding="utf-8"))
    setting.keep("served", served)
    found = compare_answers(setting, scored, served)
    if found.gate == PASSED and not alike:
        found.gate = "the server did not ask itself for the scored answers"
    found.note += f"; its own check of the texts: {alike[1] if alike else 'none'}"
    found.tokens, found.seconds = sum(map(len, served)), seconds
    return found


def compare_4bit(setting: Setting) -> Figures:
    """Give the 4-bit base with its adapter the answers that were served, token by token: it is to
    write the same ones, but for ties.

    Up to the first token that differs this is what it answers greedily.
    """
    kind = "served" if setting.has_kept("served") else "transformers"
    answers, written = setting.kept(kind), []
    settings = setting.finetune(setting.whole, resident="nf4", gradient_checkpointing=False)
    with freed_after(lora_model(settings, setting.adapter).eval()) as model, torch.inference_mode():
        for prompt, answer in zip(setting.asked(), answers, strict=True):
            ids = torch.tensor([prompt + answer], device=model.device)
            logits = model(input_ids=ids, logits_to_keep=len(answer) + 1).logits[0, :-1]
            likeliest: list[int] = logits.argmax(-1).tolist()
            pairs = enumerate(zip(answer, likeliest, strict=True))
            parts = next((place for place, (one, other) in pairs if one != other), len(answer))
            written.append(answer[:parts] + likeliest[parts : parts + 1])
    found = compare_answers(setting, answers, written)
    found.note += "" if kind == "served" else "; with transformers' answers: none were served"
    return found


def _register(setting: Setting, scored: list[list[int]]) -> None:
    """Register the adapter in a store of its own, with what serve reads of a version."""
    from mlflow import MlflowClient

    tokenizer = setting.prompter.tokenizer
    texts = [tokenizer.decode(one, skip_special_tokens=True).strip() for one in scored]
    pairs = zip(setting.asked(), texts, strict=True)
    folder = setting.work / _FILES
    folder.mkdir()
    KeptAnswers(
        floor=0.0,
        max_tokens=setting.shape.new_tokens,
        answers=tuple(KeptAnswer(prompt=tuple(prompt), answer=text) for prompt, text in pairs),
    ).write(folder)
    provenance = {
        "base": str(setting.whole),
        "revision": "main",
        "quantization": "nf4",
        "precision": setting.shape.precision,
        "prompt": setting.prompter.form,
        "prompt_example": setting.prompter.text("INSTRUCTION"),
    }
    write_json(folder / "provenance.json", provenance)
    uri = _store(setting)
    client = MlflowClient(uri, uri)
    place = (setting.work / "mlflow").as_uri()
    run = client.create_run(client.create_experiment(_NAME, place))
    client.log_artifacts(run.info.run_id, str(folder))
    client.log_artifacts(run.info.run_id, str(setting.adapter), "adapter")
    client.create_registered_model(_NAME)
    client.create_model_version(_NAME, f"{run.info.artifact_uri}/adapter", run.info.run_id)


def _store(setting: Setting) -> str:
    return f"sqlite:///{setting.work / 'mlflow.db'}"


@contextlib.contextmanager
def _running(setting: Setting, longest: int, log: Path) -> Iterator[str]:
    """Run ``python -m tasks.serve``; yield its address once it says that it is ready.

    A server that ends by itself, or is not ready in time, is a :class:`PipelineError` that has the
    last line of its log.
    """
    port, held = find_free_port(), held_gib() or 0.0
    options = {
        "model": f"models:/{_NAME}/1",
        "port": port,
        "max-length": longest,
        "gpu-memory": _SHARE,
    }
    command = [sys.executable, "-m", "tasks.serve"]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": _store(setting)}
    with log.open("w", encoding="utf-8") as told:
        server = subprocess.Popen(command, stdout=told, stderr=told, cwd=ROOT, env=environment)
    try:
        deadline = time.monotonic() + _START
        while "ready: " not in log.read_text(encoding="utf-8"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise PipelineError(
                    f"the server is not ready: {last_line(log) or 'it said nothing'}"
                )
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(_END)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        # The last of its processes is killed as the command ends.
        deadline = time.monotonic() + 10
        while (held_gib() or 0.0) > held + MOST_LEFT_GIB and time.monotonic() < deadline:
            time.sleep(0.5)


def _ask(address: str, prompt: list[int], max_tokens: int) -> list[int]:
    """Return the server's greedy answer to a prompt, both token ids."""
    body = {"model": _NAME, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
    request = urllib.request.Request(  # noqa: S310 - our own address
        f"{address}/v1/completions",
        json.dumps(body | {"return_token_ids": True}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_ANSWER) as response:  # noqa: S310
        ids: list[int] = json.load(response)["choices"][0]["token_ids"]
        return ids
