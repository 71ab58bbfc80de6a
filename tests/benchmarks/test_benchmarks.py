"""The benchmarks' harness on toy contenders: right ratios, interleaved rounds, no ratio without a
passed gate, and failures that are told.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks import __main__ as command
from benchmarks import evaluate, finetune, peers
from benchmarks.harness import PASSED, BenchOptions, Contender, ContenderResult, race
from benchmarks.report import merge, render
from benchmarks.roofline import Need, Weights, read_weights
from benchmarks.rows import ResultRow, compare

TOY = "tests.toy_contender"


@pytest.fixture
def options(tmp_path: Path) -> BenchOptions:
    return BenchOptions(rounds=3, quick=True, threads=1, work=tmp_path, install=False)


def toys(folder: Path, **each: dict[str, Any]) -> list[Contender]:
    journal = {"journal": str(folder / "journal")}
    return [
        Contender(name, TOY, {**journal, "letter": name[0], "seconds": 0.1, **more})
        for name, more in each.items()
    ]


def test_the_ratio_is_ours_over_theirs_and_the_rounds_are_interleaved(
    tmp_path: Path, options: BenchOptions
) -> None:
    done = race(
        toys(tmp_path, ours={}, peer={"seconds": 0.5}, third={"units": 20}), options, tmp_path
    )
    assert (
        (tmp_path / "journal").read_text() == "opt" + "opt" + "pto" + "top"
    )  # the warm-up, then the order turns with each round
    row = compare("toy", done["ours"], done["peer"], PASSED, unit="rows/s", target=1)
    # Sleeps are lower bounds: how much longer they take is the machine's affair.
    paired = [
        theirs / ours
        for ours, theirs in zip(done["ours"].seconds, done["peer"].seconds, strict=True)
    ]
    assert (
        row.ratio == pytest.approx(sorted(paired)[1], abs=0.01)
        and min(done["ours"].seconds) >= 0.1
        and min(done["peer"].seconds) >= 0.5
    )
    assert row.low is not None and row.high is not None and row.low <= row.ratio <= row.high
    assert (row.rounds, row.met, row.gate) == (3, True, PASSED)
    assert row.ours == pytest.approx(
        sorted(10 / seconds for seconds in done["ours"].seconds)[1], rel=0.01
    )
    assert done["third"].speeds == pytest.approx(
        [20 / seconds for seconds in done["third"].seconds], rel=0.01
    )
    assert done["ours"].read() == {"scores": [1, 2]} and done["ours"].facts == {"rows": 3}
    assert 2**20 < done["ours"].peak_bytes < 2**30
    assert "talks on stdout" in (tmp_path / "ours.log").read_text()


def test_the_median_is_of_ratios_paired_within_a_round() -> None:
    """In the third round the machine was slow for both: the ratio does not see it."""
    ours = ContenderResult("ours", seconds=[1.0, 1.0, 10.0], units=[1, 1, 1], load=1, warm_up=1)
    theirs = ContenderResult("peer", seconds=[2.0, 3.0, 25.0], units=[1, 1, 1], load=5, warm_up=2)
    row = compare("toy", ours, theirs, PASSED, unit="rows/s", target=3)
    assert (row.ratio, row.low, row.high, row.end_to_end_ratio, row.met) == (2.5, 2, 3, 3, False)


def test_memory_is_better_when_less() -> None:
    ours, theirs = (
        ContenderResult(name, seconds=[1.0], units=[1], peak_bytes=peak * 2**20)
        for name, peak in (("ours", 30), ("peer", 40))
    )
    row = compare("toy-memory", ours, theirs, PASSED, unit="MiB", target=1, peak=True)
    assert (row.ratio, row.ours, row.theirs, row.met) == (0.75, 30, 40, True)
    ours.gpu_peak_bytes, theirs.gpu_peak_bytes = 3, 2
    assert compare("toy-memory", ours, theirs, PASSED, unit="MiB", target=1, peak=True).met is False


def test_a_failed_gate_leaves_no_ratio() -> None:
    ours, theirs = (ContenderResult(name, seconds=[1.0], units=[1]) for name in ("ours", "peer"))
    row = compare("toy", ours, theirs, "item 3 is ranked otherwise", unit="rows/s", target=1)
    assert (row.ratio, row.low, row.high, row.met) == (None, None, None, None)
    assert row.gate == "failed: item 3 is ranked otherwise"


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        ("load", "RuntimeError: no such model"),
        ("round", "it ended with status 1: out of memory, said the toy"),
    ],
)
def test_a_peer_that_fails_is_a_row_with_the_reason(
    tmp_path: Path, options: BenchOptions, fail: str, reason: str
) -> None:
    done = race(toys(tmp_path, ours={}, peer={"fail": fail}), options, tmp_path)
    assert (
        compare("toy", done["ours"], done["peer"], PASSED, unit="rows/s").gate
        == f"not run: {reason}"
    )
    assert len(done["ours"].seconds) == 3
    # The other way round it is our failure, and that is one.
    assert (
        compare("toy", done["peer"], done["ours"], PASSED, unit="rows/s").gate
        == f"failed: ours: {reason}"
    )


def test_a_peer_that_cannot_be_installed_is_a_row_too(
    tmp_path: Path, options: BenchOptions
) -> None:
    python, why = peers.interpreter(tmp_path, install=False)
    done = race(
        [*toys(tmp_path, ours={}), Contender("peer", TOY, {}, python, missing=why)],
        options,
        tmp_path,
    )
    assert compare("toy", done["ours"], done["peer"], PASSED, unit="rows/s").gate.startswith(
        "not run: the peers' packages"
    )


def bench(rows: Sequence[ResultRow]) -> Any:
    return SimpleNamespace(NAMES=tuple({row.bench for row in rows}), run=lambda _: list(rows))


def row(name: str, peer: str = "peer", gate: str = PASSED, ratio: float | None = 2.0) -> ResultRow:
    ratios: Any = {"ratio": ratio, "low": ratio, "high": ratio}
    return ResultRow(
        bench=name, peer=peer, gate=gate, unit="rows/s", target=1.5, ours=2, theirs=1, **ratios
    )


def test_only_the_benches_that_ran_are_replaced(
    tmp_path: Path, options: BenchOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        command.measure(
            [bench([row("a", "one"), row("a", "two")]), bench([row("b")])], options, tmp_path
        )
        == 0
    )
    assert command.measure([bench([row("a", "one", "failed: why", None)])], options, tmp_path) == 1
    found = json.loads((tmp_path / "results.json").read_text())
    assert [(one["bench"], one["peer"], one["ratio"], one["gate"]) for one in found] == [
        ("a", "one", None, "failed: why"),
        ("b", "peer", 2.0, PASSED),
    ]
    assert {"bench", "peer", "ratio", "low", "high", "gate", "machine"} <= set(found[0])
    assert (tmp_path / "ratios.svg").stat().st_size > 1000 and (
        tmp_path / "ratios.png"
    ).stat().st_size > 1000
    assert "failed: why" in capsys.readouterr().out


def test_a_peer_that_did_not_run_is_no_failure_of_the_command(
    tmp_path: Path, options: BenchOptions
) -> None:
    assert (
        command.measure(
            [bench([row("a", gate="not run: no network", ratio=None)])], options, tmp_path
        )
        == 0
    )


def test_the_table_says_which_targets_are_met() -> None:
    lines = render(
        [
            row("a"),
            row("b", gate="failed: why", ratio=None),
            ResultRow(bench="c", peer="peer", gate=PASSED, unit="rows/s", target=3.5, ratio=1.0),
        ]
    ).splitlines()
    assert ">= 1.5 *" in lines[2] and "failed: why" in lines[3] and ">= 3.5 *" not in lines[4]


def test_merge_keeps_a_plain_list(tmp_path: Path) -> None:
    merge(tmp_path / "results.json", [row("a")], ["a"])
    merge(tmp_path / "results.json", [row("b")], ["b"])
    assert [one["bench"] for one in merge(tmp_path / "results.json", [], ["a"])] == ["b"]


def test_a_bench_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--only", "evalute"]) == 2
    assert "did you mean 'evaluate'" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_ranks_as_float32_does(options: BenchOptions) -> None:
    authors, lm_eval = evaluate.run(replace(options, rounds=1))
    assert (authors.gate, authors.rounds, lm_eval.gate[:8]) == (PASSED, 1, "not run:")
    assert authors.ratio is not None and authors.ratio > 0
    for limit in (authors.extra["roofline"]["flops"], authors.extra["roofline"]["bytes"]):
        assert (
            0
            < limit["achieved"]
            == pytest.approx(
                limit["share"] * limit["ceiling"], rel=0.1, abs=0.001 * limit["ceiling"]
            )
        )


def test_what_the_work_needs_at_least_is_counted(tmp_path: Path) -> None:
    def write(**matrices: tuple[int, ...]) -> Weights:
        save_file(
            {
                name.replace("__", "."): np.zeros(shape, np.float32)
                for name, shape in matrices.items()
            },
            tmp_path / "model.safetensors",
        )
        return read_weights(str(tmp_path))

    layers: dict[str, tuple[int, ...]] = {
        "model__layers__0__q__weight": (4, 5),
        "model__norm__weight": (4,),
        "model__embed_tokens__weight": (7, 4),
    }
    assert write(**layers) == Weights(body=20, head=28), "the embedding is the head"
    weights = write(**layers, lm_head__weight=(7, 4))
    assert weights == Weights(body=20, head=28)
    need = Need(tokens=10, scored=3, passes=2)
    assert (need.flops(weights), need.bytes(weights)) == (2 * (20 * 10 + 28 * 3), 2 * 2 * 48)
    trained = replace(need, backward=True)
    assert (trained.flops(weights), trained.bytes(weights)) == (
        2 * need.flops(weights),
        2 * need.bytes(weights),
    )


def test_the_ranking_gate_looks_at_clear_cases_only() -> None:
    reference = [[-1.0, -2.0], [-1.0, -1.0005], [-3.0, -1.0]]
    assert evaluate.ranking_gate(reference, [[-1.0, -2.0], [-1.1, -1.0], [-3.0, -1.0]]) == PASSED
    assert "1 of 3 prompts" in evaluate.ranking_gate(
        reference, [[-2.0, -1.0], [-1.0, -1.1], [-3.0, -1.0]]
    )
    assert "2 prompts" in evaluate.ranking_gate(reference, [[-1.0, -2.0], [-1.0, -1.1]])


def test_the_loss_gate_has_a_tolerance_for_each_number() -> None:
    reference = {"loss": 2.0, "gradient_norm": 1.0}
    assert (
        finetune.loss_gate({"loss": 2.01, "gradient_norm": 1.02}, reference, (0.01, 0.03)) == PASSED
    )
    assert "loss is 2.03" in finetune.loss_gate(
        {"loss": 2.03, "gradient_norm": 1.0}, reference, (0.01, 0.03)
    )
    assert "gradient_norm" in finetune.loss_gate(
        {"loss": 2.0, "gradient_norm": 0.0}, reference, (0.01, 0.03)
    )
    assert "loss" in finetune.loss_gate(
        {"loss": float("nan"), "gradient_norm": 1.0}, reference, (0.01, 0.03)
    )
    off = {"loss": 2.03, "gradient_norm": 1.0}
    as_far = {"loss": 2.025, "gradient_norm": 1.0}
    assert finetune.loss_gate(off, reference, (0.01, 0.03), as_far) == PASSED
    nearer = {"loss": 2.022, "gradient_norm": 1.0}
    assert "allowed 1.3" in finetune.loss_gate(off, reference, (0.01, 0.03), nearer)


def test_the_rows_to_train_on_are_the_same_every_time(options: BenchOptions) -> None:
    one = finetune._config(options)
    assert (
        one == finetune._config(options) and len(one["rows"]) == one["settings"]["batch_rows"] == 4
    )
    assert all(row["prompt"] and row["response"] for row in one["rows"])
