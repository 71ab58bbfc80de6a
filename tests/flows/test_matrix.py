"""The matrix: a typed file, its cells, the flow over a small pipeline, statistics against plain
arithmetic, the report.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from flows.matrix.cells import check_inputs, expand
from flows.matrix.compare import (
    Draws,
    judge_change,
    judge_together,
    measure_difference,
    summarise,
)
from flows.matrix.groups import compare_groups as groups_of
from flows.matrix.groups import measure_gains_over_tapt
from flows.matrix.matrix_file import Matrix, read_matrix
from flows.matrix.published import compare_published, judge_claims
from flows.matrix.report import draw_curves, write_matrix_page
from flows.matrix.results import Result, read_scores
from flows.matrix.run_cell import write_results
from flows.matrix.supervision import START
from flows.matrix.words import NAMES, colour, label
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.core.mix import SOURCES
from tasks.core.parquet import read_table, write_table
from tasks.core.rows import EVALUATIONS
from tasks.core.setting_paths import FILES
from tasks.core.yaml_file import read_yaml
from tasks.scoring.datasets import Item, load_dataset
from tasks.scoring.f1 import Scored, macro_f1
from tasks.tracking.mlflow_store import connect, experiment_id
from tests.conftest import ROOT
from tests.pages import check_page
from tests.toy import environment, make_toy, write_stage

_FILES = [path for path in sorted((ROOT / "matrices").glob("*.yaml")) if path.stem != "published"]
_FILE: dict[str, Any] = {
    "name": "toy",
    "models": ["embedded:smollm2-135m-instruct"],
    "datasets": [
        {
            "name": "notices",
            "set": {"evaluate": {"dataset": "datasets/privacy.yaml", "items": "data/items.jsonl"}},
        }
    ],
    "supervision": ["none", "tapt", "bonito"],
    "seeds": [1, 2],
    "passages": 20,
    "tokens": 1000,
    "set": {"finetune": {"start": "supervision/none"}},
}
_ITEMS = [
    {
        "id": str(n),
        "context": f"Passage {n}.",
        "question": f"Is it {n}?",
        "answer": "yes" if n % 2 else "no",
    }
    for n in range(20)
]
_LINES = "".join(json.dumps(item) + "\n" for item in _ITEMS)


def _write(folder: Path, **change: Any) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**_FILE, **change}))
    return path


def test_there_are_matrix_files() -> None:
    assert {path.stem for path in _FILES} >= {"embedded", "targets", "paper"}


def test_the_default_matrix_needs_no_file_that_is_not_shipped() -> None:
    """``make matrix`` in a fresh clone: each corpus and evaluation set is part of data.dvc."""
    for cell in expand(read_matrix(ROOT / "matrices/embedded.yaml"), ROOT):
        for section, key in FILES:
            value = cell.params[section][key]
            assert value.startswith(("data/", "datasets/", "supervision/", "reviews/")), value


def test_a_target_whose_files_are_missing_says_how_to_get_them(tmp_path: Path) -> None:
    matrix = read_matrix(ROOT / "matrices/targets.yaml")
    cells = expand(matrix, ROOT)
    for name in ("datasets", "supervision", "models", "reviews"):
        (tmp_path / name).symlink_to(ROOT / name)
    with pytest.raises(
        PipelineError,
        match=r"documents\.jsonl does not exist.*is made by: \.venv/bin/python scripts/real_input\.py",
    ) as it:
        check_inputs(matrix, cells, tmp_path)
    assert "\n" not in str(it.value)
    for cell in cells:
        for section, key in FILES[:3]:
            (tmp_path / cell.params[section][key]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / cell.params[section][key]).touch()
    with pytest.raises(PipelineError, match=r"baseline\.general: .*docs/generator\.md"):
        check_inputs(matrix, cells, tmp_path)


def test_a_target_without_labelled_items_is_one_line_that_says_so(tmp_path: Path) -> None:
    """The error said that ``supervision/none``, which means none, is no file of rows."""
    nothing = {"evaluate": {"dataset": "datasets/privacy.yaml", "items": "supervision/none"}}
    matrix = read_matrix(_write(tmp_path, datasets=[{"name": "notices", "set": nothing}]))
    with pytest.raises(PipelineError, match="target notices has no labelled items"):
        check_inputs(matrix, expand(matrix, ROOT), ROOT)


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_every_shipped_matrix_makes_valid_cells(path: Path) -> None:
    cells = expand(read_matrix(path), ROOT)
    assert len({cell.name for cell in cells}) == len(cells) > 3 and all(
        len(cell.name) <= 80 for cell in cells
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modls": ["x"]}, r"unknown key 'modls' \(did you mean 'models'\?\)"),
        ({"supervision": ["bonitto"]}, "unknown supervision 'bonitto' .*did you mean 'bonito'"),
        ({"supervision": ["prompted"]}, "supervision prompted needs prompted: {generator"),
        ({"supervision": ["p3 then tapt"]}, "supervision p3 needs p3_rows"),
        ({"supervision": ["p3+tapt"]}, "write 'p3 then tapt' to train on p3 and then on tapt"),
        ({"supervision": ["p3 then none"]}, "'p3 then none' is p3 alone"),
        ({"supervision": ["tapt+p3:0.5"]}, "supervision p3 needs p3_rows"),
        ({"supervision": ["tapt+tapt"]}, "'tapt' is in the mix twice"),
        ({"supervision": ["tapt+bonito:.5", "tapt + bonito:0.50"]}, r"bonito:0.5' is given twice"),
        ({"supervision": ["tapt+bonito:2"]}, "not a number between 0 and 1"),
        ({"variants": [{"name": "x", "supervision": ["tapd"]}]}, "did you mean 'tapt'"),
        ({"supervision": ["none", "tapt"], "variants": [{"name": "x"}]}, "x would never run"),
        ({"variants": [{"name": "x", "supervision": ["none"]}]}, "x would never run"),
        ({"supervision": ["labelled"]}, "needs the training rows of notices"),
        ({"seeds": [1, 1]}, "1 is given twice"),
        ({"tokens_per_row": 5}, "either tokens or tokens_per_row"),
        ({"tokens": 0, "tokens_per_row": 5}, "tokens_per_row needs numbers of rows"),
        (
            {"set": {"finetune": {"epoch": 1}}},
            r"cell .*unknown key 'finetune.epoch' \(did you mean 'epochs'\?\)",
        ),
        (
            {"set": {"finetune": {"max_tokens": 5000}}},
            r"set: finetune\.max_tokens would be ignored: write tokens of the matrix",
        ),
        (
            {"datasets": [{"name": "x", "set": {"baseline": {"general": "local/x.parquet"}}}]},
            r"set of x: baseline\.general would be ignored: write general of the matrix",
        ),
        ({"profile": "mistral"}, r"unknown profile 'mistral' \(did you mean 'mistral-7b'\?\)"),
    ],
)
def test_a_bad_file_is_one_line_before_anything_runs(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        expand(read_matrix(_write(tmp_path, **change)), ROOT)


def test_cells_are_the_product_with_zero_shot_once_and_starting_points_first(
    tmp_path: Path,
) -> None:
    path = _write(
        tmp_path,
        supervision=["p3 then bonito", "bonito", "none"],
        p3_rows="rows.parquet",
        rows=[10, 20],
        variants=[{"name": "no-balance", "set": {"validate": {"skip": ["label_balance"]}}}],
    )
    cells = expand(read_matrix(path), ROOT)
    kinds = [(cell.supervision, cell.rows, cell.seed, cell.variant) for cell in cells]
    assert kinds[0] == ("none", 0, 1, "") and sum(kind[0] == "none" for kind in kinds) == 1
    assert sum(kind[0] == "bonito" for kind in kinds) == 2 * 2 * 2 and sum(
        kind[0] == "p3" for kind in kinds
    ) == 4 == sum(k[0] == "p3 then bonito" for k in kinds)
    places = {cell.name: place for place, cell in enumerate(cells)}
    for cell in cells:
        assert bool(cell.start) == (cell.supervision == "p3 then bonito")
        if cell.start:
            start = next(own for own in cells if own.name == cell.start)
            assert places[start.name] < places[cell.name] and (start.rows, start.seed) == (
                cell.rows,
                cell.seed,
            )
            assert (
                cell.params["finetune"]["start"].endswith(f".runs/{start.name}/artifacts/finetune")
                and cell.params["supervise"]["source"] == "bonito"
            )
    assert {json.dumps(c.params["validate"]["skip"]) for c in cells if c.variant} == {
        '["label_balance"]'
    }


def test_cells_whose_names_are_cut_in_one_place_are_all_run(tmp_path: Path) -> None:
    """Their readable parts are the same, and so are the first four digits of their keys."""
    target = {**_FILE["datasets"][0], "name": "notices-of-last-year"}
    path = _write(
        tmp_path,
        name="learning-curves-of-verify",
        datasets=[target],
        supervision=["bonito"],
        rows=[3000, 3700],
        seeds=[8],
    )
    cells = expand(read_matrix(path), ROOT)
    assert [cell.rows for cell in cells] == [3000, 3700]
    assert cells[0].name[:70] == cells[1].name[:70] and len(cells[0].name) <= 80


def test_a_mix_is_a_source_of_cells_with_names_of_files(tmp_path: Path) -> None:
    mix = "bonito + constructed: 0.50"
    path = _write(
        tmp_path,
        supervision=["none", "bonito", mix, f"p3 then {mix}", "tapt+p3:0.1"],
        p3_rows="rows.parquet",
        seeds=[1],
        variants=[
            {"name": "a", "set": {"generate": {"temperature": 0.9}}, "supervision": [mix]},
        ],
    )
    cells = {(cell.supervision, cell.variant): cell for cell in expand(read_matrix(path), ROOT)}
    written = "bonito+constructed:0.5"
    assert {key[0] for key in cells if key[1]} == {written}
    assert cells[written, ""].params["supervise"]["source"] == written
    assert ".bonito-and-constructed-0.5." in cells[written, ""].name
    after = cells[f"p3 then {written}", ""]
    assert ".p3-then-bonito-and-constructed-0.5." in after.name
    assert after.start == cells["p3", ""].name and after.params["supervise"]["source"] == written
    replayed = cells["tapt+p3:0.1", ""].params["supervise"]
    assert replayed["rows"] == "rows.parquet" and not cells["tapt+p3:0.1", ""].start
    assert cells[written, ""].params["supervise"]["rows"] == "supervision/none"
    assert all(re.fullmatch(r"[A-Za-z0-9.-]{1,80}", cell.name) for cell in cells.values())


def test_a_mix_is_named_and_coloured_by_its_sources() -> None:
    assert label("bonito+constructed:0.5") == "Bonito + claims by rules (0.5)"
    assert label("p3 then tapt") == "P3 (general) then TAPT (next word)"
    assert {*SOURCES, START} == set(NAMES), "a source without a name or colour"
    colours = {colour(text) for text in (*SOURCES, "bonito+constructed:0.5", "bonito+tapt")}
    assert len(colours) == len(SOURCES) + 2
    assert colour("bonito") == colour("p3 then bonito") == NAMES["bonito"][1]


def test_every_source_has_the_same_passages_and_the_same_budget(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        supervision=["none", "tapt", "bonito", "prompted"],
        prompted={"generator": "some/chat-model", "set": {"temperature": 0.9}},
    )
    cells = expand(read_matrix(path), ROOT)
    for section, key in (
        ("ingest", "tokenizer"),
        ("ingest", "corpus"),
        ("generate", "max_passages"),
        ("generate", "seed"),
        ("finetune", "max_tokens"),
    ):
        assert len({str(cell.params[section][key]) for cell in cells}) == 1, key
    prompted = [cell for cell in cells if cell.supervision == "prompted"]
    assert {c.params["generate"]["generator"] for c in prompted} == {
        "some/chat-model"
    } and prompted[0].params["generate"]["temperature"] == 0.9
    per_row = expand(read_matrix(_write(tmp_path, rows=[10, 30], tokens=0, tokens_per_row=7)), ROOT)
    assert {
        (cell.rows, cell.params["finetune"]["max_tokens"]) for cell in per_row if cell.rows
    } == {(10, 70), (30, 210)}


def test_trained_on_nothing_a_cell_with_a_starting_point_is_the_start_alone(tmp_path: Path) -> None:
    begun = {"finetune": {"start": "models/smollm2-135m-answering"}}
    cells = expand(read_matrix(_write(tmp_path, set=begun)), ROOT)
    assert [cell.supervision for cell in cells] == ["start", "tapt", "tapt", "bonito", "bonito"]
    assert cells[0].params["supervise"]["source"] == "none" and ".start." in cells[0].name


def test_cells_that_go_on_from_the_champion_come_before_one_that_may_replace_it(
    tmp_path: Path,
) -> None:
    on = {"name": "on", "set": {"finetune": {"start": "champion"}}, "supervision": ["bonito"]}
    cells = expand(read_matrix(_write(tmp_path, variants=[on], tokens=0)), ROOT)
    assert [cell.variant for cell in cells[:3]] == ["on", "on", ""]
    assert [cell.supervision for cell in cells[2:]] == ["none", "tapt", "tapt", "bonito", "bonito"]
    check = {
        **cells[0].params,
        "evaluate": {**cells[0].params["evaluate"], "items": str(tmp_path / "items.jsonl")},
    }
    (tmp_path / "items.jsonl").write_text(
        '{"id": "1", "context": "a", "question": "b", "answer": "yes"}'
    )
    for section, key in FILES:
        value = check[section][key]
        if section != "evaluate" and value != "champion":
            check[section] = {**check[section], key: "supervision/none"}
    check_inputs(read_matrix(_write(tmp_path)), [replace(cells[0], params=check)], ROOT)


# Statistics


def _runs(chance: np.random.Generator, right: float, seeds: int = 2) -> list[Scored]:
    golds = np.arange(60) % 3
    return [
        Scored(
            np.where(chance.random((4, 60)) < right, golds, (golds + 1) % 3).astype(float), golds, 3
        )
        for _ in range(seeds)
    ]


def _items() -> list[Item]:
    return [
        Item(id=str(n), context=f"passage {n // 2}", golds=("x",), gold=0, columns={})
        for n in range(60)
    ]


def test_group_figures_equal_plain_arithmetic() -> None:
    runs = _runs(np.random.default_rng(1), 0.6)
    draws = Draws.make(_items(), 4, 400, 1)
    own = summarise(runs, draws)
    golds = np.arange(60) % 3
    table = np.array(
        [
            [macro_f1(golds.tolist(), row.astype(int).tolist(), 3) for row in run.values]
            for run in runs
        ]
    )
    assert own["f1"] == pytest.approx(table.mean(), abs=0.01)
    assert own["template_spread"] == pytest.approx(table.mean(axis=0).std(ddof=1), abs=0.01)
    assert own["seed_spread"] == pytest.approx(table.mean(axis=1).std(ddof=1), abs=0.01)
    # One resample by hand: items repeated as often as drawn, templates weighed as drawn.
    repeated = np.repeat(np.arange(60), draws.items[7].astype(int))
    by_hand = [
        sum(
            w * macro_f1(golds[repeated].tolist(), row[repeated].astype(int).tolist(), 3)
            for w, row in zip(draws.templates[7], run.values, strict=True)
        )
        for run in runs
    ]
    assert draws.f1(runs)[7] == pytest.approx(np.mean(by_hand))


def test_differences_are_paired_and_signs_are_right() -> None:
    chance = np.random.default_rng(2)
    weak, strong = _runs(chance, 0.4), _runs(chance, 0.8)
    draws = Draws.make(_items(), 4, 400, 1)
    change = measure_difference(strong, weak, draws)
    assert (
        judge_change(change) == "better"
        and judge_change(measure_difference(weak, strong, draws)) == "worse"
    )
    nothing = measure_difference(weak, weak, draws)
    assert (nothing["f1"], nothing["f1_low"], nothing["f1_high"]) == (0, 0, 0) and judge_change(
        nothing
    ) == "undecided"


@pytest.mark.parametrize(("passages", "most"), [(1, 0), (5, 0), (8, 12), (20, 12)])
def test_equal_models_are_hardly_ever_told_apart_on_few_passages(passages: int, most: int) -> None:
    """Of 150 pairs of equal models at most one in twenty and sampling error, and on fewer than six
    passages none: questions on one passage rise and fall together.
    """
    items = [
        Item(id=str(n), context=f"passage {n % passages}", golds=("x",), gold=0, columns={})
        for n in range(60)
    ]
    draws = Draws.make(items, 2, 300, 1)
    changes = []
    for pair in range(150):
        chance = np.random.default_rng(pair)
        one, other = (
            Scored(
                np.clip(
                    0.4
                    + chance.normal(0, 0.2, passages)[np.arange(60) % passages]
                    + chance.normal(0, 0.3, 60)
                    + chance.normal(0, 0.05, (2, 60)),
                    0,
                    1,
                )
            )
            for _ in range(2)
        )
        change = measure_difference([one], [other], draws)
        judge_together([change])
        changes.append(change["verdict"])
    assert sum(verdict != "undecided" for verdict in changes) <= most


def test_one_class_predictors_are_flagged() -> None:
    golds = np.arange(60) % 3
    run = Scored(np.stack([np.ones(60), golds.astype(float)]), golds, 3)
    assert summarise([run], Draws.make(_items(), 2, 100, 1))["one_class_templates"] == 1


# The report's judgements


def _group(**more: Any) -> dict[str, Any]:
    base = {
        "model": "m",
        "dataset": "pubmedqa",
        "supervision": "bonito",
        "rows": 0,
        "variant": "",
        "f1": 40.0,
        "f1_low": 30.0,
        "f1_high": 50.0,
    }
    return {**base, "vs_none": None, "vs_tapt": None, **more}


def test_published_figures_are_reproduced_deviate_or_were_not_run(tmp_path: Path) -> None:
    matrix = read_matrix(_write(tmp_path, models=["mistralai/Mistral-7B-v0.1"]))
    told = {
        "model": "mistralai/Mistral-7B-v0.1",
        "figures": {"pubmedqa": {"none": 25.6, "bonito": 42.9}, "vitaminc": {"bonito": 73.3}},
    }
    model = {"model": "/models/Mistral-7B-v0.1", "f1_low": 35.0, "f1_high": 45.0}
    rows = compare_published(
        told, [_group(**model), _group(**model, supervision="none")], [], matrix
    )
    assert [row["status"] for row in rows] == ["deviates", "reproduced", "not run"]
    assert (
        rows[0]["reason"] == "+14.4 points" and rows[2]["reason"] == "not asked for by this matrix"
    )
    other = compare_published(
        told, [_group()], [], matrix.model_copy(update={"models": ("small/one",)})
    )
    assert {row["status"] for row in other} == {
        "not run"
    } and "needs Mistral-7B-v0.1; this matrix ran one" in other[0]["reason"]


def test_a_model_of_a_folder_that_failed_says_why(tmp_path: Path) -> None:
    """It was said to need the very model that the matrix ran."""
    matrix = read_matrix(_write(tmp_path, models=["/models/Mistral-7B-v0.1"]))
    cell = next(each for each in expand(matrix, ROOT) if each.supervision == "bonito")
    told = {"model": "org/Mistral-7B-v0.1", "figures": {"notices": {"bonito": 1.0, "p3": 2.0}}}
    rows = compare_published(told, [], [Result(cell, "failed", "too hot")], matrix)
    assert [row["reason"] for row in rows] == ["too hot", "not asked for by this matrix"]


@pytest.mark.parametrize(
    ("ours", "published", "status"),
    [
        ((62.0, 41.0, 81.0), 80.7, "cannot tell"),  # on few items nearly every figure is inside
        ((62.0, 41.0, 81.0), 62.0, "cannot tell"),
        ((62.0, 57.0, 67.0), 65.5, "cannot tell"),  # inside, and not near
        ((62.0, 57.0, 67.0), 64.5, "reproduced"),
        ((62.0, 57.0, 67.0), 68.0, "deviates"),
        ((62.0, 41.0, 81.0), 90.0, "deviates"),
    ],
)
def test_a_wide_interval_reproduces_nothing(
    tmp_path: Path, ours: tuple[float, float, float], published: float, status: str
) -> None:
    told = {"model": "m", "figures": {"pubmedqa": {"bonito": published}}}
    group = _group(f1=ours[0], f1_low=ours[1], f1_high=ours[2])
    matrix = read_matrix(_write(tmp_path, models=["m"]))
    (row,) = compare_published(told, [group], [], matrix)
    assert row["status"] == status
    assert (row["reason"] == "") == (status == "reproduced")


def test_verdicts_are_corrected_for_the_number_of_comparisons() -> None:
    """One p of 0.03 among five is no finding; alone it is one."""
    change = {"f1": 3.0, "f1_low": 0.3, "f1_high": 5.7}
    alone = [change | {"p": 0.03}]
    judge_together(alone)
    assert (alone[0]["verdict"], alone[0]["p_holm"]) == ("better", 0.03)
    many = [change | {"p": p} for p in (0.03, 0.4, 0.009, 0.5, 0.6)]
    judge_together(many)
    assert [row["p_holm"] for row in many] == [0.12, 1.0, 0.045, 1.0, 1.0]
    assert [row["verdict"] for row in many].count("better") == 1


def test_claims_hold_only_where_the_interval_says_so() -> None:
    def against(low: float, high: float) -> dict[str, Any]:
        change = {"f1": (low + high) / 2, "f1_low": low, "f1_high": high}
        return change | {"verdict": judge_change(change)}

    rows = judge_claims(
        [
            _group(vs_none=against(1, 5), vs_tapt=against(-1, 5)),
            _group(supervision="tapt", vs_none=against(1, 3)),
        ]
    )
    assert [row["status"] for row in rows] == ["holds", "undecided", "does not hold"]


def test_the_page_says_why_a_claim_is_undecided(
    finished: tuple[Matrix, list[Result]], tmp_path: Path
) -> None:
    """An interval without 0 can be undecided, too, by the correction for many comparisons."""
    change = {"f1": 3.0, "f1_low": 0.3, "f1_high": 5.7, "p_holm": 0.12} | {"verdict": "undecided"}
    wide = change | {"f1_low": -0.3}
    claims = judge_claims([_group(vs_none=change, vs_tapt=wide)])
    assert {claim["status"] for claim in claims} == {"undecided"}
    facts = dict.fromkeys(("groups", "published", "samples", "starts"), ()) | {"claims": claims}
    page = tmp_path / "page.html"
    write_matrix_page(page, *finished, tmp_path, facts, {}, "", "")
    text = page.read_text()
    assert text.count("undecided (the interval holds 0)") == 1
    assert text.count("undecided (p 0.12 after Holm's correction)") == 1


def test_a_learning_curve_has_a_point_for_every_size() -> None:
    groups = [_group(rows=rows, f1=float(rows)) for rows in (10, 20, 40)] + [
        _group(supervision="none")
    ]
    curve = draw_curves(groups)[0]
    assert (
        list(curve["sizes"]) == [10, 20, 40]
        and len(curve["lines"][0]["dots"]) == 3
        and curve["zero"] is not None
    )
    heights = [dot["f1"] for dot in curve["lines"][0]["dots"]]
    assert heights == sorted(heights, reverse=True)
    assert draw_curves(groups[:1]) == []


# From finished cells to the page, without running anything

_KNOWN = {"none": 3, "start": 7, "tapt": 4, "bonito": 8, "p3": 7, "p3 then bonito": 8}
_KNOWN |= {"bonito+constructed:0.5": 8}


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Matrix, list[Result]]:
    """A matrix whose cells have left what their stages leave; the one of seed 2 on tapt has
    failed.
    """
    return _finish(tmp_path)


def _finish(tmp_path: Path, **change: Any) -> tuple[Matrix, list[Result]]:
    for name in ("datasets/privacy.yaml", "matrices/published.yaml"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/items.jsonl").write_text(_LINES)
    matrix = read_matrix(_write(tmp_path, **change))
    results = []
    for cell in expand(matrix, ROOT):
        if (cell.supervision, cell.seed) == ("tapt", 2):
            results.append(Result(cell, "failed", "finetune: the machine is tired"))
            continue
        stages = [
            {"stage": "finetune", "status": "ran", "seconds": 7.0},
            {"stage": "verify", "status": "ran", "seconds": 3.0},
            {"stage": "ingest", "status": "restored", "seconds": 2.0},
        ]
        results.append(Result(cell, "done", "", stages, gpus=1))
        _leave(results[-1].artifacts(tmp_path), cell, tmp_path)
    return matrix, results


def _leave(folder: Path, cell: Any, main: Path) -> None:
    dataset = load_dataset(main / "datasets/privacy.yaml")
    known = {"adapted": _KNOWN[cell.supervision]}
    if cell.params["finetune"]["start"] != "supervision/none":
        known |= {"zero_shot": _KNOWN["none"], "start": _KNOWN["start"]}
    predictions = []
    for model, right in known.items():
        for template in dataset.templates:
            for place, row in enumerate(_ITEMS):
                gold = dataset.labels.index(row["answer"])
                said = gold if (place + cell.seed) % 10 < right else 1 - gold
                # The right choice is always the likelier one than elsewhere, under a liking for
                # the second that is stronger still.
                scores = [-9.0 + (gold == 0), -4.0 + (gold == 1)]
                predictions.append(
                    {
                        "model": model,
                        "dataset": "privacy",
                        "template": template.name,
                        "item_id": row["id"],
                        "prompt": "",
                        "prediction": template.choices[said],
                        "golds": [template.choices[gold]],
                        "choices": list(template.choices),
                        "scores": scores,
                        "f1": 0.0,
                    }
                )
    write_table(
        folder / "evaluate/predictions.parquet",
        pa.Table.from_pylist(predictions, schema=EVALUATIONS),
    )
    score = {"f1": 20.0, "f1_low": 18.0, "f1_high": 22.0}
    own = {"adapted": {"f1": 50.0, "f1_low": 40.0, "f1_high": 60.0}}
    general = dict.fromkeys(("zero_shot", "adapted", "change"), score) | {"tasks": 6}
    if "start" in known:
        own |= {"start": {"f1": 44.0}, "gain_over_start": {"f1": 6.0}}
        general |= {"start": {**score, "f1": 19.3}, "gain_over_start": {**score, "f1": 0.7}}
    write_json(folder / "evaluate/scores.json", {**own, "general": general})
    write_json(folder / "finetune/summary.json", {"rows_kept": 12, "tokens": 1004})
    made = [
        {
            "row_id": f"r{n}",
            "context": "<b>A pump.</b>",
            "prediction": "Why?<|pipe|>Because",
            "task_type": "ynqa",
            "reason": "",
            "parsed": True,
        }
        for n in range(4)
    ]
    write_table(folder / "generate/predictions.parquet", pa.Table.from_pylist(made))
    write_table(folder / "validate/instructions.parquet", pa.table({"row_id": ["r0", "r1"]}))


def test_finished_cells_are_read_compared_and_written(
    finished: tuple[Matrix, list[Result]], tmp_path: Path
) -> None:
    matrix, results = finished
    for place in range(len(results)):
        write_results(matrix, results[: place + 1], tmp_path, final=place == len(results) - 1)
    folder = tmp_path / "artifacts/matrix/toy"
    cells = read_json(tmp_path / "artifacts/matrix/cells.json")
    assert [(cell["supervision"], cell["seed"], cell["status"]) for cell in cells] == [
        ("none", 1, "done"),
        ("tapt", 1, "done"),
        ("tapt", 2, "failed"),
        ("bonito", 1, "done"),
        ("bonito", 2, "done"),
    ]
    assert cells[2]["reason"] == "finetune: the machine is tired" and cells[2]["f1"] is None
    assert (
        cells[3]["tokens"],
        cells[3]["rows_trained"],
        cells[3]["wall_seconds"],
        cells[3]["gpu_seconds"],
    ) == (1004, 12, 12.0, 10.0)
    groups = {group["supervision"]: group for group in read_json(folder / "groups.json")}
    assert (
        groups["bonito"]["seeds"] == 2
        and groups["tapt"]["seeds"] == 1
        and groups["bonito"]["general"]["tasks"] == 6
    )
    assert (
        groups["bonito"]["vs_none"]["verdict"] == groups["bonito"]["vs_tapt"]["verdict"] == "better"
    )
    assert groups["tapt"]["vs_tapt"] is None and groups["none"]["vs_none"] is None
    assert groups["bonito"]["prior_corrected"]["f1"] == 100.0 and groups["bonito"]["f1"] < 100.0
    page, table = (folder / "report.html").read_text(), (folder / "table.md").read_text()
    for words in (
        "the machine is tired",
        "Bonito beats next-word training",
        "needs Mistral-7B-v0.1",
        "Budget-matched",
        "<svg",
        "&lt;b&gt;A pump.",
        "2 were kept",
        "With the prior corrected",
    ):
        assert words in page, words
    assert "start alone" not in page + table, "nothing where there is no start"
    assert (
        "http" not in page.replace("http-equiv", "")
        and "<script" not in page
        and "<b>A pump" not in page
    )
    check_page(page)
    assert "failed: finetune: the machine is tired" in table


def test_the_page_leads_to_the_mlflow_that_people_are_shown(
    finished: tuple[Matrix, list[Result]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another port, or behind a proxy, its links led nowhere."""
    matrix, results = finished
    monkeypatch.setenv("PIPELINE_MLFLOW_PAGE", "https://mlflow.example")
    facts = dict.fromkeys(("groups", "published", "samples", "claims", "starts"), ())
    page = tmp_path / "page.html"
    write_matrix_page(page, matrix, results, tmp_path, facts, {}, "1", "a" * 32)
    assert f"https://mlflow.example/#/experiments/1/runs/{'a' * 32}" in page.read_text()


@pytest.mark.parametrize("supervision", [["none", "bonito"], ["bonito"]])
def test_the_start_alone_is_a_row_whether_a_cell_shows_it_or_not(
    tmp_path: Path, supervision: list[str]
) -> None:
    begun = {"finetune": {"start": "models/smollm2-135m-answering"}}
    matrix, results = _finish(tmp_path, supervision=supervision, set=begun)
    for place in range(len(results)):
        write_results(matrix, results[: place + 1], tmp_path, final=place == len(results) - 1)
    folder = tmp_path / "artifacts/matrix/toy"
    groups = read_json(folder / "groups.json")
    assert [group["supervision"] for group in groups] == ["none", "start", "bonito"]
    zero, start, bonito = groups
    assert zero["f1"] < start["f1"] < bonito["f1"]
    assert zero["vs_none"] is zero["vs_start"] is start["vs_start"] is None
    assert start["vs_none"]["verdict"] == bonito["vs_none"]["verdict"] == "better"
    change = bonito["vs_start"]
    assert change["f1"] == pytest.approx(bonito["f1"] - start["f1"], abs=0.02)
    assert change["f1_low"] <= change["f1"] <= change["f1_high"]
    assert bool(start["cells"]) == ("none" in supervision) and not zero["cells"]
    assert {
        (row["supervision"], row["start"], row["gain_over_start"])
        for row in read_json(folder / "cells.json")
    } == {("start" if name == "none" else name, 44.0, 6.0) for name in supervision}
    page, table = (folder / "report.html").read_text(), (folder / "table.md").read_text()
    check_page(page)
    assert "19.3 [18.0" in page and "+0.7 [+18.0" in page, "the start on the general tasks"
    assert "against start alone" in page and "| against start alone |" in table
    assert sum("| start alone |" in line for line in table.splitlines()) == 1


def test_a_start_of_another_cell_has_its_row_as_that_cell(tmp_path: Path) -> None:
    _, results = _finish(
        tmp_path, supervision=["none", "p3 then bonito"], p3_rows="rows.parquet", seeds=[1]
    )
    groups = groups_of(results, tmp_path, read_scores(results, tmp_path))
    assert [group["supervision"] for group in groups] == ["none", "p3", "p3 then bonito"]
    assert groups[2]["vs_start"] and not groups[1]["vs_start"]


def test_kept_predictions_can_be_scored_again(
    finished: tuple[Matrix, list[Result]], tmp_path: Path
) -> None:
    matrix, results = finished
    write_results(matrix, results[-1:], tmp_path, final=False)
    table = read_table(
        tmp_path / f"artifacts/matrix/toy/predictions/{results[-1].cell.name}.parquet"
    )
    assert (
        table.column_names == ["item_id", "template", "prediction", "golds"]
        and len(table) == 5 * 20
    )
    dataset = load_dataset(tmp_path / "datasets/privacy.yaml")
    scores = []
    for template in dataset.templates:
        rows = [row for row in table.to_pylist() if row["template"] == template.name]
        pairs = [
            [template.choices.index(text) for text in (row["golds"][0], row["prediction"])]
            for row in rows
        ]
        scores.append(macro_f1([gold for gold, _ in pairs], [said for _, said in pairs], 2))
    assert groups_of(results[-1:], tmp_path, read_scores(results[-1:], tmp_path))[0][
        "f1"
    ] == pytest.approx(np.mean(scores), abs=0.01)


def test_the_parent_run_has_the_f1_of_a_mix_and_of_every_model(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow refuses the + of a mix in a metric's name, and of two models the last one's F1 stood
    for both.
    """
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    mix = ["none", "bonito+constructed:0.5"]
    one = (tmp_path / "one", {"supervision": mix}, {"none", "bonito-constructed-0.5"})
    models = ["embedded:smollm2-135m-instruct", "org/second"]
    both = {f"none/{name}" for name in ("embedded-smollm2-135m-instruct", "org-second")}
    two = (tmp_path / "two", {"supervision": ["none"], "models": models}, both)
    client = connect()
    for folder, change, names in (one, two):
        folder.mkdir()
        experiment = experiment_id(client, folder.name)
        matrix, results = _finish(folder, **change)
        for result in results:
            run = client.create_run(experiment, run_name=result.cell.name).info.run_id
            told = {"experiment": folder.name, "run_id": run}
            write_json(result.artifacts(folder) / "register/registration.json", told)
        write_results(matrix, results, folder, final=True)
        (parent,) = client.search_runs([experiment], "attributes.run_name = 'toy'")
        assert {*parent.data.metrics} == {f"f1/notices/{name}" for name in names}


def test_every_cells_run_shows_its_gain_over_tapt_once(
    finished: tuple[Matrix, list[Result]],
    tmp_path: Path,
    empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    matrix, results = finished
    client = connect()
    experiment = experiment_id(client, "toy")
    runs = {
        result.cell.name: client.create_run(experiment, run_name=result.cell.name).info.run_id
        for result in results
        if result.status == "done"
    }
    for result in results:
        if result.status == "done":
            write_json(
                result.artifacts(tmp_path) / "register/registration.json",
                {"experiment": "toy", "run_id": runs[result.cell.name]},
            )
    for _ in range(2):
        write_results(matrix, results, tmp_path, final=True)
    group = {
        group["supervision"]: group
        for group in read_json(tmp_path / "artifacts/matrix/toy/groups.json")
    }
    shown = [
        (result.cell, client.get_run(runs[result.cell.name]).data.metrics)
        for result in results
        if result.status == "done"
    ]
    gains = [
        metrics["gain_over_tapt/privacy"] for cell, metrics in shown if cell.supervision == "bonito"
    ]
    assert (
        np.mean(gains) == pytest.approx(group["bonito"]["vs_tapt"]["f1"], abs=0.01)
        and min(gains) > 20
    )
    for cell, metrics in shown:
        keys = (
            []
            if cell.supervision == "tapt"
            else [
                "gain_over_tapt/privacy",
                "gain_over_tapt_high/privacy",
                "gain_over_tapt_low/privacy",
            ]
        )
        assert sorted(metrics) == keys, cell.name
        assert not keys or metrics[keys[2]] <= metrics[keys[0]] <= metrics[keys[1]]
        assert all(len(client.get_metric_history(runs[cell.name], key)) == 1 for key in keys), (
            "the same matrix again made a curve of one figure"
        )


def test_a_cell_that_was_asked_other_questions_has_no_gain_over_tapt(
    finished: tuple[Matrix, list[Result]], tmp_path: Path
) -> None:
    _, results = finished
    other = results[-1]
    other.cell.params["evaluate"]["templates"] = 2
    folder = other.artifacts(tmp_path) / "evaluate/predictions.parquet"
    names = [
        template.name for template in load_dataset(tmp_path / "datasets/privacy.yaml").templates[:2]
    ]
    table = read_table(folder)
    write_table(folder, table.filter(pc.is_in(table["template"], pa.array(names))))
    scored = read_scores(results, tmp_path)
    assert set(measure_gains_over_tapt(results, tmp_path, scored)) == {
        result.cell.name for result in results if result.cell.supervision != "tapt"
    } - {other.cell.name}


# The flow, over a small pipeline of its own

_TOY_GRAPH = """
stages:
  finetune:
    cmd: python -m tasks.finetune --params params.yaml --start ${finetune.start} --out artifacts/finetune
    deps: [tasks/finetune, "${finetune.start}"]
    params: [finetune, supervise]
    outs: [artifacts/finetune]
  evaluate:
    cmd: python -m tasks.evaluate --params params.yaml --adapter artifacts/finetune --items ${evaluate.items} --out artifacts/evaluate
    deps: [tasks/evaluate, artifacts/finetune, "${evaluate.items}"]
    params: [evaluate, supervise]
    outs: [artifacts/evaluate]
"""
_FINETUNE = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.stage import Stage, run_stage

def work(stage: Stage) -> None:
    source = stage.params.supervise.source
    with open(os.environ["TOY_COUNT"], "a") as count:
        count.write(source + "\\n")
    if source == "tapt" and "TOY_HANG" in os.environ:
        Path(os.environ["TOY_HANG"]).touch()
        time.sleep(600)
    if source == "tapt" and os.path.exists(os.environ["TOY_BROKEN"]):
        raise PipelineError("the machine is tired")
    write_json(stage.out / "provenance.json", {"supervision": source})
    stage.summary(3, 3, tokens=stage.params.finetune.max_tokens)

if __name__ == "__main__":
    sys.exit(run_stage("finetune", work, inputs=["start"]))
"""
_EVALUATE = """
import sys
from pathlib import Path
from types import SimpleNamespace
import pyarrow as pa
import pyarrow.compute as pc
from tasks.scoring.datasets import load_dataset, load_items
from tasks.core.files import read_json, write_json
from tasks.core.parquet import write_table
from tasks.core.rows import EVALUATIONS
from tasks.core.stage import Stage, run_stage

def work(stage: Stage) -> None:
    params = stage.params.evaluate
    dataset = load_dataset(Path(params.dataset))
    right = {"none": 3, "tapt": 4, "bonito": 8}[read_json(stage.path("adapter") / "provenance.json")["supervision"]]
    rows = []
    for model, known in (("zero_shot", 3), ("adapted", right)):
        for template in dataset.templates:
            for place, item in enumerate(load_items(dataset, stage.path("items"))):
                said = template.choices[item.gold if place % 10 < known else 1 - item.gold]
                rows.append({"model": model, "dataset": dataset.name, "template": template.name, "item_id": item.id, "prompt": "", "prediction": said,
                    "golds": [template.choices[item.gold]], "choices": list(template.choices), "scores": [0.0, 0.0], "f1": 0.0})
    write_table(stage.out / "predictions.parquet", pa.Table.from_pylist(rows, schema=EVALUATIONS))
    write_json(stage.out / "scores.json", {"adapted": {"f1": 10.0 * right, "f1_low": 10.0 * right - 5, "f1_high": 10.0 * right + 5}})
    stage.summary(10, 10)

if __name__ == "__main__":
    sys.exit(run_stage("evaluate", work, inputs=["adapter", "items"]))
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy repository with a graph that trains and evaluates in milliseconds."""
    root = make_toy(tmp_path_factory.mktemp("matrix") / "toy")
    write_stage(root, "finetune", _FINETUNE)
    write_stage(root, "evaluate", _EVALUATE)
    (root / "dvc.yaml").write_text(_TOY_GRAPH)
    for name in ("datasets/privacy.yaml", "matrices/published.yaml"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "matrices/items.jsonl").write_text(_LINES)
    dataset = {
        "name": "notices",
        "set": {
            "evaluate": {
                "dataset": "datasets/privacy.yaml",
                "items": "matrices/items.jsonl",
                "bootstrap": 200,
            }
        },
    }
    (root / "matrices/toy.yaml").write_text(
        yaml.safe_dump({**_FILE, "datasets": [dataset], "seeds": [1]})
    )
    for command in (["git", "add", "-A"], ["git", "commit", "-q", "-m", "matrix"]):
        subprocess.run(command, cwd=root, check=True, env=environment(root), capture_output=True)
    return root


_COMMAND = [sys.executable, "-m", "flows.matrix", "matrices/toy.yaml"]


def _variables(root: Path, **more: str) -> dict[str, str]:
    count, broken = (str(root.parent / name) for name in ("count", "broken"))
    return {**environment(root), "TOY_COUNT": count, "TOY_BROKEN": broken, **more}


def _run(root: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = _variables(root, **variables)
    command = [*_COMMAND, *more]
    return subprocess.run(
        command, cwd=root, env=own, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.mark.timeout(900)
def test_term_ends_a_matrix_as_ctrl_c_does(toy: Path, api: str) -> None:
    """It ended at once, without a word; what stands below finishes what this leaves."""
    mark = toy.parent / "hanging"
    own = _variables(toy, PREFECT_API_URL=api, TOY_HANG=str(mark))
    running = subprocess.Popen(
        _COMMAND, cwd=toy, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not mark.exists():
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    said = running.communicate(timeout=30)[1].splitlines()
    assert running.returncode == 143
    assert said[-1] == "terminated: run the same command again to continue"
    assert (toy.parent / "count").read_text().split() == ["none", "tapt"], "no other cell began"
    (toy.parent / "count").unlink()


@pytest.mark.timeout(900)
def test_a_failed_cell_says_why_the_rest_goes_on_and_the_same_command_finishes_it(
    toy: Path, api: str
) -> None:
    count, broken = toy.parent / "count", toy.parent / "broken"
    broken.touch()
    first = _run(toy, PREFECT_API_URL=api)
    assert first.returncode == 1, first.stderr
    cells = {cell["supervision"]: cell for cell in read_json(toy / "artifacts/matrix/cells.json")}
    assert [cells[name]["status"] for name in ("none", "tapt", "bonito")] == [
        "done",
        "failed",
        "done",
    ]
    assert (
        cells["tapt"]["reason"] == "finetune: the machine is tired" and cells["tapt"]["f1"] is None
    )
    identity = {
        name: cells["bonito"][name]
        for name in ("model", "dataset", "rows", "seed", "f1", "f1_low", "f1_high", "reason")
    }
    assert identity == {
        "model": _FILE["models"][0],
        "dataset": "notices",
        "rows": 0,
        "seed": 1,
        "f1": 80.0,
        "f1_low": 75.0,
        "f1_high": 85.0,
        "reason": "",
    }
    assert (
        cells["bonito"]["tokens"] == 1000
        and cells["bonito"]["wall_seconds"] > 0
        and cells["bonito"]["gpu_seconds"] == 0
    )
    broken.unlink()
    second = _run(toy, PREFECT_API_URL=api)
    assert second.returncode == 0, second.stderr
    assert sorted(count.read_text().split()) == ["bonito", "tapt", "tapt"], (
        "what was done, here or before TERM, was done again"
    )
    assert {cell["status"] for cell in read_json(toy / "artifacts/matrix/cells.json")} == {"done"}
    again = {cell["supervision"]: cell for cell in read_json(toy / "artifacts/matrix/cells.json")}
    assert again["bonito"]["wall_seconds"] == cells["bonito"]["wall_seconds"], (
        "a cell that was skipped still says what it took"
    )
    folder = toy / "artifacts/matrix/toy"
    assert len(list((folder / "predictions").glob("*.parquet"))) == 3
    assert "Budget-matched" in (folder / "report.html").read_text()
    assert "| smollm2-135m-instruct |" in second.stdout and "Bonito" in second.stdout
    assert read_yaml(toy / "params.yaml")["supervise"]["source"] == "bonito", (
        "the user's own parameters were touched"
    )


def test_an_evaluation_set_that_is_wrong_is_refused_before_the_first_cell(toy: Path) -> None:
    held = (toy / "matrices/items.jsonl").read_text()
    (toy / "matrices/items.jsonl").write_text(held + held.splitlines()[0] + "\n")
    refused = _run(toy, "--list")
    (toy / "matrices/items.jsonl").write_text(held)
    assert (
        refused.returncode == 2
        and "was there before: ids must be unique" in refused.stderr
        and len(refused.stderr.splitlines()) == 1
    )


@pytest.mark.parametrize(
    ("visible", "used"), [("0,2", ["0", "2"]), ("", []), ("-1", []), ("1,-1,2", ["1"])]
)
def test_a_hidden_gpu_counts_as_none(
    visible: str, used: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA ignores -1 and what follows it: a cell on the CPU was said to cost GPU seconds."""
    from flows.matrix import flow

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert flow.list_gpus() == used


def test_the_page_of_a_matrix_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.matrix import flow

    secret = "hf_" + "a1B2" * 8
    monkeypatch.setattr(flow, "get_run_logger", logging.getLogger)
    monkeypatch.setattr(flow, "set_prefect_environment", lambda _: None)
    message = flow.matrix.fn(f"{secret}.yaml").message
    assert "does not exist" in message and secret not in message


def test_after_ctrl_c_no_other_cell_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect waited for the next cell, which had begun when the stage of the last was killed."""
    from flows.matrix import flow

    monkeypatch.setattr(flow, "get_run_logger", logging.getLogger)
    monkeypatch.setattr(flow, "bring_up_to_date", lambda *_: pytest.fail("a cell was begun"))
    free: queue.Queue[str] = queue.Queue()
    free.put("")
    stopped = threading.Event()
    stopped.set()
    cell = expand(read_matrix(ROOT / "matrices/embedded.yaml"), ROOT)[0]
    assert flow.run_cell.fn(cell, free, stopped).message == "not run: the matrix was stopped"
    assert free.get_nowait() == "", "the GPU is free again"


def test_of_a_cell_that_is_prepared_when_the_matrix_is_stopped_no_stage_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no stage to kill yet: all of the cell's stages ran before the matrix ended."""
    from flows.matrix import flow, run_cell

    stopped = threading.Event()
    begun: list[str] = []

    def reproduce(_folder: Path, stage: str, _log: Any, watch: Any, _: Any) -> None:
        watch()
        begun.append(stage)

    monkeypatch.setattr(flow, "get_run_logger", logging.getLogger)
    monkeypatch.setattr(flow, "Watcher", lambda *_: SimpleNamespace(poll=lambda: None))
    monkeypatch.setattr(run_cell.worktree, "hold", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(run_cell.worktree, "prepare", lambda *_: stopped.set())
    monkeypatch.setattr(run_cell, "read_graph", lambda _: [SimpleNamespace(name="ingest")])
    monkeypatch.setattr(run_cell, "reproduce", reproduce)
    free: queue.Queue[str] = queue.Queue()
    free.put("")
    cell = expand(read_matrix(ROOT / "matrices/embedded.yaml"), ROOT)[0]
    state = flow.run_cell.fn(cell, free, stopped)
    assert not begun and "run the same command again" in state.message
