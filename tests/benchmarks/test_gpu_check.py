"""make gpu-check without a GPU: every path on a tiny model of Mistral's architecture, and gates that
fail where something is wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from benchmarks.gpu_check import generation, ranking, serving, training
from benchmarks.gpu_check.model import SHAPES, words, write_model
from benchmarks.gpu_check.outcome import Figures, NotRun, Runner, render
from benchmarks.gpu_check.paths import PATHS
from benchmarks.gpu_check.setting import Setting
from benchmarks.harness import ROOT
from benchmarks.roofline import Need, Weights
from tasks.core.errors import PipelineError
from tasks.scoring import ranking as product

TINY = SHAPES["tiny"]


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    made = Setting(TINY, tmp_path)
    write_model(made.cut, TINY, 2)
    write_model(made.whole, TINY, TINY.layers)
    return made


def run_check(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_path_runs_on_a_tiny_model(tmp_path: Path) -> None:
    done = run_check("--shape", "tiny", "--work", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    gates = {path["path"]: path["gate"] for path in result["paths"]}
    notes = {path["path"]: path["note"] for path in result["paths"]}
    assert len(gates) == 12 + 10 + 5
    embedded = {name.partition(": ")[2] for name in gates if ": " in name}
    assert embedded == {name.format(part="") for name in PATHS}, "each path has an embedded model"
    needs_vllm = ("vLLM", "greedy parity", "serve")
    for name, gate in gates.items():
        may_lack = name.endswith(needs_vllm) and gate.startswith("not run: vLLM")
        assert gate == "passed" or may_lack, (name, gate)
    for name in ("generate, transformers", "generator: generate, transformers"):
        assert "times one row at a time" in notes[name]
    for name in ("serve", "answering: serve"):
        assert gates[name] != "passed" or "its own check of the texts: " in notes[name]
    assert [path["path"] for path in result["paths"] if path["roofline"]][:2] == ["train", "rank"]
    assert result["gpu"] is False and {path["left_gib"] for path in result["paths"]} == {None}
    assert "Neither is measured without a GPU" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "something is left behind"


def test_without_a_gpu_one_line_says_so(tmp_path: Path) -> None:
    done = run_check("--work", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: gpu-check: torch sees no NVIDIA GPU here; --shape tiny runs the same paths on the CPU"
    ]


def test_a_cut_has_the_first_layers_and_a_word_is_a_token(setting: Setting) -> None:
    cut, whole = (
        {
            name: tensor
            for path in folder.glob("*.safetensors")
            for name, tensor in load_file(path).items()
        }
        for folder in (setting.cut, setting.whole)
    )
    assert cut.keys() < whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in cut.items())
    assert {tensor.dtype for tensor in whole.values()} == {torch.bfloat16}
    tokenizer, text = AutoTokenizer.from_pretrained(setting.cut), words(20, TINY, "text")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == 20 and tokenizer.decode(ids) == text
    assert len(setting.long_prompt()) > TINY.config["sliding_window"]


def test_the_shape_is_mistrals() -> None:
    """Its weights are 7.24 billion, as those of Mistral-7B-v0.1."""
    from transformers import MistralConfig, MistralForCausalLM

    shape = SHAPES["mistral-7b"]
    with torch.device("meta"):
        model = MistralForCausalLM(
            MistralConfig(**shape.config, num_hidden_layers=shape.layers, tie_word_embeddings=False)
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_241_732_096


def test_a_path_that_fails_is_a_line_and_the_next_one_runs() -> None:
    runner = Runner({"flops": 100.0, "bytes": 1000.0})

    def breaks() -> Figures:
        raise ValueError("no such kernel\nand more")

    def cannot() -> Figures:
        raise NotRun("it has no build")

    runner.run("breaks", breaks)
    runner.run("cannot", cannot)
    runner.run("wrong", lambda: Figures("off by 2"))
    # 10 tokens through 20 weights: 400 operations, 4 seconds. They took 8.
    need, weights = Need(10, 0, passes=1), Weights(20, 0)
    runner.run("right", lambda: Figures(tokens=10, seconds=8.0, need=need, weights=weights))
    assert [one.gate for one in runner.outcomes] == [
        "failed: ValueError: no such kernel",
        "not run: it has no build",
        "failed: off by 2",
        "passed",
    ]
    right = runner.outcomes[-1]
    assert (right.tokens_a_second, right.roofline) == (1.2, 2.5)
    assert "| 48%" in render(runner.outcomes)


def test_a_merge_without_the_adapter_is_noticed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert training.train_steps(setting).gate == "passed"
    found = training.merge(setting)
    assert found.gate == "passed"
    assert "0.00% of its change, of which it has 100.0%" in found.note, "float32 rounds nothing"
    monkeypatch.setattr(Setting, "merged", lambda self: self.whole)
    assert training.merge(setting).gate == "the merged matrix is another"


def test_scores_of_another_model_are_noticed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ranking.rank_like_float32(setting).gate == "passed"
    right = ranking.float32_scores
    monkeypatch.setattr(
        ranking, "float32_scores", lambda folder, asked: right(str(setting.whole), asked)
    )
    assert "ranked otherwise than in float32" in ranking.rank_like_float32(setting).gate


def test_near_ties_are_those_that_rank_scores_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, counted, scored = setting.questions(6), [], product.Scorer.rank
    whole = ranking._rank(setting, setting.cut, asked)
    assert whole.describe_near() == "all in float32"
    margins = sorted(map(product.margin, whole.scores))
    monkeypatch.setattr(product, "NEAR", sum(margins[2:4]) / 2)

    def counts(
        scorer: product.Scorer, compute: torch.dtype, prompts: list[list[int]], *rest: Any
    ) -> list[list[float]]:
        counted.append((compute, len(prompts)))
        return scored(scorer, compute, prompts, *rest)

    monkeypatch.setattr(product.Scorer, "rank", counts)
    found = ranking._rank(
        Setting(replace(TINY, precision="bfloat16"), setting.work), setting.cut, asked
    )
    again = [prompts for compute, prompts in counted if compute == torch.float32]
    assert found.near == sum(again) and 0 < found.near < 6
    assert f"scored again in float32: {found.near} of 6" in found.describe_near()


def test_answers_may_part_at_a_tie_alone(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    found = generation.generate_with(setting, "transformers")
    assert found.gate == "passed" and "times one row at a time" in found.note
    right = setting.kept("transformers")
    assert generation.compare_answers(setting, right, right).gate == "passed"
    wrong = [*right[:3], [right[3][0], right[3][1] + 1, *right[3][2:]], *right[4:]]
    found = generation.compare_answers(setting, right, wrong)
    assert (found.gate, found.note[:18]) == (
        "they part where float32 does not",
        "6 of 7 answers ali",
    )
    monkeypatch.setattr(generation, "TIE", {"float32": 100.0})
    assert generation.compare_answers(setting, right, wrong).gate == "passed"
    with pytest.raises(NotRun, match="there are no answers of vllm to compare with"):
        generation.same_greedy_answers(setting)


def test_another_4bit_adapter_than_the_merged_one_is_noticed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert training.train_steps(setting).gate == "passed"
    assert generation.generate_with(setting, "transformers").gate == "passed"
    found = serving.compare_4bit(setting)
    assert found.gate == "passed" and "none were served" in found.note
    other = setting.work / "other"
    shutil.copytree(setting.adapter, other)
    weights = load_file(other / "adapter_model.safetensors")
    save_file(
        {name: value * 30 for name, value in weights.items()}, other / "adapter_model.safetensors"
    )
    setting.keep("served", setting.kept("transformers"))
    merged = setting.merged()
    monkeypatch.setattr(Setting, "merged", lambda self: merged)
    monkeypatch.setattr(Setting, "adapter", other)
    assert serving.compare_4bit(setting).gate == "they part where float32 does not"


def test_a_server_that_ends_by_itself_is_one_line(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.sys, "executable", "false")
    with (
        pytest.raises(PipelineError, match="the server is not ready: it said nothing"),
        serving._running(setting, 64, setting.work / "serve.log"),
    ):
        raise AssertionError("it is not ready")


@pytest.mark.slow
def test_bfloat16_keeps_the_gates_of_training_and_ranking(setting: Setting) -> None:
    narrow = replace(TINY, precision="bfloat16", finetune=TINY.finetune | {"precision": "bfloat16"})
    other = Setting(narrow, setting.work)
    assert training.compare_gradients(other).gate == "passed"
    assert ranking.rank_like_float32(other).gate == "passed"
