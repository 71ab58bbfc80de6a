"""Ingest alone, on any corpus, without labelled items: ``make ingest CORPUS=folder``.

    python scripts/ingest.py --corpus FOLDER [--profile NAME] [--evaluation ITEMS]
        [--set ingest.languages=[en]]

It leaves what the stage leaves in the pipeline, in artifacts/ingest; the next ``make run`` puts its
own there again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from flows.runs.worktree import DEFAULT, plan
from tasks.core.errors import PipelineError
from tasks.core.files import write_text
from tasks.core.stage import WORK, one_line_errors
from tasks.ingest import stage as ingest

ROOT = Path(__file__).resolve().parents[1]


def main(argv: list[str] | None = None) -> int:
    """Write the parameters that were asked for, and run the stage with them."""
    parser = argparse.ArgumentParser(prog="make ingest", allow_abbrev=False)
    parser.add_argument("--corpus", default="")
    parser.add_argument("--profile", default=DEFAULT)
    parser.add_argument("--evaluation", default="")
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value")
    arguments = parser.parse_args(argv)
    path = WORK / "ingest" / "params.yaml"
    with one_line_errors("ingest"):
        params = plan(ROOT, arguments.profile, arguments.set).params
        corpus = arguments.corpus or params["ingest"]["corpus"]
        if not arguments.corpus and arguments.profile == DEFAULT:
            raise PipelineError(
                "no corpus: make ingest CORPUS=folder (a file, s3://bucket/folder or "
                "hf://owner/dataset will do too)"
            )
        write_text(path, yaml.safe_dump(params, sort_keys=False, allow_unicode=True))
        known = params["evaluate"]["items"] if arguments.profile != DEFAULT else ""
        evaluation = ["--evaluation", arguments.evaluation or known]
        return ingest.main(
            ["--params", str(path), "--corpus", corpus, *evaluation, "--out", "artifacts/ingest"]
        )
    return 2


if __name__ == "__main__":
    sys.exit(main())
