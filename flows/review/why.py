"""``make why``: one item, the models' answers, what the scorer saw, and the nearest training rows.

    python -m flows.review.why --item ID [--profile NAME | --run ANSWERS]

It prints the most of it, and writes all of it to ``artifacts/why`` of the run.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.review.embedding import open_embedder
from flows.review.nearest import Near, find_nearest
from flows.review.place import Place, find_places, make_parser, one_line, say, where
from flows.runs import CODE
from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.log_lines import set_up_logging
from tasks.core.page import STAGE_PAGES, Page, write_page
from tasks.core.parquet import Batches, read_table
from tasks.core.rows import EVALUATIONS, MODEL_NAMES, PASSAGES, VERIFIED, require
from tasks.core.stage import one_line_errors
from tasks.scoring.datasets import Dataset, Item, asked_columns, has_items, load_dataset, load_items
from tasks.scoring.f1 import normalise_answer
from tasks.scoring.item_page import page_name
from tasks.scoring.questions import HELD_OUT, Questions
from tasks.scoring.reviews import Reviews, review_key

_TEMPLATE = Path(__file__).parent / "templates" / "why.html"
#: Ids that an unknown one is answered with.
_NAMED = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Explain an item; return 2 after an error that the user can fix."""
    parser = make_parser("flows.review.why", "Explain the answers to one item.")
    parser.add_argument("--item", default="")
    parser.add_argument("--run", default="", help="the answers that a page of evaluation names")
    arguments = parser.parse_args(argv)
    set_up_logging("why")
    with one_line_errors("why"):
        if not arguments.run:
            places = [Place(CODE, arguments.profile, arguments.settings)]
        elif arguments.profile or arguments.settings:
            raise PipelineError("RUN says which run it is: give it without PROFILE and SET")
        else:
            places = find_places(CODE, arguments.run)
        told = [(place, *_write(place, arguments.item)) for place in places]
        show(told[0][1])
        for place, _, path in told:
            say(written=place.shown(path), page=place.shown(path.with_suffix(".html")))
        return 0
    return 2


def _write(place: Place, item: str) -> tuple[dict[str, Any], Path]:
    """Write the explanation of an item in a run, where the run's page of evaluation leads to;
    return it and its file.
    """
    path = place.run.path / "artifacts/why" / f"{page_name(item)}.json"
    with place.run.reading():
        found = explain(place, item)
        write_json(path, found)
        write_report(path.with_suffix(".html"), found, place.command("why", ITEM=item))
    return found, path


def explain(place: Place, name: str) -> dict[str, Any]:
    """Return everything about an item; an unknown one is an error that names the nearest ids."""
    path = place.artifact("evaluate/predictions.parquet")
    answers = require(read_table(path), EVALUATIONS, path)
    _need_known(place, name, answers)
    told = answers.filter(pc.equal(answers["item_id"], name)).to_pylist()
    dataset, items = _read_items(place, told[0]["dataset"] == HELD_OUT)
    item = next((one for one in items if one.id == name), None)
    if item is None:
        raise PipelineError(
            f"item {name!r} is in the last run and no longer in "
            f"{place.shown(place.user_file('evaluate', 'items'))}: {place.again()}"
        )
    asked = {
        column: str(item.columns.get(column, "")).replace(item.context, "[passage]")
        for column in asked_columns(dataset)
    }
    embedder = open_embedder(
        place.params,
        place.run.path / "artifacts" / "finetune",
        place.run.path / ".work" / "why" / "vectors.npz",
    )
    near, compared, total = find_nearest(
        place.artifact("supervise/instructions.parquet"),
        item.context,
        "\n".join([*asked.values(), *item.golds, *_said(told)]),
        place.params.evaluate.seed,
        embedder,
    )
    return {
        "item": _item(item, dataset, asked),
        "answers": [_answer(row) for row in told],
        "compared": {"rows": compared, "of": total, "no_vectors": embedder.reason},
        "nearest": _rows(place, near),
    }


def _read_items(place: Place, held_out: bool) -> tuple[Dataset, list[Item]]:
    """Return what evaluate asked: the labelled items, or, where it had none, the rows that
    supervise kept out of the training. The file of items may have changed since.
    """
    if held_out:
        questions = Questions.held_out(place.artifact("supervise/heldout.parquet"))
        return questions.dataset, questions.items
    path, dataset = place.user_file("evaluate", "items"), place.user_file("evaluate", "dataset")
    found = load_dataset(dataset)
    return found, load_items(found, path) if has_items(path) else []


def _said(told: list[dict[str, Any]]) -> list[str]:
    """Return the adapted model's answers, each once: what it learned may be in them."""
    return sorted({row["prediction"] for row in told if row["model"] == "adapted"})


def _need_known(place: Place, name: str, answers: pa.Table) -> None:
    known = pc.unique(answers["item_id"]).to_pylist()
    if name in known:
        return
    if not name:
        adapted = answers.filter(pc.equal(answers["model"], "adapted"))
        means = adapted.group_by("item_id").aggregate([("f1", "mean")]).sort_by("f1_mean")
        wrong = ", ".join(means["item_id"].to_pylist()[:_NAMED])
        raise PipelineError(f"no item: {place.command('why', ITEM='ID')}; such as {wrong}")
    near = difflib.get_close_matches(name, known, n=_NAMED, cutoff=0.0)
    raise PipelineError(f"the last run has no item {name!r}; the nearest ids: {', '.join(near)}")


def _item(item: Item, dataset: Dataset, asked: dict[str, str]) -> dict[str, Any]:
    return {
        "id": item.id,
        "dataset": dataset.name,
        "task_type": dataset.task_type,
        "context": item.context,
        "asked": asked,
        "expected": list(item.golds),
        "held_out": item.columns.get("held_out"),
    }


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of rows.EVALUATIONS with what the scorer compared: texts without case, articles
    and punctuation, or the choices by their log-probability.
    """
    ranked = sorted(zip(row["choices"], row["scores"], strict=False), key=lambda pair: -pair[1])
    seen = (
        {"ranked": [{"choice": choice, "log_probability": score} for choice, score in ranked]}
        if ranked
        else {
            "compared": normalise_answer(row["prediction"]),
            "with": [normalise_answer(gold) for gold in row["golds"]],
        }
    )
    names = ("model", "template", "prompt", "prediction", "golds", "f1")
    return {**{name: row[name] for name in names}, "scorer": seen}


def _rows(place: Place, near: Sequence[Near]) -> list[dict[str, Any]]:
    """Return the rows with their verdicts, and the place of their passages in the documents."""
    verified = _look_up(place, "verify/instructions.parquet", VERIFIED, "row_id", near)
    passages = _look_up(place, "ingest/passages.parquet", PASSAGES, "passage_id", near)
    file = place.user_file("verify", "reviews")
    verdicts = Reviews.read(file if file.is_file() else None).verdicts
    rows = []
    for one in near:
        row, told = one.row, verified.get(one.row["row_id"], {})
        verdict = verdicts.get(review_key(row["instruction"], row["response"]))
        passage = passages.get(row["passage_id"], {})
        names = ("page", "section", "start", "end", "in_evaluation")
        rows.append(
            {
                "similarity": round(one.similarity, 4),
                "asked_similarity": round(one.asked, 4),
                "embedding": None if one.embedding is None else round(one.embedding, 4),
                "passage_overlap": round(one.overlap, 4),
                "shared": list(one.shared),
                **row,
                "verdicts": {
                    **{name: told.get(name) for name in ("agreement", "answer", "origin")},
                    "review": verdict.model_dump() if verdict else None,
                },
                "place": {name: passage[name] for name in names} if passage else None,
            }
        )
    return rows


def _look_up(
    place: Place, name: str, schema: pa.Schema, column: str, near: Sequence[Near]
) -> dict[str, dict[str, Any]]:
    """Return value of ``column`` -> row, of the rows near the item alone."""
    path: Path = place.run.path / "artifacts" / name
    wanted = pa.array(sorted({one.row[column] for one in near}), pa.string())
    found: dict[str, dict[str, Any]] = {}
    for batch in Batches(path, schema) if path.is_file() else ():
        kept = batch.filter(pc.is_in(batch[column], value_set=wanted))
        found |= {row[column]: row for row in kept.to_pylist()}
    return found


def write_report(path: Path, found: dict[str, Any], command: str) -> None:
    """Write an explanation as a page, with links to the run's pages that there are; that to the
    page of evaluation leads to the item. ``command`` makes the page again.
    """
    rows = [
        {
            **row,
            "asked": row["instruction"].replace(row["context"], "[passage]"),
            "place_told": where(row["document"], row["place"]),
            "near_told": _nearness(row),
            "verdicts_told": _verdicts(row["verdicts"]),
        }
        for row in found["nearest"]
    ]
    links = {
        stage: f"../{stage}/report.html"
        for _, stage in STAGE_PAGES
        if (path.parents[1] / stage / "report.html").is_file()
    }
    if "evaluate" in links:
        links["evaluate"] += f"#{path.stem}"
    alone = found["compared"]["no_vectors"]
    page = Page(
        f"Why: {found['item']['id']}",
        "One item: what the models answered, and the training rows that are nearest to it.",
        facts=(
            ("made by", command),
            *((("compared", f"by words alone: {one_line(alone)}"),) if alone else ()),
        ),
        links=[(name, links[stage]) for name, stage in STAGE_PAGES if stage in links],
    )
    # A template may name a label in words of its own.
    named = any(answer["golds"] != found["item"]["expected"] for answer in found["answers"])
    answers = [{**one, "seen_told": _seen(one["scorer"])} for one in found["answers"]]
    told = {
        **found,
        "answers": answers,
        "nearest": rows,
        "model_names": MODEL_NAMES,
        "named": named,
    }
    write_page(path, _TEMPLATE, page, evaluation=links.get("evaluate", ""), **told)


def _seen(scorer: dict[str, Any]) -> str:
    """Return what the scorer compared, in words."""
    if "ranked" in scorer:
        ranked = scorer["ranked"]
        return " · ".join(f"{one['choice']} {one['log_probability']:.2f}" for one in ranked)
    return f"scored as \u201c{scorer['compared']}\u201d against {' | '.join(scorer['with'])}"


def _nearness(row: dict[str, Any]) -> str:
    """Return how near a row is, in words."""
    told = f"{row['similarity']:.2f} similar by words, {row['asked_similarity']:.2f} as asked"
    if row["embedding"] is not None:
        told += f", {row['embedding']:.2f} by the model"
    if row["passage_overlap"]:
        told += f", {row['passage_overlap']:.0%} of the passage"
    return told


def show(found: dict[str, Any]) -> None:
    """Print an explanation for a person; documents are hostile, so control characters go."""
    item = found["item"]
    expected = one_line(item["expected"])
    say(item=f"{one_line(item['id'])}   {item['task_type']}   expected: {expected}")
    for name, text in item["asked"].items():
        say(asked=f"{name}: {one_line(text)}")
    say(passage=one_line(item["context"]))
    for answer in found["answers"]:
        told = (
            f"{MODEL_NAMES[answer['model']]:<16}{answer['template'][:24]:<26}F1 {answer['f1']:.2f}"
        )
        say(answer=f"{told}  {one_line(answer['prediction'] or '(nothing)', 50)}")
    compared = found["compared"]
    say(rows=f"{compared['rows']:,} of {compared['of']:,} training rows compared")
    if compared["no_vectors"]:
        say(model=f"compared by words alone: {one_line(compared['no_vectors'])}")
    for row in found["nearest"]:
        print()
        place = where(row["document"], row["place"])
        say(row=f"{one_line(row['row_id'])}   {place}")
        say(near=_nearness(row))
        say(asked=one_line(row["instruction"].replace(row["context"], "[passage]")))
        say(response=one_line(row["response"]), verdicts=_verdicts(row["verdicts"]))
        say(shared=one_line(" | ".join(row["shared"])))
    print()


def _verdicts(told: dict[str, Any]) -> str:
    agreement = told["agreement"]
    reader = "reader: not judged" if agreement is None else f"reader agrees {agreement:.0%}"
    review = told["review"]
    if review is None:
        return f"{reader}; not reviewed"
    reason = f" ({one_line(review['reason'], 60)})" if review["reason"] else ""
    return f"{reader}; {review['verdict']} by review{reason}"


if __name__ == "__main__":
    sys.exit(main())
