"""The stage as a whole: Great Expectations is the real one, predictions are written here."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core import parquet
from tasks.core.files import read_json
from tasks.core.parquet import read_table, write_table
from tasks.core.rows import INSTRUCTIONS, PREDICTIONS, QUARANTINE
from tasks.core.sections.validate import Validate
from tasks.core.store import MANIFEST
from tasks.core.task_types import TASK_TYPES
from tasks.validate import judging
from tasks.validate import stage as validate
from tasks.validate.expectations import select_checks
from tests.conftest import EARLY, assert_pages_are_checked
from tests.pages import check_page

ROOT = Path(__file__).resolve().parents[2]
PASSAGE = "The Oak Street pump was replaced on 14 March 2021 by the night crew. Nobody was hurt."
EXQA = "{{context}}\n\nQuestion: When was the pump replaced?"
YNQA = "{{context}}\nQuestion: was the pump replaced in March\nAnswer yes or no"
NLI = (
    '{{context}} Based on that information, is the claim: "The old pump was kept" true, '
    "false, or inconclusive?"
)

GOOD = ("exqa", EXQA, "14 March 2021")
#: Expectation -> a row that fails it; the rows it passes are the good ones.
FAILING: dict[str, tuple[str, str, str]] = {
    "instruction_present": ("exqa", " . ", "14 March 2021"),
    "response_present": ("exqa", EXQA, "-"),
    "passage_in_instruction": ("exqa", "Question: When was the pump replaced?", "14 March 2021"),
    "instruction_length": ("exqa", EXQA + " Say" + " why" * 1500, "14 March 2021"),
    "response_length": ("qa", EXQA, " ".join(f"because{number}" for number in range(90))),
    "no_leftover_placeholder": ("exqa", EXQA + " {{title}}", "14 March 2021"),
    "no_control_tokens": ("exqa", EXQA + "<|im_end|>", "14 March 2021"),
    "no_broken_characters": ("exqa", EXQA + " caf\ufffd", "14 March 2021"),
    "no_repetition": ("exqa", EXQA + " was the pump replaced" * 6, "14 March 2021"),
    "question_present": (
        "exqa",
        "Answer the question.\nPassage: {{context}}\nQuestion:",
        "14 March 2021",
    ),
    "question_closed": (
        "ynqa",
        "{{context}}\nQuestion: When was the pump replaced?\nYes or no?",
        "Yes",
    ),
    "label_in_family": ("nli", NLI, "Maybe"),
    "verbatim_claim_entailed": (
        "nli",
        NLI.replace("The old pump was kept", PASSAGE.split(". ", maxsplit=1)[0]),
        "False",
    ),
    "answer_in_passage": ("exqa", EXQA, "15 March 2021"),
    "answer_not_in_question": (
        "exqa",
        "{{context}} Was it replaced by the night crew or the day crew?",
        "the night crew",
    ),
    "answer_not_question": ("qa", EXQA, "When was the pump replaced?"),
    "answer_not_passage": ("exqa", EXQA, PASSAGE),
    "unique": GOOD,
}


def predictions(path: Path, rows: Sequence[tuple[str, ...]]) -> Path:
    """Write rows of (task type, instruction, response[, context[, reason]]) as predictions; a
    reason makes a row unparsable.
    """
    table: list[dict[str, Any]] = []
    for number, (task_type, instruction, response, *more) in enumerate(rows):
        context, reason = [*more, *("", "")][:2]
        table.append(
            {
                "row_id": hashlib.sha256(f"row {number}".encode()).hexdigest()[:16],
                "passage_id": f"p{number}",
                "document": "report.md",
                "task_type": task_type,
                "sample": 0,
                "attempt": 0,
                "seed": number,
                "context": context or PASSAGE,
                "prediction": f"{instruction}\n<|pipe|>\n{response}",
                "parsed": not reason,
                "reason": reason,
                "instruction": "" if reason else instruction,
                "response": "" if reason else response,
                "prompt_tokens": 1,
                "output_tokens": 1,
                "generator": "g",
                "revision": "r",
                "temperature": 0.5,
                "top_p": 0.95,
                "max_tokens": 128,
            }
        )
    write_table(path, pa.Table.from_pylist(table, schema=PREDICTIONS))
    return path


@pytest.fixture
def run(tmp_path: Path, make_params: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the stage over rows with settings, and returns (exit status,
    output folder).
    """
    monkeypatch.chdir(tmp_path)

    def stage(
        rows: Sequence[tuple[str, ...]], name: str = "validate", **settings: Any
    ) -> tuple[int, Path]:
        given = predictions(tmp_path / "predictions.parquet", rows)
        params = make_params(validate={"min_yield": 0.0, "max_label_share": 1.0, **settings})
        out = tmp_path / "artifacts" / name
        return validate.main(
            ["--params", str(params), "--predictions", str(given), "--out", str(out)]
        ), out

    return stage


def quarantine(out: Path) -> list[dict[str, Any]]:
    """Return the quarantine's rows."""
    rows: list[dict[str, Any]] = read_table(out / "quarantine.parquet").to_pylist()
    return rows


def test_every_expectation_has_a_row_that_fails_it(run: Any, params: Any) -> None:
    assert list(FAILING) == [check.name for check in select_checks(params.validate)]


def test_every_expectation_passes_good_rows_and_fails_its_own(run: Any) -> None:
    good = [GOOD, ("ynqa", YNQA, "Yes."), ("nli", NLI, "False")]
    status, out = run([*good, *FAILING.values()])
    assert status == 0
    kept = read_table(out / "instructions.parquet")
    assert kept.schema.equals(INSTRUCTIONS)
    assert kept["passage_id"].to_pylist() == ["p0", "p1", "p2"]
    assert kept["instruction"][0].as_py() == EXQA.replace("{{context}}", PASSAGE)
    rows = quarantine(out)
    assert read_table(out / "quarantine.parquet").schema.equals(QUARANTINE)
    for name in ("instructions.parquet", "quarantine.parquet"):
        assert_pages_are_checked(out / name)
    for expectation, row in zip(FAILING, rows, strict=True):
        assert expectation in row["reasons"], (expectation, row["reasons"])
    alone = {
        "no_control_tokens",
        "label_in_family",
        "answer_in_passage",
        "answer_not_in_question",
        "unique",
        "response_length",
        "question_closed",
    }
    for expectation, row in zip(FAILING, rows, strict=True):
        assert expectation not in alone or row["reasons"] == [expectation]


def test_a_row_keeps_all_its_reasons_and_is_counted_under_the_first(run: Any) -> None:
    status, out = run([GOOD, ("exqa", "Question: When? {{title}}", "15 March")])
    assert status == 0
    assert quarantine(out)[0]["reasons"] == [
        "passage_in_instruction",
        "no_leftover_placeholder",
        "answer_in_passage",
    ]
    summary = read_json(out / "summary.json")
    assert read_json(out / "metrics.json") == {"yield": summary["yield"]}
    assert summary["dropped"] == {"passage_in_instruction": 1}
    assert summary["failures"]["answer_in_passage"] == 1
    assert (summary["rows_in"], summary["rows_kept"], summary["yield"]) == (2, 1, 0.5)
    assert summary["by_task_type"] == {
        "exqa": {"predictions": 2, "parsed": 2, "kept": 1, "yield": 0.5}
    }


@pytest.mark.parametrize(
    "skipped",
    [sorted(FAILING), sorted(FAILING)[::2], sorted(FAILING)[1::2]],
    ids=["all", "even", "odd"],
)
def test_skipped_expectations_drop_no_row(run: Any, skipped: list[str]) -> None:
    status, out = run([GOOD, *FAILING.values()], skip=skipped)
    assert status == 0
    assert {reason for row in quarantine(out) for reason in row["reasons"]} == set(FAILING) - set(
        skipped
    )
    assert not set(skipped) & set(read_json(out / "summary.json")["failures"])


def test_unparsable_predictions_keep_their_reason_and_their_text(run: Any) -> None:
    status, out = run(
        [
            GOOD,
            ("exqa", "no pipe here", "", PASSAGE, "no_pipe"),
            ("nli", "cut", "", PASSAGE, "truncated"),
        ]
    )
    assert status == 0
    rows = quarantine(out)
    assert [row["reasons"] for row in rows] == [["parsed:no_pipe"], ["parsed:truncated"]]
    assert rows[0]["instruction"].startswith("no pipe here")
    assert read_json(out / "summary.json")["dropped"] == {
        "parsed:no_pipe": 1,
        "parsed:truncated": 1,
    }


def test_placeholder_in_the_response_is_filled(run: Any) -> None:
    status, out = run([("text_gen", "Write an incident report about a pump.", "{{ context }}")])
    assert status == 0
    assert read_table(out / "instructions.parquet")["response"].to_pylist() == [PASSAGE]


def test_same_texts_of_two_task_types_are_kept_once_and_only_good_rows_count(run: Any) -> None:
    status, out = run(
        [
            ("exqa", EXQA, "in spring"),
            ("qa", EXQA, "in spring"),
            ("exqa", EXQA, "14 March 2021"),
            ("qa", EXQA, "14 March  2021"),
        ]
    )
    assert status == 0
    assert read_table(out / "instructions.parquet")["passage_id"].to_pylist() == ["p1", "p2"]
    assert [row["reasons"] for row in quarantine(out)] == [["answer_in_passage"], ["unique"]]


def test_copies_are_found_across_batches_and_chunks(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "GROUP", 2)
    monkeypatch.setattr(judging, "_BATCHES_A_CHUNK", 2)
    status, out = run(
        [
            GOOD,
            *(("nli", NLI.replace("old", f"old {number}"), "False") for number in range(9)),
            GOOD,
        ]
    )
    assert status == 0
    assert [(row["passage_id"], row["reasons"]) for row in quarantine(out)] == [("p10", ["unique"])]
    assert (out / "data_docs" / "index.html").exists()


def asked(number: int, response: str) -> tuple[str, str, str]:
    """Return a yes-no row of its own."""
    return ("ynqa", YNQA.replace("the pump", f"pump {number}"), response)


def test_labels_are_balanced_by_row_key_and_seed(run: Any) -> None:
    rows = [asked(number, "No." if number % 5 == 0 else "Yes") for number in range(50)]
    status, out = run(rows, max_label_share=0.6)
    assert status == 0
    kept = {
        row["row_id"]: row["response"]
        for row in read_table(out / "instructions.parquet").to_pylist()
    }
    assert Counter(kept.values()) == {"Yes": 15, "No.": 10}
    assert Counter(reason for row in quarantine(out) for reason in row["reasons"]) == {
        "label_balance": 25
    }
    summary = read_json(out / "summary.json")
    assert summary["dropped"] == {"label_balance": 25}
    assert summary["labels"] == {"ynqa": {"yes": 15, "no": 10}}
    other = {
        row["row_id"]
        for row in read_table(
            run(rows, "other", max_label_share=0.6, seed=2)[1] / "instructions.parquet"
        ).to_pylist()
    }
    assert other != set(kept)


def test_balance_can_be_skipped_and_a_single_label_stays(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [asked(number, "Yes" if number else "No") for number in range(8)]
    assert (
        read_json(run(rows, max_label_share=0.6, skip=["label_balance"])[1] / "summary.json")[
            "rows_kept"
        ]
        == 8
    )
    status, out = run(rows[1:], max_label_share=0.6)
    assert status == 0
    assert read_json(out / "summary.json")["rows_kept"] == 7
    assert "not in balance" in (out / "report.html").read_text(encoding="utf-8")


def test_labels_are_balanced_within_their_family(run: Any) -> None:
    """300 true and false with 40 yes are balanced over all, and teach yes."""
    closed = "{{{{context}}}} Pump {} failed. True or false?"
    rows = [
        ("ynqa", closed.format(number), "True" if number % 2 else "False") for number in range(30)
    ]
    rows += [asked(number, "Yes" if number < 12 else "No") for number in range(16)]
    status, out = run(rows, max_label_share=0.6)
    assert status == 0
    assert read_json(out / "summary.json")["labels"] == {
        "ynqa": {"false": 15, "true": 15, "yes": 6, "no": 4}
    }
    status, out = run(
        rows[:42], "one", max_label_share=0.6
    )  # only yes among the yes-no questions: better none of them
    assert read_json(out / "summary.json")["labels"] == {"ynqa": {"false": 15, "true": 15}}


def test_max_rows_is_a_seeded_choice_that_does_not_lower_the_yield(run: Any) -> None:
    rows = [asked(number, "Yes") for number in range(40)]
    status, out = run(rows, max_rows=10, min_yield=1.0)
    assert status == 0
    summary = read_json(out / "summary.json")
    assert (summary["rows_kept"], summary["dropped"], summary["yield"]) == (
        10,
        {"max_rows": 30},
        1.0,
    )
    chosen = read_table(out / "instructions.parquet")["row_id"].to_pylist()
    shuffled = read_table(run(rows, "again", max_rows=10)[1] / "instructions.parquet")[
        "row_id"
    ].to_pylist()
    assert (
        chosen
        == shuffled
        != read_table(run(rows, "seed", max_rows=10, seed=7)[1] / "instructions.parquet")[
            "row_id"
        ].to_pylist()
    )


def test_a_yield_under_the_floor_is_one_line_that_names_the_quarantine(
    run: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out = run([GOOD, *(("exqa", EXQA, f"{day} May") for day in range(1, 4))], min_yield=0.5)
    assert status == 2
    assert not out.exists()
    line = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(line) == 1
    for part in (
        "25.0%",
        "4 predictions",
        "50.0%",
        "answer_in_passage (3 rows)",
        ".work/validate/quarantine.parquet",
    ):
        assert part in line[0]
    left = Path(".work/validate")
    assert len(pq.read_table(left / "quarantine.parquet")) == 3
    assert "answer_in_passage" in (left / "report.html").read_text(encoding="utf-8")
    assert run([GOOD], min_yield=0.5)[0] == 0
    assert not (left / "quarantine.parquet").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: predictions(path, []), "holds no predictions"),
        (lambda path: path.write_text("no parquet"), "cannot be read as Parquet"),
        (lambda path: write_table(path, pa.table({"row_id": ["a"]})), "lacks the column"),
        (
            lambda path: predictions(path, [("nlii", NLI, "True")]),
            "unknown task type 'nlii' (did you mean 'nli'? known: exqa,",
        ),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    make_params: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    spoil: Any,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil(tmp_path / "p.parquet")
    assert (
        validate.main(
            ["--params", str(make_params()), "--predictions", "p.parquet", "--out", "out"]
        )
        == 2
    )
    assert message in capfd.readouterr().err
    assert not Path("out").exists()


def test_an_unknown_name_in_skip_suggests_the_right_one(
    run: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([GOOD], skip=["answer_in_pasage"])[0] == 2
    assert "did you mean 'answer_in_passage'?" in capfd.readouterr().err


def test_each_task_type_has_the_general_expectations(params: Any) -> None:
    every = select_checks(params.validate)
    for name in TASK_TYPES:
        assert sum(check.is_for(name) for check in every) >= 10
    assert {check.column for check in every if check.of_types and check.is_for("exqa")} == {
        "question_present",
        "answer_in_passage",
        "answer_in_question",
        "passage_share",
    }


def test_the_report_escapes_what_the_generator_wrote_and_needs_no_network(run: Any) -> None:
    evil = "<script>alert(1)</script>"
    status, out = run(
        [
            ("exqa", f"{{{{context}}}}\n{evil} When was it?", "14 March"),
            ("exqa", f"{evil} When?", evil),
            ("qa", evil, evil, evil, "no_pipe"),
        ]
    )
    assert status == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "data_docs/index.html" in page
    for path in (out / "report.html", *(out / "data_docs").rglob("*.html")):
        check_page(path.read_text(encoding="utf-8"))
    assert not [part for part in ("http://", "https://", "src=", "@import", "url(") if part in page]
    assert all(
        evil not in docs.read_text(encoding="utf-8") for docs in (out / "data_docs").rglob("*.html")
    )


def test_data_docs_show_the_suites_and_fetch_and_run_nothing(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    status, out = run([GOOD, ("exqa", EXQA, "never"), asked(1, "Yes")])
    assert status == 0
    # What Great Expectations cannot render it leaves out, and logs.
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    pages = {
        page.name: page.read_text(encoding="utf-8")
        for page in (out / "data_docs" / "expectations").glob("*.html")
    }
    assert set(pages) == {"instructions.html", "label_balance.html"}
    assert "the response is in the passage, word for word (only exqa)" in pages["instructions.html"]
    assert "ynqa: no label makes up more than" in pages["label_balance.html"]
    results = "".join(
        page.read_text(encoding="utf-8")
        for page in (out / "data_docs" / "validations").rglob("*.html")
    )
    assert quarantine(out)[0]["row_id"] in results
    for page in (out / "data_docs").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "default-src 'none'" in text and "<script" not in text, page
        assert not re.findall(r"<(?:link|img|iframe)[^>]*https?://", text), page
    first = out / "data_docs" / "index.html"
    links = re.findall(r'href="([^"]+)"', first.read_text(encoding="utf-8"))
    own = [link for link in links if not link.startswith("../../")]
    assert len(own) >= 2 and all((first.parent / link).is_file() for link in own)
    assert [link for link in links if link not in own] == [
        f"../../{stage}/report.html" for stage in ("ingest", "validate", "verify", "evaluate")
    ]


_SCRIPT = """
import sys
from tasks.core import parquet
from tasks.validate import judging, stage as validate
parquet.GROUP, judging._BATCHES_A_CHUNK = 8, 3
sys.exit(validate.main(sys.argv[1:]))
"""


def test_same_bytes_in_any_environment(
    tmp_path: Path, make_params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process and in one with another seed of hashes, time zone and locale."""
    rows = [
        GOOD,
        *FAILING.values(),
        *(asked(number, "Yes" if number % 4 else "No") for number in range(40)),
    ]
    given = predictions(tmp_path / "p.parquet", rows)
    params = make_params(validate={"min_yield": 0.0, "max_label_share": 0.6, "max_rows": 12})
    arguments = ["--params", str(params), "--predictions", str(given), "--out", "out"]
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(parquet, "GROUP", 8)
    monkeypatch.setattr(judging, "_BATCHES_A_CHUNK", 1)
    assert validate.main(arguments) == 0
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), EARLY]),
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C",
    }
    command = [sys.executable, "-c", _SCRIPT, *arguments]
    done = subprocess.run(
        command, cwd=there, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # Great Expectations has a page a chunk: how many rows one holds is the code's, not the
    # environment's, and differs here on purpose.
    digests = [
        {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (folder / "out").iterdir()
            if path.is_file() and path.name != MANIFEST
        }
        for folder in (here, there)
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 5


@pytest.mark.parametrize("seed", range(2))
def test_kept_and_quarantined_rows_are_the_rows_in(run: Any, seed: int) -> None:
    import random

    draw = random.Random(seed)
    pool = [
        GOOD,
        *FAILING.values(),
        ("nli", "x", "", PASSAGE, "no_pipe"),
        *(asked(number, draw.choice(["Yes", "no", "Maybe"])) for number in range(30)),
    ]
    rows = [draw.choice(pool) for _ in range(120)]
    rows = [(draw.choice([*TASK_TYPES]), *row[1:]) if draw.random() < 0.3 else row for row in rows]
    status, out = run(
        rows,
        max_label_share=draw.choice([0.4, 0.7, 1.0]),
        max_rows=draw.choice([0, 5, 50]),
        seed=seed,
    )
    assert status == 0
    ids = read_table(given := out.parents[1] / "predictions.parquet", ["row_id"])[
        "row_id"
    ].to_pylist()
    kept, bad = read_table(out / "instructions.parquet")["row_id"].to_pylist(), quarantine(out)
    assert sorted([*kept, *(row["row_id"] for row in bad)]) == sorted(ids), given
    assert kept == [row_id for row_id in ids if row_id in set(kept)]
    assert all(row["reasons"] for row in bad)
    texts = [
        (row["instruction"], row["response"])
        for row in read_table(out / "instructions.parquet").to_pylist()
    ]
    assert len(set(texts)) == len(texts)
    summary = read_json(out / "summary.json")
    assert summary["dropped"] == dict(Counter(row["reasons"][0] for row in bad))


def test_limits_come_from_params() -> None:
    given = {
        "min_yield": 0.0,
        "max_label_share": 1.0,
        "max_rows": 0,
        "seed": 1,
        "max_instruction_chars": 7,
        "max_response_chars": 5,
    }
    params = Validate.model_validate(given)
    limits = {check.name: check.high for check in select_checks(params)}
    assert (limits["instruction_length"], limits["response_length"]) == (7, 5)


def test_what_no_suite_uses_is_imported_when_it_is_used() -> None:
    """Great Expectations imports plots and statistics at its start; they still work for who asks
    for them.
    """
    asked = (
        "import sys; from pathlib import Path; from tasks.validate.suites import "
        "Suites; Suites((), Path('docs')); print(sorted({'altair', 'google.auth', "
        "'jsonschema', 'scipy.stats', 'sqlalchemy'} & set(sys.modules))); "
        "from great_expectations.expectations.core import "
        "expect_column_kl_divergence_to_be_less_than as module; "
        "print(module.stats.entropy([1.0]), module.alt.Chart.__name__); "
        "import google.auth, jsonschema, sqlalchemy; "
        "import scipy.stats, altair; print(sys.modules['scipy.stats'] is scipy.stats, "
        "scipy.stats.norm.name, altair.Chart is module.alt.Chart)"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines() == ["[]", "0.0 Chart", "True norm True"]
