"""Cut labelled items into two halves by passage, to train on one half and score the other.

    python scripts/halves.py datasets/incidents.yaml data/incidents/evaluation.jsonl

writes ``local/halves/incidents-a.jsonl`` and ``incidents-b.jsonl``. ``matrices/ceilings-own.yaml``
trains on each half and scores the other: what people's labels give where the evaluation items are
all the labels there are.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tasks.core.errors import PipelineError
from tasks.core.files import row_seed, write_text
from tasks.core.row_reader import read_rows
from tasks.core.stage import one_line_errors
from tasks.scoring.datasets import load_dataset, load_items


def cut(dataset: Path, items: Path, out: Path, seed: int) -> dict[Path, int]:
    """Write the two halves to ``out`` and return the number of rows of each file.

    Items on one passage (or document) stay together. The passages are ordered by seed and text, and
    the first half of them is ``a``: the same items give the same halves, whatever their order.
    Rows are written as they were read. Items of fewer than two passages are an error.
    """
    parsed = load_items(load_dataset(dataset), items)
    clusters = sorted(
        {item.cluster for item in parsed}, key=lambda text: row_seed(seed, "half", text)
    )
    if len(clusters) < 2:
        raise PipelineError(f"{items}: all items are on one passage: there are no two halves")
    first = set(clusters[: len(clusters) // 2])
    halves: dict[Path, list[str]] = {
        out / f"{dataset.stem}-{half}.jsonl": [] for half in ("a", "b")
    }
    a, b = halves.values()
    for row, item in zip(read_rows(items), parsed, strict=True):
        (a if item.cluster in first else b).append(json.dumps(row, ensure_ascii=False) + "\n")
    for path, lines in halves.items():
        write_text(path, "".join(lines))
    return {path: len(lines) for path, lines in halves.items()}


def main() -> int:
    """Cut the items named on the command line and print what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "dataset", type=Path, help="the dataset file, such as datasets/incidents.yaml"
    )
    parser.add_argument("items", type=Path, help="its labelled items")
    parser.add_argument("--out", type=Path, default=Path("local/halves"))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with one_line_errors("halves"):
        written = cut(arguments.dataset, arguments.items, arguments.out, arguments.seed)
        print(", ".join(f"{path}: {rows} items" for path, rows in written.items()))
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main())
