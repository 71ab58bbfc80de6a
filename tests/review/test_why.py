"""`make why`: the nearest training rows of an item, with their verdicts and their places."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from flows.review import nearest, why
from flows.review.embedding import Embedder, open_embedder
from flows.review.place import Place
from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.params import parse_params
from tasks.core.parquet import read_table, write_table
from tasks.core.rows import EVALUATIONS, INSTRUCTIONS
from tasks.core.yaml_file import read_yaml
from tasks.lm.merged import merged_folder
from tasks.scoring.item_page import name_answers, page_name
from tasks.scoring.reviews import review_key
from tests.browser import Browser, chromium
from tests.conftest import ROOT
from tests.pages import check_page, find_dead_links
from tests.review.checkout import EVIL, context_of, make_checkout, row_of, save_adapter, write_rows

IDS = ["contracts-001", "contracts-002", "../../evil \x1b[31m", "$(touch stolen)"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose items are about the passage of row 5."""
    main = make_checkout(tmp_path / "main")
    monkeypatch.setattr(why, "CODE", main)
    items = [
        {
            **{"id": name, "premise": context_of(5), "label": "contradiction"},
            "hypothesis": f"Pump P-5 failed in its motor, says {name}.",
        }
        for name in IDS
    ]
    (main / "local/mine/items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    rows = [
        {
            **{"model": model, "dataset": "mine", "template": template, "item_id": name},
            **{"prompt": "?", "prediction": "Yes", "golds": ["No"], "f1": float(place > 1)},
            **{"choices": ["Yes", "Maybe", "No"], "scores": [-2.0, -5.0, -1.0]},
        }
        for model in ("zero_shot", "adapted")
        for template in ("does_it_follow", "justified")
        for place, name in enumerate(IDS)
    ]
    artifacts = main / ".runs/mine/artifacts"
    (artifacts / "evaluate").mkdir()
    write_table(
        artifacts / "evaluate/predictions.parquet", pa.Table.from_pylist(rows, schema=EVALUATIONS)
    )
    write_rows(artifacts / "supervise/instructions.parquet", map(row_of, range(30)), INSTRUCTIONS)
    row = row_of(5)
    verdict = {
        **{"row_id": row["row_id"], "key": review_key(row["instruction"], row["response"])},
        **{"task_type": "nli", "verdict": "wrong", "reason": "it was the seal"},
    }
    (main / "local/mine/reviews.jsonl").write_text(json.dumps(verdict) + "\n")
    return main


def test_the_nearest_row_is_shown_with_its_verdicts_and_its_place(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why.main(["--profile", "mine", "--item", IDS[0]]) == 0
    found = read_json(checkout / ".runs/mine/artifacts/why/contracts-001.json")
    assert found["item"]["asked"]["hypothesis"].startswith("Pump P-5 failed in its motor")
    assert found["item"]["expected"] == ["contradiction"]
    assert {(row["model"], row["template"]) for row in found["answers"]} == {
        (model, template)
        for model in ("zero_shot", "adapted")
        for template in ("does_it_follow", "justified")
    }
    ranked = found["answers"][0]["scorer"]["ranked"]
    assert [one["choice"] for one in ranked] == ["No", "Yes", "Maybe"]
    first = found["nearest"][0]
    assert first["row_id"] == "nli-005" and first["passage_overlap"] == 1.0
    assert any("seal 5" in phrase or "p 5" in phrase for phrase in first["shared"])
    assert first["verdicts"]["agreement"] == 0.875
    assert first["verdicts"]["review"]["reason"] == "it was the seal"
    assert (first["place"]["page"], first["place"]["start"]) == (1, 5000)
    told = capsys.readouterr().out
    assert "nli-005   contract-2.md, page 1, characters 5000-" in told
    assert "reader agrees 88%; wrong by review (it was the seal)" in told
    assert "zero-shot       does_it_follow" in told
    assert "written   .runs/mine/artifacts/why/contracts-001.json" in told
    assert "30 of 30 training rows compared" in told


def check(page: Path) -> None:
    """Check a page of ours; the hostile row in it is text."""
    text = page.read_text()
    assert EVIL not in text
    check_page(text.replace(html.escape(EVIL), ""))


def test_the_page_links_to_the_pages_that_are_there(checkout: Path) -> None:
    artifacts = checkout / ".runs/mine/artifacts"
    for name in ("verify", "ingest", "evaluate"):
        (artifacts / name / "report.html").write_text("")
    assert why.main(["--profile", "mine", "--item", IDS[0]]) == 0
    page = artifacts / "why/contracts-001.html"
    links = re.findall('href="([^"]+)"', page.read_text())
    item = "../evaluate/report.html#contracts-001"
    assert links == ["../ingest/report.html", "../verify/report.html", item, item]
    assert "make why PROFILE=mine ITEM=contracts-001" in page.read_text()
    assert find_dead_links(artifacts) == []
    (artifacts / "verify/report.html").unlink()
    assert find_dead_links(artifacts) == ["why/contracts-001.html -> ../verify/report.html"]
    check(page)
    assert "contract-2.md, page 1, characters 5000-" in page.read_text()
    assert "No -1.00 · Yes -2.00 · Maybe -5.00" in page.read_text(), "what the scorer saw"
    assert '<td data-name="expected">No</td>' in page.read_text(), "in the template's own words"


def test_the_answers_that_a_page_names_lead_to_every_run_that_gave_them(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DVC restores a page of evaluation in runs of other names, such as the cells of a matrix."""
    runs = checkout / ".runs"
    params = Place(checkout, "mine").run.params
    (runs / "mine/params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(runs / "mine", runs / "cell-of-a-matrix-0a1b2c")
    shutil.copytree(runs / "mine", runs / "other")
    other = runs / "other/artifacts/evaluate/predictions.parquet"
    write_table(other, read_table(other).slice(1))
    answers = name_answers(runs / "mine/artifacts/evaluate/predictions.parquet")
    assert why.main(["--run", answers, "--item", IDS[0]]) == 0
    for name in ("mine", "cell-of-a-matrix-0a1b2c"):
        page = (runs / name / "artifacts/why/contracts-001.html").read_text()
        assert f"make why RUN={answers} ITEM=contracts-001" in page and "nli-005" in page
    assert not (runs / "other/artifacts/why").exists()
    assert capsys.readouterr().out.count("\nwritten   .runs/") == 2
    assert why.main(["--run", answers, "--item", "contracts-01"]) == 2
    assert "the nearest ids: contracts-001" in capsys.readouterr().err
    assert why.main(["--run", "0" * 12, "--item", IDS[0]]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no run here has the answers RUN=000000000000" in error
    assert why.main(["--run", answers, "--profile", "mine", "--item", IDS[0]]) == 2
    assert "give it without PROFILE and SET" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.skipif(not chromium(), reason="no Chromium here (Debian: apt install chromium)")
def test_the_page_on_a_screen_and_on_a_phone(checkout: Path, tmp_path: Path) -> None:
    from tests.review.test_browser import shoot

    assert why.main(["--profile", "mine", "--item", IDS[0]]) == 0
    page = checkout / ".runs/mine/artifacts/why/contracts-001.html"
    with Browser(tmp_path / "profile", patience=30) as browser:
        browser.open(page.as_uri())
        browser.see("Why: contracts-001", "zero-shot", "nli-005", "wrong by review")
        assert browser.js("document.querySelectorAll('script, img').length") == 0
        shoot(browser, "why")
        assert browser.elsewhere() == []


def test_hostile_ids_make_a_safe_file_and_a_clean_terminal(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in IDS[2:]:
        assert why.main(["--profile", "mine", "--item", name]) == 0
    assert "\x1b" not in capsys.readouterr().out
    folder = checkout / ".runs/mine/artifacts/why"
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 4 and all(name.endswith((".json", ".html")) for name in names)
    for name in names[::2]:
        check(folder / name)
    assert len({page_name(name) for name in ["a b", "a-b", "a/b", "..", "", "A" * 99]}) == 6


def test_an_unknown_item_is_one_line_with_the_nearest_ids(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why.main(["--profile", "mine", "--item", "contracts-01"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nearest ids: contracts-001, contracts-002" in error
    assert why.main(["--profile", "mine"]) == 2
    assert "no item: make why PROFILE=mine ITEM=ID; such as contracts-001" in (
        capsys.readouterr().err
    )
    assert why.main(["--item", "x"]) == 2
    assert "predictions.parquet is missing: make run first" in capsys.readouterr().err
    (checkout / "local/mine/items.jsonl").write_text(
        '{"id": "n", "premise": "P", "hypothesis": "H", "label": "neutral"}\n'
    )
    for _ in range(2):
        with pytest.raises(PipelineError, match="no longer in local/mine/items.jsonl"):
            why.explain(Place(checkout, "mine"), IDS[0])
        (checkout / "local/mine/items.jsonl").write_text("")


def test_without_labelled_items_a_row_that_was_kept_out_is_explained(checkout: Path) -> None:
    """The page of evaluation shows these rows, and names this command below each."""
    profile = checkout / "profiles/mine.yaml"
    profile.write_text(profile.read_text().replace("local/mine/items.jsonl", "supervision/none"))
    artifacts, kept_out = checkout / ".runs/mine/artifacts", row_of(5, "exqa")
    write_rows(artifacts / "supervise/heldout.parquet", [kept_out], INSTRUCTIONS)
    answer = {
        **{"model": "adapted", "dataset": "held_out", "template": "held_out", "prompt": "?"},
        **{"item_id": kept_out["row_id"], "prediction": "oil", "golds": [kept_out["response"]]},
        **{"f1": 0.0, "choices": [], "scores": []},
    }
    predictions = pa.Table.from_pylist([answer], schema=EVALUATIONS)
    write_table(artifacts / "evaluate/predictions.parquet", predictions)
    found = why.explain(Place(checkout, "mine"), kept_out["row_id"])
    assert found["item"]["asked"] == {"instruction": "[passage]\n\nWhat broke in P-5?"}
    assert found["item"]["expected"] == ["seal-5"]
    assert found["nearest"][0]["row_id"] == "nli-005"
    profile.write_text(profile.read_text().replace("supervision/none", "local/mine/items.jsonl"))
    later = why.explain(Place(checkout, "mine"), kept_out["row_id"])
    assert later["item"] == found["item"], "items that were labelled after the run change nothing"


def test_the_scorer_of_extraction_sees_normal_text() -> None:
    row: dict[str, Any] = {name: "" for name in EVALUATIONS.names}
    row |= {"choices": [], "scores": [], "prediction": "The Seal!", "golds": ["a seal", "oil"]}
    assert why._answer(row)["scorer"] == {"compared": "seal", "with": ["seal", "oil"]}
    assert why._seen(why._answer(row)["scorer"]) == "scored as \u201cseal\u201d against seal | oil"


def test_of_too_many_rows_a_choice_and_those_of_the_passage_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "MOST", 100)
    path = tmp_path / "rows.parquet"
    write_rows(path, map(row_of, range(400)), INSTRUCTIONS)
    for number in (7, 123, 399):
        text = context_of(number)
        found, compared, total = nearest.find_nearest(path, text, text, seed=1)
        assert found[0].row["row_id"] == f"nli-{number:03d}"
        assert total == 400 and compared in (100, 101)
    assert nearest.find_nearest(path, "", "...", seed=1)[0] == []
    write_rows(path, [], INSTRUCTIONS)
    assert nearest.find_nearest(path, "a", "a", seed=1) == ([], 0, 0)


def test_as_many_rows_as_are_compared_take_seconds(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = (row_of(n) | {"context": f"{context_of(n)} " * 8} for n in range(nearest.MOST))
    write_rows(path, rows, INSTRUCTIONS)
    begun = time.process_time()
    nearest.find_nearest(path, context_of(5), context_of(5), seed=1)
    assert time.process_time() - begun < 10


#: Libraries that take seconds to import, none of which a question about an item needs.
HEAVY = {
    *("accelerate", "bitsandbytes", "datasets", "dvc", "great_expectations", "matplotlib"),
    *("mlflow", "peft", "prefect", "ray", "scipy", "sklearn", "torch", "transformers", "vllm"),
}


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    return save_adapter(tiny_model, tmp_path / "adapter")


def imported_by(code: str, *arguments: Path) -> set[str]:
    """Return which of ``HEAVY`` a new process has imported when it has run ``code``."""
    told = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", told, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stderr.splitlines()[-1].split())


def test_a_question_without_a_model_to_ask_imports_no_heavy_library(checkout: Path) -> None:
    """`make why` answers in seconds, so what takes seconds to import must not come back."""
    code = (
        "from pathlib import Path; from flows.review import why; why.CODE = Path(sys.argv[1]); "
        f"assert why.main(['--profile', 'mine', '--item', {IDS[0]!r}]) == 0"
    )
    assert imported_by(code, checkout) == set()
    assert imported_by("import scipy") == {"scipy"}


def test_the_model_is_asked_without_scikit_learn_and_known_texts_without_it(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    """transformers imports scikit-learn, and SciPy with it, where it finds it."""
    code = (
        "from pathlib import Path; from flows.review.embedding import Embedder; "
        "model, adapter, cache = map(Path, sys.argv[1:]); "
        "embed = Embedder('tiny', lambda: model, cache, adapter); "
        "assert embed(['a pump', 'b']).shape[0] == 2; assert 'sklearn' not in sys.modules"
    )
    asked = (tiny_model, adapter, tmp_path / "vectors.npz")
    assert imported_by(code, *asked) == {"accelerate", "torch", "transformers"}
    assert imported_by(code, *asked) == set()


@pytest.mark.parametrize("kind", [{"lora_alpha": 6}, {"use_rslora": True}], ids=["plain", "other"])
def test_the_vectors_are_those_of_the_model_with_its_adapter(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]
) -> None:
    adapter = save_adapter(tiny_model, tmp_path / "adapter", **kind)
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    merged = merged_folder(str(tiny_model), "main", adapter, "none")
    texts = ["the pump failed", "why did the seal break?", "no"]

    def read(name: str, model: Path, adapter: Path | None = None) -> Any:
        return Embedder(name, lambda: model, tmp_path / f"{name}.npz", adapter)(texts)

    expected = read("merged", merged)
    # Where the processor has bfloat16, the merged weights are rounded to it once more.
    np.testing.assert_allclose(read("adapted", tiny_model, adapter), expected, atol=0.01)
    assert np.abs(read("plain", tiny_model) - expected).max() > 0.05


def test_vectors_are_kept_while_model_and_adapter_stay(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    """What else the training left beside the adapter does not matter, nor does our code."""
    values = parse_params(read_yaml(ROOT / "params.yaml"), "params.yaml")
    finetune = values.finetune.model_copy(update={"model": str(tiny_model), "revision": "main"})
    params = values.model_copy(update={"finetune": finetune})

    def name() -> str:
        return open_embedder(params, adapter, tmp_path / "vectors.npz").name

    before = name()
    (adapter / "summary.json").write_text("{}")
    assert name() == before
    save_adapter(tiny_model, adapter)
    assert name() != before


def test_vectors_do_not_depend_on_the_other_texts(tiny_model: Path, tmp_path: Path) -> None:
    """They are read by length and in batches: each text gets its own vector back."""
    texts = ["the pump failed " * (place % 7) + f"{place}" for place in range(20)]
    together = Embedder("tiny", lambda: tiny_model, tmp_path / "together.npz")(texts)
    alone = Embedder("tiny", lambda: tiny_model, tmp_path / "alone.npz")
    assert together is not None
    for place, text in enumerate(texts):
        vectors = alone([text])
        assert vectors is not None and float(vectors[0] @ together[place]) > 0.999


def test_the_makefile_hands_an_id_over_as_it_is(tmp_path: Path) -> None:
    env = {**os.environ, "ITEM": "$(touch stolen) `touch stolen`", "MAKEFLAGS": ""}
    command = ["make", "-n", "-f", str(ROOT / "Makefile"), "-o", "setup", "why"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert '--run="$RUN" --item="$ITEM"' in done.stdout and "stolen" not in done.stdout
