"""What is run: the random model of Mistral's shape, then the embedded model with both adapters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.contenders import ceiling
from benchmarks.gpu_check import generation, ranking, serving, training
from benchmarks.gpu_check.embedded import ANSWERING, GENERATOR, EmbeddedSetting
from benchmarks.gpu_check.model import Shape, write_model
from benchmarks.gpu_check.outcome import Figures, Runner
from benchmarks.gpu_check.setting import Setting

#: Every path, in the order of a pipeline. ``{part}`` says where it takes a cut of the model.
PATHS: dict[str, Callable[[Setting], Figures]] = {
    "load in 4 bits": training.load_4bit,
    "train": training.train_steps,
    "gradients{part}": training.compare_gradients,
    "kill and resume{part}": training.resume_after_kill,
    "merge": training.merge,
    "rank against float32{part}": ranking.rank_like_float32,
    "rank": ranking.rank_speed,
    "generate, transformers": lambda setting: generation.generate_with(setting, "transformers"),
    "generate, vLLM": lambda setting: generation.generate_with(setting, "vllm"),
    "greedy parity": generation.same_greedy_answers,
    "serve": serving.serve,
    "4-bit parity": serving.compare_4bit,
}
#: What a run does with each adapter; only a model that was adapted is trained, ranks or is served.
#: In ten minutes there is no time for more starts of vLLM.
_BY_ADAPTER = {
    ANSWERING: PATHS.keys() - {"generate, vLLM", "greedy parity"},
    GENERATOR: {"merge", "generate, transformers", "generate, vLLM", "greedy parity"}
    | {"4-bit parity"},
}
_SHORT = {ANSWERING: "answering", GENERATOR: "generator"}


def run_paths(shape: Shape, work: Path) -> Runner:
    """Run the paths of every model, each after the memory of the one before is free."""
    side = {"side": shape.side, "threads": torch.get_num_threads()}
    runner, setting = Runner(ceiling.play(ceiling.load(side)).facts), Setting(shape, work)
    write_model(setting.cut, shape, 2)
    write_model(setting.whole, shape, shape.layers)
    for name, path in PATHS.items():
        _run(runner, name, path, setting)
    for adapter, names in _BY_ADAPTER.items():
        folder = work / _SHORT[adapter]
        folder.mkdir()
        embedded = EmbeddedSetting(shape, folder, adapter)
        for name, path in PATHS.items():
            if name in names:
                _run(runner, f"{_SHORT[adapter]}: {name}", path, embedded)
    return runner


def _run(runner: Runner, name: str, path: Callable[[Setting], Figures], setting: Setting) -> None:
    name = name.format(part=setting.part)
    print(f"gpu-check: {name}", file=sys.stderr, flush=True)
    runner.run(name, lambda: path(setting))
    one = runner.outcomes[-1]
    print(f"  {one.gate}, {one.seconds} s", file=sys.stderr, flush=True)
