"""People's verdicts on rows that no generator wrote: counted, excluded, and shown in every place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.review.rows import draw, made_rows
from tasks.core.files import read_json, write_json
from tasks.core.parquet import read_table, write_table
from tasks.core.quality import RowQuality
from tasks.scoring.draw import SAMPLE
from tasks.scoring.intervals import wilson
from tasks.scoring.reviews import review_key
from tasks.supervise import stage as supervise
from tests.conftest import ROOT, instruction_table
from tests.supervise.test_constructed import passages

NONE = str(ROOT / "supervision/none")
OUT = Path("artifacts/supervise")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_params: Any) -> Any:
    """Return a function that runs the stage with verdicts and returns its exit status."""
    monkeypatch.chdir(tmp_path)
    write_table(Path("passages.parquet"), passages())
    write_table(Path("instructions.parquet"), instruction_table(6))

    def call(
        verdicts: dict[str, str],
        source: str = "constructed",
        items: str = str(ROOT / "data/incidents/evaluation.jsonl"),
        **verify: Any,
    ) -> int:
        lines = [
            {"row_id": key, "key": key, "task_type": "nli", "verdict": verdict, "reason": "read"}
            for key, verdict in verdicts.items()
        ]
        Path("reviews.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        params = make_params(
            supervise={"source": source, "rows": NONE},
            generate={"task_types": ["nli", "ynqa", "exqa"]},
            verify={"reviews": "reviews.jsonl", **verify},
        )
        inputs = [f"--{name}={name}.parquet" for name in ("passages", "instructions")]
        inputs += [f"--rows={NONE}", f"--items={items}"]
        return supervise.main(["--params", str(params), *inputs, "--out", str(OUT)])

    return call


def _rows(name: str = "instructions") -> list[dict[str, Any]]:
    return read_table(OUT / f"{name}.parquet").to_pylist()


def _key(row: dict[str, Any]) -> str:
    return review_key(row["instruction"], row["response"])


def _summary() -> dict[str, Any]:
    told: dict[str, Any] = read_json(OUT / "summary.json")
    return told


def test_what_make_review_draws_of_claims_has_a_share_with_its_interval_by_type(run: Any) -> None:
    assert run({}) == 0
    rows = _rows()
    assert _summary()["review"]["right"] is None
    drawn, _ = draw(made_rows(OUT), SAMPLE, 1)
    verdicts = {row["key"]: "wrong" if n % 10 == 0 else "right" for n, row in enumerate(drawn)}
    assert run(verdicts) == 0
    assert _rows() == rows, "nothing is excluded unless it is asked for"
    found = _summary()["review"]
    low, high = wilson(86, 96)
    shares = tuple(round(share, 4) for share in (86 / 96, low, high))
    assert (found["right"], found["right_low"], found["right_high"]) == shares
    assert (found["reviewed"], found["reviewed_of"]) == (96, 96) == (len(drawn), len(rows))
    kinds = found["by_task_type"]
    assert set(kinds) == {"nli", "ynqa"} == {row["task_type"] for row in rows}
    for kind, told in kinds.items():
        mine = [verdicts[row["key"]] for row in drawn if row["task_type"] == kind]
        low, high = wilson(mine.count("right"), len(mine))
        assert (told["reviewed"], told["right_low"]) == (len(mine), round(low, 4))
    part = dict(list(verdicts.items())[1:])
    assert run(part) == 0
    assert _summary()["review"]["right_low"] is None, "not all that is drawn is read"


def test_a_claim_that_was_found_wrong_is_kept_apart_and_stays_in_the_sample(run: Any) -> None:
    assert run({}) == 0
    rows = _rows()
    before = draw(made_rows(OUT), SAMPLE, 1)
    wrong = {_key(row): "wrong" for row in rows[:3]}
    assert run(wrong | {_key(rows[3]): "unclear"}, exclude_wrong=True) == 0
    assert _rows() == rows[3:]
    assert _rows("quarantine") == [row | {"reasons": ["wrong_by_review"]} for row in rows[:3]]
    told = _summary()
    assert told["dropped"]["wrong_by_review"] == 3 and told["rows_kept"] == len(rows) - 3
    assert (told["review"]["reviewed"], told["review"]["reviewed_of"]) == (4, len(rows))
    assert draw(made_rows(OUT), SAMPLE, 1) == before


def test_rows_of_a_generator_are_counted_by_verify_alone(run: Any) -> None:
    mine = {_key(row): "wrong" for row in instruction_table(6).to_pylist()}
    assert run(mine, "bonito", exclude_wrong=True) == 0
    assert "review" not in _summary() and not (OUT / "quarantine.parquet").exists()
    assert len(_rows()) == 6
    assert run(mine, "bonito+constructed", exclude_wrong=True) == 0
    rows = _rows()
    found = _summary()["review"]
    assert (found["reviewed"], found["reviewed_of"]) == (0, len(rows) - 6)
    assert run({_key(rows[-1]): "wrong"}, "bonito+constructed", exclude_wrong=True) == 0
    assert _rows() == rows[:-1] and _summary()["review"]["reviewed"] == 1


def test_raw_text_is_no_row_to_judge(run: Any) -> None:
    assert run({}, "constructed+tapt") == 0
    asked = [row for row in _rows() if row["instruction"]]
    assert _summary()["review"]["reviewed_of"] == len(asked) == len(list(made_rows(OUT)))
    assert len(asked) < len(_rows())


def test_where_all_rows_were_found_wrong_the_run_ends(run: Any, capsys: Any) -> None:
    assert run({}) == 0
    assert run({_key(row): "wrong" for row in _rows()}, exclude_wrong=True) == 2
    assert "people found all" in (told := capsys.readouterr().err) and "exclude_wrong" in told
    assert _summary()["rows_kept"], "the last output stays"


@pytest.mark.parametrize("generated", [0, 20])
def test_the_share_is_told_with_its_rows(generated: int, tmp_path: Path) -> None:
    names = ("right", "right_low", "right_high", "reviewed", "reviewed_of")
    kinds = {"nli": (0.9, 0.6, 1.0, 10, 12), "ynqa": (1.0, 0.7, 1.0, 10, 11)}
    made = dict(zip(names, (0.95, 0.8, 1.0, 20, 23), strict=True))
    made["by_task_type"] = {k: dict(zip(names, v, strict=True)) for k, v in kinds.items()}
    word = {"agreed": None, **dict.fromkeys(names), "reviewed": 0, "reviewed_of": generated}
    write_json(tmp_path / "metrics.json", {"yield": None})
    write_json(tmp_path / "summary.json", word)
    write_json(tmp_path / "supervise" / "summary.json", {"review": made})
    quality = RowQuality.read(tmp_path, tmp_path, tmp_path / "supervise")
    share = (
        "95 % (80 to 100; 20 of 23 kept rows read): nli 90 % (60 to 100; 10 of 12 kept rows read), "
        "ynqa 100 % (70 to 100; 10 of 11 kept rows read)"
    )
    assert quality.metrics() == {"rows_right_made" if generated else "rows_right": 0.95}
    if generated:
        share = f"not reviewed; of the rows that no generator wrote {share}"
    assert quality.describe().endswith(f", right by review {share}")
