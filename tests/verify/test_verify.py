"""Stage verify: what a reader disagrees with is not kept, nothing is lost, and work resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.files import read_json, sha256_file
from tasks.core.parquet import read_table, write_table
from tasks.core.rows import INSTRUCTIONS, PASSAGES
from tasks.lm.engine import Completion
from tasks.scoring.reviews import review_key
from tasks.verify import reader
from tasks.verify.guard import construct_tests
from tasks.verify.judging import Decision
from tasks.verify.report import Tally
from tasks.verify.rows import Row
from tasks.verify.testing import check_type
from tests.conftest import passage_table
from tests.supervise.test_constructed import passages
from tests.verify.conftest import COUNT, RuleReader, make_row


def _made(out: str = "artifacts/verify") -> tuple[list[dict[str, Any]], list[dict[str, Any]], Any]:
    folder = Path(out)
    return (
        read_table(folder / "instructions.parquet").to_pylist(),
        read_table(folder / "quarantine.parquet").to_pylist(),
        read_json(folder / "summary.json"),
    )


def test_rows_that_the_reader_disagrees_with_are_kept_apart_with_both_answers(run: Any) -> None:
    assert run() == 0
    kept, dropped, summary = _made()
    assert len(kept) == 24 and {row["agreement"] for row in kept} == {1.0}
    assert [row["reasons"] for row in dropped] == [["reader_disagrees"]] * 6
    assert (dropped[1]["response"], dropped[1]["answer"]) == ("seal-5", "noon")
    assert summary["dropped"] == {"reader_disagrees": 6} and summary["agreed"] == 0.8
    assert read_json(Path("artifacts/verify/metrics.json")) == {"agreed": 0.8, "right": None}
    page = Path("artifacts/verify/report.html").read_text()
    assert "Agreed by the reader" in page and "80.0 %" in page and "reader_disagrees" in page
    assert "<dt>reader</dt>" in page, "facts have small letters, as on the other pages"


@pytest.mark.parametrize(("source", "name"), [("bonito", "none"), ("tapt", "")])
def test_without_a_reader_all_rows_pass_unjudged(run: Any, source: str, name: str) -> None:
    assert run(source=source, **({"reader": name} if name else {})) == 0
    kept, dropped, summary = _made()
    assert len(kept) == COUNT and not dropped and {row["agreement"] for row in kept} == {None}
    assert summary["agreed"] is None and not run.made
    assert "not judged" in Path("artifacts/verify/report.html").read_text()


def test_a_reader_that_is_no_better_than_chance_judges_nothing(
    run: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RuleReader, "answer", lambda *_: Completion("noon", 1, True))
    assert run() == 0
    kept, _, summary = _made()
    assert len(kept) == COUNT and {row["agreement"] for row in kept} == {None}
    assert "exqa is not judged" in capsys.readouterr().err
    assert not summary["reader"]["exqa"]["passed"]
    assert "does not beat chance" in Path("artifacts/verify/report.html").read_text()


def test_a_killed_run_keeps_its_shards_and_gives_the_same_bytes(run: Any) -> None:
    assert run(out="whole") == 0
    whole = run.made[0].calls
    shutil.rmtree(".work")
    run.die_after = 2
    with pytest.raises(KeyboardInterrupt):
        run()
    run.die_after = None
    assert run() == 0
    assert run.made[2].calls == whole - 2 > 0
    for name in ("instructions.parquet", "quarantine.parquet", "summary.json", "report.html"):
        assert sha256_file(Path("whole") / name) == sha256_file(Path("artifacts/verify") / name)
    assert run(min_agreement=0.4) == 0
    assert len(run.made) == 3, "another threshold asks nothing again"


def test_the_meter_counts_rows_and_has_the_tests_beside_them(run: Any, capsys: Any) -> None:
    people = [make_row(number) | {"row_id": f"people-{number}"} for number in range(100, 125)]
    write_table(Path("people.parquet"), pa.Table.from_pylist(people, schema=INSTRUCTIONS))
    run.die_after = 2
    with pytest.raises(KeyboardInterrupt):
        run(tests="people.parquet")
    told = read_json(Path(".work/verify/progress.json"))
    assert (told["done"], told["total"], told["unit"]) == (0, COUNT, "rows")
    asked, of = map(int, told["tests"].split("/"))
    assert 0 < asked < of == 25
    run.die_after = None
    assert run(tests="people.parquet") == 0
    last = [line for line in capsys.readouterr().err.splitlines() if " rows  " in line][-1]
    assert f"{COUNT}/{COUNT} rows  " in last and last.endswith("  tests 25/25")
    reused = read_json(Path(".work/verify/reused.json"))
    assert reused == {"reused": 0, "again": COUNT, "unit": "rows"}


def test_after_a_change_only_the_rows_of_the_changed_document_are_asked(run: Any) -> None:
    rows = [make_row(number) | {"document": f"{number // 3}.md"} for number in range(30)]
    assert run(rows, out="first") == 0
    assert run(rows[:15] + rows[18:], out="second") == 0, "one document less"
    assert len(run.made) == 1, "nothing is asked again"
    shards = {path.name for path in Path(".work/verify/journal").rglob("*.parquet")}
    other = {"row_id": "exqa-new", "instruction": f"{rows[0]['instruction']} Say it."}
    changed = [rows[0] | other, *rows[1:15], *rows[18:]]
    assert run(changed, out="third") == 0
    assert run.made[1].calls == 1
    now = {path.name for path in Path(".work/verify/journal").rglob("*.parquet")}
    assert len(now - shards) == len(shards - now) == 1, "what is not asked any more is removed"


def test_a_moved_passage_is_not_asked_about_again(run: Any) -> None:
    """Its rows have other ids, as these name its place. Nor is one of the same text asked twice."""
    rows = [make_row(number) | {"document": f"{number // 6}.md"} for number in range(30)]
    assert run(rows, out="first") == 0
    moved = [
        row | {"row_id": f"{name}-{number}", "document": f"{name}/{row['document']}"}
        for name, some in (("moved", rows), ("copy", rows[:12]))
        for number, row in enumerate(some)
    ]
    assert run(moved, out="second") == 0
    assert len(run.made) == 1, "nothing is asked again"
    first, second = (
        {
            row["row_id"]: (row["agreement"], row["answer"])
            for made in _made(out)[:2]
            for row in made
        }
        for out in ("first", "second")
    )
    assert len(second) == 42
    for name, said in second.items():
        assert said == first[f"exqa-{int(name.partition('-')[2]):03d}"]
    assert run(rows, out="first") == 0 and run(moved[30:], out="third") == 0
    shutil.rmtree(".work")
    assert run(moved, out="fourth") == 0, "from nothing"
    for file in ("instructions.parquet", "quarantine.parquet"):
        assert sha256_file(Path("second", file)) == sha256_file(Path("fourth", file))


def test_of_the_tests_made_by_rules_only_those_of_changed_passages_are_asked_again(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims are made against the other passages, so a changed corpus moves a few more of them."""
    asked: list[str] = []

    def rank(_model: Any, _prompter: Any, shard: Sequence[reader.ReaderQuestion]) -> pa.Table:
        asked.extend(row.instruction for row in shard)
        return _ranked(shard, {})

    monkeypatch.setattr(reader, "_rank", rank)
    rows = [make_row(number, "ynqa", "Yes" if number % 3 else "No") for number in range(COUNT)]
    corpus = passages().to_pylist()
    assert run(rows, corpus=passages()) == 0
    own = {row["instruction"] for row in rows}
    first = [text for text in asked if text not in own]
    place = next(n for n, row in enumerate(corpus) if row["text"] in first[0])
    moved = [*corpus[:place], corpus[place] | {"passage_id": "moved"}, *corpus[place + 1 :]]
    for changed in (moved, corpus[:place] + corpus[place + 1 :]):
        asked.clear()
        assert run(rows, corpus=pa.Table.from_pylist(changed, schema=PASSAGES)) == 0
        assert len(first) > 30 and len(asked) < len(first) / 5 and not own & {*asked}


def test_going_back_to_earlier_rows_asks_nothing_while_their_passages_are_there(run: Any) -> None:
    rows = [make_row(number) for number in range(COUNT)]
    texts = passage_table(COUNT).to_pylist()
    for row, passage in zip(rows, texts, strict=True):
        passage["text"] = row["context"]
    others = [row | {"instruction": f"{row['instruction']} Say it."} for row in rows]
    for number, asked in enumerate((rows, others, rows), start=1):
        assert run(asked, corpus=pa.Table.from_pylist(texts, schema=PASSAGES)) == 0
        assert len(run.made) == min(number, 2), "the earlier rows are asked again"
    less = pa.Table.from_pylist(texts[1:], schema=PASSAGES)
    assert run(others[1:], corpus=less) == 0
    assert run(rows, corpus=less) == 0
    assert run.made[-1].calls == 1, "the shard that held a text that is gone"


@pytest.mark.parametrize("settings", [{"reader": "none"}, {"source": "tapt"}])
def test_a_run_without_a_reader_keeps_no_answers_about_a_removed_document(
    run: Any, settings: dict[str, str]
) -> None:
    rows = [make_row(number) | {"document": f"{number // 3}.md"} for number in range(30)]
    texts = passage_table(30).to_pylist()
    for row, passage in zip(rows, texts, strict=True):
        passage["text"] = row["context"]
    assert run(rows, corpus=pa.Table.from_pylist(texts, schema=PASSAGES)) == 0
    less = pa.Table.from_pylist(texts[3:], schema=PASSAGES)
    assert run(rows[3:], corpus=less, **settings) == 0
    kept = [read_table(path) for path in Path(".work/verify/journal").rglob("*.parquet")]
    assert sum(map(len, kept)) == 27
    assert run(rows[3:], corpus=less) == 0
    assert len(run.made) == 1, "the others are not asked again"


@pytest.mark.parametrize(
    ("reasons", "agreed"),
    [
        ([], 1.0),
        (["question_not_about_answer"], 1.0),
        (["not_best_of_passage"], 1.0),
        (["reader_disagrees"], 0.0),
    ],
)
def test_a_confirmed_row_counts_as_agreed_whatever_else_drops_it(
    reasons: list[str], agreed: float
) -> None:
    values, tally = make_row(1), Tally()
    row = Row(values, False, "", "answers", (), 0)
    tally.count(row, Decision(values["response"], 1.0, reasons=reasons), values)
    assert tally.agreed == agreed


def test_quarantined_rows_take_the_readers_answer_where_it_is_a_response(run: Any) -> None:
    wrong = [
        make_row(31) | {"response": "seal-30", "reasons": ["answer_in_passage"]},
        make_row(35) | {"response": "seal-30", "reasons": ["answer_in_passage"]},
        make_row(36) | {"response": "seal-36", "reasons": ["question_present"]},
        make_row(1) | {"row_id": "again", "response": "oil", "reasons": ["answer_in_passage"]},
    ]
    assert run(quarantine=wrong, repair="answer", min_grounding=0.0) == 0
    kept, _, summary = _made()
    assert [(row["response"], row["origin"]) for row in kept if row["row_id"] == "exqa-031"] == [
        ("seal-31", "repaired")
    ]
    assert summary["rows_in"] == COUNT + 3, "a bad question cannot be mended"
    assert summary["dropped"]["duplicate"] == 1
    counts = summary["by_task_type"]["exqa"]
    assert (counts["repaired"], counts["from_quarantine"], counts["judged"]) == (2, 3, COUNT)
    assert summary["agreed"] == 0.8, "repaired rows do not count as agreed"


def test_a_response_that_nearly_stands_in_the_passage_becomes_its_span(run: Any) -> None:
    nearly = make_row(31) | {"response": "the pump P-31 failed", "reasons": ["answer_in_passage"]}
    seal = {"context": "The long seal of P-31 broke because seal-31 seal ring wore out."}
    spoken = make_row(31) | seal | {"instruction": f"{seal['context']}\n\nWhat broke?"}
    spoken |= {"response": "seal-31 ring", "reasons": ["answer_in_passage"]}
    assert run(quarantine=[nearly, spoken], repair="span", min_grounding=0.0) == 0
    kept, dropped, summary = _made()
    assert [row["response"] for row in kept if row["origin"] == "repaired"] == ["seal-31 seal ring"]
    assert [row["reasons"] for row in dropped if row["row_id"] == "exqa-031"] == [["not_repaired"]]
    assert summary["rows_in"] == COUNT + 2


def test_rows_that_the_generator_was_least_sure_of_are_not_asked(run: Any) -> None:
    rows = [make_row(number) for number in range(COUNT)]
    sure = {row["row_id"]: -float(number % 10) for number, row in enumerate(rows)}
    sure[rows[29]["row_id"]] = None
    assert run(rows, confidences=sure, confident_share=0.5) == 0
    kept, dropped, summary = _made()
    assert summary["dropped"]["generator_unsure"] == 14, "the half of 29, and one is not known"
    unsure = {row["row_id"] for row in dropped if row["reasons"] == ["generator_unsure"]}
    least = min(sure[row["row_id"]] or 0.0 for row in kept)
    assert all(
        sure[row_id] <= least and row["confidence"] == sure[row["row_id"]]
        for row in kept
        for row_id in unsure
    )
    assert summary["reader"]["exqa"]["rows"] == COUNT - 14, "they were asked"
    assert run(rows, confidences=sure, confident_share=0.5, reader="none", out="unread") == 0
    kept, dropped, summary = _made("unread")
    assert len(kept) == COUNT and not dropped, "without a reader all rows pass"
    assert summary["dropped"] == {} and {row["confidence"] for row in kept} == {*sure.values()}


def test_rows_to_repair_are_asked_where_the_generator_was_sure_enough(run: Any) -> None:
    rows = [make_row(number) for number in range(COUNT)]
    wrong = [
        make_row(number) | {"response": "oil", "reasons": ["answer_in_passage"]}
        for number in (31, 32)
    ]
    sure = {row["row_id"]: -float(number % 10) for number, row in enumerate(rows)}
    sure |= {wrong[0]["row_id"]: -0.5, wrong[1]["row_id"]: -9.5}
    asked = {"repair": "answer", "min_grounding": 0.0, "confident_share": 0.8}
    assert run(rows, quarantine=wrong, confidences=sure, **asked) == 0
    kept, dropped, summary = _made()
    repaired = [(row["row_id"], row["confidence"]) for row in kept if row["origin"] == "repaired"]
    assert repaired == [("exqa-031", -0.5)]
    (unsure,) = [row for row in dropped if row["row_id"] == "exqa-032"]
    assert (unsure["reasons"], unsure["answer"]) == (["generator_unsure"], "")
    assert summary["reader"]["exqa"]["rows"] == 24, "they take no place of a row that is kept"


def test_all_rows_may_be_in_quarantine(run: Any, capsys: Any) -> None:
    wrong = [
        make_row(number) | {"response": "oil", "reasons": ["answer_in_passage"]}
        for number in (1, 2, 3)
    ]
    assert run([], quarantine=wrong, repair="answer") == 2
    assert "none of 3 rows is kept ({'not_repaired': 3})" in capsys.readouterr().err


def test_label_rows_are_judged_only_by_a_reader_that_knows_claims(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader ranks the right label first, then the same one always."""
    rows = [make_row(number, "ynqa", "Yes" if number % 3 else "No") for number in range(COUNT)]
    claims = {
        row["instruction"]: row["response"]
        for row in construct_tests([passages()], ["ynqa"], 120, 1)
    }
    right = claims | {row["instruction"]: "No" for row in rows[::2]}
    monkeypatch.setattr(reader, "_rank", lambda *asked: _ranked(asked[2], right))
    assert run(rows, corpus=passages()) == 0
    kept, dropped, summary = _made()
    test = summary["reader"]["ynqa"]
    assert (test["source"], test["passed"]) == ("rows made by rules", True)
    agreed = {number for number in range(COUNT) if bool(number % 3) == bool(number % 2)}
    assert {row["row_id"] for row in kept} == {f"ynqa-{number:03d}" for number in agreed}
    assert len(dropped) == COUNT - len(agreed)
    assert {(row["response"], row["answer"]) for row in dropped} == {("Yes", "No"), ("No", "Yes")}
    monkeypatch.setattr(reader, "_rank", lambda *asked: _ranked(asked[2], {}))
    assert run(rows, seed=2, corpus=passages()) == 0
    kept, _, summary = _made()
    assert len(kept) == COUNT and not summary["reader"]["ynqa"]["passed"]
    assert summary["agreed"] is None


def test_a_full_stop_behind_a_label_makes_it_no_other_label() -> None:
    pairs: list[Any] = [
        (
            Row(
                make_row(number, "ynqa", "Yes." if number % 2 else "no"),
                False,
                "",
                "labels",
                ("Yes", "No"),
            ),
            {"scores": [0.0, -9.0] if number % 2 else [-9.0, 0.0]},
        )
        for number in range(COUNT)
    ]
    test = check_type([(replace(row, source="people"), told) for row, told in pairs], 1)
    assert (test.right, test.chance) == (COUNT, 0.5)


def _ranked(shard: Sequence[reader.ReaderQuestion], right: dict[str, str]) -> pa.Table:
    """Give the right label of a known instruction, else the first choice, nearly all weight."""
    rows = [
        {
            "answers": [],
            "scores": [
                0.0
                if choice.lower() == right.get(row.instruction, row.choices[0]).lower()
                else -9.0
                for choice in row.choices
            ],
        }
        for row in shard
    ]
    return pa.Table.from_pylist(rows, schema=reader.ANSWERED)


def test_types_without_an_answer_pass_and_are_not_read(run: Any) -> None:
    rows = [make_row(number, "summarization", "A pump failed.") for number in range(3)]
    assert run(rows) == 0
    kept, _, summary = _made()
    assert len(kept) == 3 and summary["reader"] == {} and not run.made


def test_a_real_model_reads_and_ranks(run: Any, tiny_model: Path) -> None:
    """The random model's word is worth nothing, which the test of the reader finds out."""
    run.fake = False
    rows = [make_row(number) for number in range(24)]
    rows += [make_row(number, "ynqa", "Yes" if number % 2 else "No") for number in range(24)]
    assert run(rows, corpus=passages(), engine="transformers", max_tokens=4, test_rows=24) == 0
    _, _, summary = _made()
    assert summary["rows_kept"] == 48 and summary["reader"].keys() == {"exqa", "ynqa"}


@contextmanager
def _served(answer: Callable[[int], str]) -> Iterator[str]:
    """Serve a reader that knows a passage's number; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][0]["content"]
            told = answer(int(text.split("because seal-")[1].split()[0]))
            choice = {"message": {"content": told}, "finish_reason": "stop"}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [choice]}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_reader_behind_an_address_is_asked_for_text(run: Any) -> None:
    with _served(lambda number: f"seal-{number}") as address:
        assert run(reader="some-7b", address=address) == 0
    assert _made()[2]["agreed"] == 1.0


def test_prose_of_a_reader_behind_an_address_is_no_label(run: Any) -> None:
    """Every fifth answer is prose, every seventh the other label, the others begin with theirs."""

    def told(number: int) -> str:
        if number % 5 == 0:
            return "It failed because of its seal."
        return "Yes." if bool(number % 2) != (number % 7 == 0) else "No, it did not."

    rows = [make_row(number, "ynqa", "Yes" if number % 2 else "No") for number in range(COUNT)]
    rows.append(make_row(30, "ynqa", "Perhaps so"))
    with _served(told) as address:
        assert run(rows, reader="some-7b", address=address, adopt=True) == 0
    kept, dropped, summary = _made()
    assert {row["response"] for row in kept[:-1]} == {"Yes", "No"}
    adopted = [(row["row_id"], row["response"]) for row in kept if row["origin"] == "adopted"]
    assert adopted == [
        *(("ynqa-007", "No"), ("ynqa-014", "Yes"), ("ynqa-021", "No"), ("ynqa-028", "Yes"))
    ]
    assert [(row["row_id"], row["answer"]) for row in dropped] == [
        (f"ynqa-{number:03d}", "") for number in range(0, COUNT, 5)
    ]
    assert (kept[-1]["response"], kept[-1]["agreement"]) == ("Perhaps so", None), "not asked"
    assert summary["reader"]["ynqa"]["right"] == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reader": "./nothing-here"}, "verify.reader: model './nothing-here' is neither"),
        ({"address": "http://127.0.0.1:1/v1"}, "no usable chat completion"),
        ({"address": "http://127.0.0.1:1/v1", "workers": 2}, "set one of the two"),
        ({"tests": "absent.parquet"}, "absent.parquet does not exist"),
        ({"tests": "rows.parquet", "reader": "./x"}, "verify.reader"),
        ({"tests": "broken.parquet"}, "verify.tests: broken.parquet cannot be read"),
        ({"tests": "short.parquet"}, "verify.tests: short.parquet has no column 'task_type'"),
        ({"min_agreement": 1.5}, "verify.min_agreement"),
    ],
)
def test_bad_input_is_one_line(
    run: Any, capsys: Any, tmp_path: Path, settings: Any, message: str
) -> None:
    (tmp_path / "broken.parquet").write_text("no")
    write_table(tmp_path / "short.parquet", pa.table({"row_id": ["a"]}))
    assert run(**settings) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not Path("artifacts/verify").exists()


def test_when_nothing_is_kept_the_run_ends_and_says_where_to_look(run: Any, capsys: Any) -> None:
    rows = [make_row(number) for number in range(COUNT)]
    for row in rows:
        row["instruction"] = f"{row['context']}\n\nWhich pipe leaked?"
    assert run(rows, min_grounding=1.0) == 2
    error = capsys.readouterr().err
    assert "none of 30 rows is kept" in error and "question_not_about_answer': 24" in error
    assert not Path("artifacts/verify").exists()


def test_the_best_rows_of_a_passage_and_type_are_kept(run: Any) -> None:
    twice = [
        make_row(number) | {"row_id": f"{turn}-{number}"}
        for number in range(25)
        for turn in range(2)
    ]
    assert run(twice, keep_per_passage=1) == 0
    kept, _, summary = _made()
    assert [row["row_id"][:2] for row in kept] == ["0-"] * 20
    assert summary["dropped"] == {"not_best_of_passage": 20, "reader_disagrees": 10}


def _verdict(row: dict[str, Any], verdict: str) -> dict[str, str]:
    key = review_key(row["instruction"], row["response"])
    return {
        **{"row_id": row["row_id"], "key": key, "task_type": row["task_type"]},
        **{"verdict": verdict, "reason": "read"},
    }


def test_peoples_verdicts_on_kept_rows_are_counted_apart(run: Any, capsys: Any) -> None:
    verdicts = [_verdict(make_row(number), "right") for number in range(1, 5)]
    verdicts += [_verdict(make_row(6), "wrong"), _verdict(make_row(7), "unclear")]
    verdicts += [_verdict(make_row(0), "right"), _verdict(make_row(99), "right")]
    Path("reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verdicts))
    assert run(reviews="reviews.jsonl") == 0
    found = _made()[2]
    assert (found["right"], found["reviewed"], found["reviewed_of"]) == (round(4 / 6, 4), 6, 24)
    assert found["right_low"] is None and found["right_high"] is None
    assert "2 of 8 reviewed rows are not kept in this run" in capsys.readouterr().err
    page = Path("artifacts/verify/report.html").read_text()
    assert '<b class="">67 %</b>' in page and "6 of 24 kept rows read, no sample of them" in page
    verdicts += [_verdict(make_row(number), "right") for number in range(8, COUNT)]
    Path("reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verdicts))
    assert run(reviews="reviews.jsonl") == 0
    found = _made()[2]
    assert (found["right"], found["reviewed"]) == (round(22 / 24, 4), 24)
    assert (found["right_low"], found["right_high"]) == (0.7415, 0.9768)
    (figures,) = found["review_by_task_type"].values()
    assert figures == {name: found[name] for name in figures}
    page = Path("artifacts/verify/report.html").read_text()
    assert "Right by review: 92 % (74 to 98; 24 of 24 kept rows read)." in page


def test_a_row_that_a_person_found_wrong_takes_no_other_ones_place(run: Any) -> None:
    """Of three rows a passage the best was found wrong: the next one stays, the last is too many.
    "agreed" is as without the verdicts, and all rows that had or have a place can be reviewed.
    """
    rows = [
        make_row(number) | {"row_id": f"{turn}-{number}", "response": f"seal-{number}" + " " * turn}
        for number in (1, 2, 3, 4, 6, 7, 8, 9)
        for turn in range(3)
    ]
    verdicts = [_verdict(row, "wrong") for row in rows if row["row_id"] in ("0-1", "0-2", "2-3")]
    Path("reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verdicts))
    assert run(rows, keep_per_passage=1, reviews="reviews.jsonl") == 0
    assert [row["row_id"] for row in _made()[0]] == [f"0-{number}" for number in "12346789"]
    before = _made()[2]
    assert (before["right"], before["reviewed"], before["reviewed_of"]) == (0.0, 2, 8)
    assert run(rows, keep_per_passage=1, reviews="reviews.jsonl", exclude_wrong=True) == 0
    kept, dropped, summary = _made()
    assert [row["row_id"] for row in kept][:3] == ["1-1", "1-2", "0-3"] and len(kept) == 8
    reasons = {row["row_id"]: row["reasons"] for row in dropped}
    assert reasons["0-1"] == reasons["0-2"] == ["wrong_by_review"]
    assert reasons["2-3"] == ["not_best_of_passage"], "it had no place to lose"
    assert summary["dropped"] == {"not_best_of_passage": 14, "wrong_by_review": 2}
    assert summary["agreed"] == before["agreed"]
    assert (summary["right"], summary["reviewed"], summary["reviewed_of"]) == (0.0, 2, 10)
    assert len(run.made) == 1, "the reader is not asked again"


def test_a_row_that_a_person_found_wrong_is_not_trained_on(run: Any) -> None:
    """It still counts as agreed, and among the reviewed ones: both say what the reader does."""
    verdicts = [
        _verdict(make_row(1), "wrong"),
        _verdict(make_row(2), "unclear"),
        _verdict(make_row(5), "wrong"),
    ]
    Path("reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verdicts))
    assert run(reviews="reviews.jsonl", exclude_wrong=True) == 0
    kept, dropped, summary = _made()
    assert [row["row_id"] for row in dropped if row["reasons"] == ["wrong_by_review"]] == [
        "exqa-001"
    ]
    assert summary["dropped"] == {"reader_disagrees": 6, "wrong_by_review": 1}
    assert len(kept) == 23 and summary["agreed"] == 0.8
    assert (summary["right"], summary["reviewed"]) == (0.0, 2)
    assert "wrong_by_review" in Path("artifacts/verify/report.html").read_text()
    assert run(reviews="reviews.jsonl", exclude_wrong=False) == 0
    assert len(_made()[0]) == 24 and len(run.made) == 1, "the reader is not asked again"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "good"}, "reviews.jsonl row 2: verdict = 'good': must be 'right', "),
        ({"note": 1}, "reviews.jsonl row 2: unknown key 'note' (known: key, "),
        ({}, "reviews.jsonl row 2: row exqa-001 has a verdict already"),
    ],
)
def test_a_broken_review_is_one_line(run: Any, capsys: Any, change: Any, message: str) -> None:
    first = _verdict(make_row(1), "right")
    Path("reviews.jsonl").write_text(json.dumps(first) + "\n" + json.dumps(first | change) + "\n")
    assert run(reviews="reviews.jsonl") == 2
    assert f"verify.reviews: {message}" in capsys.readouterr().err
    assert not Path("artifacts/verify").exists()
