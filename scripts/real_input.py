"""Write small seeded samples of published datasets to ``local/``, for profiles and matrices on real
input.

    python scripts/real_input.py squadshifts-amazon --items amazon_reviews.jsonl.gz
    python scripts/real_input.py pubmedqa --items pubmedqa_test.jsonl.gz
        --abstracts abstracts.jsonl.gz --train pubmedqa_rest.jsonl.gz
    python scripts/real_input.py contractnli --items dev.json.gz --train train.json.gz
    python scripts/real_input.py vitaminc --items hub:tals/vitaminc@test

A source is a file of the dataset as published (JSONL in Hugging Face columns; SQuADShifts and
ContractNLI also as their authors' JSON; .gz or not), or ``hub:NAME[/CONFIG]@SPLIT``. Files never
leave the machine.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, write_text
from tasks.core.row_reader import read_hub_rows, read_lines, read_rows
from tasks.core.stage import one_line_errors
from tasks.scoring.datasets import Dataset, load_dataset, load_items

ROOT = Path(__file__).resolve().parents[1]

RowList = list[dict[str, Any]]
#: Least characters of a contract's window, so that an item has enough text.
_WINDOW = 900


def on_own_passages(
    arguments: argparse.Namespace, chance: random.Random, column: str
) -> tuple[RowList, RowList]:
    """Return the items' passages as the corpus and their questions as the evaluation set, as in the
    paper.
    """
    rows = [_with_id(row) for row in read(arguments.items)]
    passages = sorted({row[column] for row in rows})
    chosen = chance.sample(passages, min(arguments.passages, len(passages)))
    items = [row for row in rows if row[column] in set(chosen)]
    kind = arguments.dataset.removeprefix("squadshifts-").replace("amazon", "review")
    documents = [{"id": f"{kind}-{number:04d}", "text": text} for number, text in enumerate(chosen)]
    return documents, chance.sample(items, min(arguments.questions, len(items)))


def pubmedqa(arguments: argparse.Namespace, chance: random.Random) -> tuple[RowList, RowList]:
    """Return unlabelled abstracts as the corpus (default: those of the questions) and labelled
    questions as the evaluation set.
    """
    if arguments.abstracts:
        abstracts = [
            {"id": str(row["pmid"]), "text": f"{row['title']}\n\n{row['abstract']}"}
            for row in read(arguments.abstracts)
        ]
        documents = chance.sample(abstracts, min(arguments.passages, len(abstracts)))
        rows = list(read(arguments.items))
        return documents, chance.sample(rows, min(arguments.questions, len(rows)))
    rows = list(read(arguments.items))
    items = chance.sample(rows, min(arguments.questions, len(rows)))
    texts = [
        {"id": str(row["pubid"]), "text": "\n\n".join(row["context"]["contexts"])} for row in items
    ]
    return texts[: arguments.passages], items


def contractnli(arguments: argparse.Namespace, chance: random.Random) -> tuple[RowList, RowList]:
    """Return whole agreements as the corpus, and statements with a window of their agreement as the
    evaluation set (see :func:`contract_pairs`).
    """
    agreements = _agreements(arguments.items)["documents"]
    documents = [
        {"id": f"nda-{agreement['id']}", "text": agreement["text"]} for agreement in agreements
    ]
    pairs = contract_pairs(arguments.items, chance)
    return chance.sample(documents, min(arguments.passages, len(documents))), chance.sample(
        pairs, min(arguments.questions, len(pairs))
    )


def contract_pairs(source: str, chance: random.Random) -> RowList:
    """Return (premise, hypothesis, choice) rows. A premise is a window of the agreement: small
    models cannot read all of it.

    The window of an entailed or contradicted statement holds all its evidence; pairs whose evidence
    is too far apart are left out. A statement that the agreement does not mention gets a random
    window.
    """
    published = _agreements(source)
    rows = []
    for agreement in published["documents"]:
        for key, annotation in agreement["annotation_sets"][0]["annotations"].items():
            spans = [agreement["spans"][number] for number in annotation["spans"]]
            premise = _window(agreement["text"], agreement["spans"], spans, chance)
            if premise:
                hypothesis = published["labels"][key]["hypothesis"]
                rows.append(
                    {
                        "id": f"{agreement['id']}-{key}",
                        "document": f"nda-{agreement['id']}",
                        "premise": premise,
                        "hypothesis": hypothesis,
                        "choice": annotation["choice"],
                    }
                )
    return rows


def _window(
    text: str, every: list[list[int]], evidence: list[list[int]], chance: random.Random
) -> str:
    start, end = (
        (min(span[0] for span in evidence), max(span[1] for span in evidence))
        if evidence
        else chance.choice(every)
    )
    if end - start > _WINDOW:
        return ""
    lead = chance.randint(0, _WINDOW - (end - start))
    first = max((span[0] for span in every if span[0] <= max(0, start - lead)), default=start)
    last = min(
        (span[1] for span in every if span[1] >= end and span[1] - first >= _WINDOW * 0.8),
        default=max(end, every[-1][1]),
    )
    return text[first:last].strip() if last - first <= 2 * _WINDOW else text[start:end].strip()


def _agreements(source: str) -> dict[str, Any]:
    published = _json(Path(source))
    if not isinstance(published, dict) or not {"documents", "labels"} <= set(published):
        raise PipelineError(
            f"{source} is not ContractNLI as published: a JSON object with documents and labels"
        )
    return published


_MAKERS: dict[str, Callable[[argparse.Namespace, random.Random], tuple[RowList, RowList]]] = {
    **{
        f"squadshifts-{name}": lambda arguments, chance: on_own_passages(
            arguments, chance, "context"
        )
        for name in ("amazon", "nyt", "reddit")
    },
    "pubmedqa": pubmedqa,
    "privacyqa": lambda arguments, chance: on_own_passages(arguments, chance, "text"),
    "contractnli": contractnli,
    "vitaminc": lambda arguments, chance: on_own_passages(arguments, chance, "evidence"),
}


def training_rows(arguments: argparse.Namespace, items: RowList, chance: random.Random) -> RowList:
    """Return labelled rows for ``supervise.source: labelled`` from ``--train``, else ``--items``,
    on passages that are not in the evaluation set.
    """
    column = _dataset(arguments).context
    source = arguments.train or arguments.items
    rows = (
        contract_pairs(source, chance)
        if arguments.dataset == "contractnli"
        else [_with_id(row) for row in read(source)]
    )
    held = {str(_at(row, column)) for row in items}
    rows = [row for row in rows if str(_at(row, column)) not in held]
    return chance.sample(rows, min(arguments.training_rows, len(rows)))


def _dataset(arguments: argparse.Namespace) -> Dataset:
    return load_dataset(ROOT / "datasets" / f"{arguments.dataset}.yaml")


def read(source: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file or of ``hub:NAME[/CONFIG]@SPLIT``."""
    if source.startswith("hub:"):
        yield from _read_hub(source.removeprefix("hub:"))
        return
    path = Path(source)
    if path.name.removesuffix(".gz").endswith(".json"):
        yield from _squad(_json(path), source)
        return
    yield from read_rows(path)


def _read_hub(name: str) -> Iterator[dict[str, Any]]:
    place, _, split = name.partition("@")
    owner, *rest = place.split("/")
    config = rest.pop() if len(rest) == 2 else ""
    yield from read_hub_rows("/".join([owner, *rest]), config, split or "test", label_names=True)


def _squad(found: Any, source: str) -> Iterator[dict[str, Any]]:
    """Yield SQuAD's nested JSON as flat rows in Hugging Face columns."""
    if not isinstance(found, dict) or "data" not in found:
        raise PipelineError(
            f"{source} is not SQuAD JSON (no 'data'): give JSONL rows, or the file as its "
            "authors publish it"
        )
    pairs = ((article, part) for article in found["data"] for part in article["paragraphs"])
    for article, paragraph in pairs:
        for asked in paragraph["qas"]:
            answers = {
                "text": [own["text"] for own in asked["answers"]],
                "answer_start": [own["answer_start"] for own in asked["answers"]],
            }
            whole = {
                "title": article.get("title", ""),
                "context": paragraph["context"],
                "question": asked["question"],
                "answers": answers,
            }
            yield {"id": asked["id"], **whole}


def _json(path: Path) -> Any:
    try:
        return json.loads("".join(line for _, line in read_lines(path)))
    except ValueError as error:
        raise PipelineError(f"{path} is not valid JSON: {error}") from error


def _with_id(row: dict[str, Any]) -> dict[str, Any]:
    return row if {"id", "pubid", "unique_id"} & set(row) else {"id": fingerprint(row)[:16], **row}


def _at(row: dict[str, Any], column: str) -> Any:
    value: Any = row
    for part in column.split("."):
        value = value[part]
    return value


def main() -> int:
    """Write and check ``local/<dataset>/documents.jsonl``, ``evaluation.jsonl`` and, if requested,
    ``training.jsonl``.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=sorted(_MAKERS))
    parser.add_argument("--items", required=True, help="the labelled set as published")
    parser.add_argument(
        "--abstracts",
        default="",
        help="pubmedqa: unlabelled abstracts with pmid, title and abstract",
    )
    parser.add_argument(
        "--train",
        default="",
        help="labelled training rows as published (default: --items on other passages)",
    )
    parser.add_argument("--passages", type=int, default=240, help="documents of the corpus")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--training-rows", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("local"))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with one_line_errors("real_input"):
        files = _make(arguments)
        folder, dataset = arguments.out / arguments.dataset, _dataset(arguments)
        for name, rows in files.items():
            path = folder / f"{name}.jsonl"
            write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            if name != "documents":
                load_items(dataset, path)
        print(
            f"{folder}: "
            + ", ".join(f"{len(rows)} in {name}.jsonl" for name, rows in files.items())
        )
        return 0
    return 2


def _make(arguments: argparse.Namespace) -> dict[str, RowList]:
    """Return name -> rows of each file; a source that lacks a column is an error that names it."""
    chance = random.Random(arguments.seed)
    try:
        documents, items = _MAKERS[arguments.dataset](arguments, chance)
        files = {"documents": documents, "evaluation": items}
        if arguments.training_rows:
            files["training"] = training_rows(arguments, items, chance)
    except (LookupError, TypeError) as error:
        given = filter(None, (arguments.items, arguments.abstracts, arguments.train))
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise PipelineError(
            f"{' or '.join(given)} is not {arguments.dataset} as published: {what}"
        ) from error
    return files


if __name__ == "__main__":
    sys.exit(main())
