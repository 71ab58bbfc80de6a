"""Run only ingest, on any corpus, without labelled items: ``make ingest CORPUS=folder``.

    python scripts/ingest.py --corpus FOLDER [--profile NAME] [--evaluation ITEMS]
        [--set ingest.languages=[en]]

The output is that of the stage, in artifacts/preview: the pipeline's artifacts do not change.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from flows.review.preview import PREVIEW, record_cut
from tasks.core.errors import PipelineError
from tasks.core.files import write_text
from tasks.core.overlay import DEFAULT, profile_files, read_layers, split_settings
from tasks.core.params import Params, parse_params
from tasks.core.stage import WORK, one_line_errors
from tasks.ingest import stage as ingest

ROOT = Path(__file__).resolve().parents[1]


def main(argv: list[str] | None = None) -> int:
    """Write the parameters and run the stage with them."""
    parser = argparse.ArgumentParser(prog="make ingest", allow_abbrev=False)
    parser.add_argument("--corpus", default="")
    parser.add_argument("--profile", default=DEFAULT)
    parser.add_argument("--evaluation", default="")
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--settings", default="", help="the same in one text, as make's SET")
    arguments = parser.parse_args(argv)
    file = WORK / "ingest" / "params.yaml"
    with one_line_errors("ingest"):
        settings = [*arguments.set, *split_settings(arguments.settings)]
        profiles = profile_files(ROOT / "profiles", arguments.profile)
        values, layers = read_layers(ROOT / "params.yaml", profiles, settings)
        params: Params = parse_params(values, layers, settings=settings)
        chosen = " ".join(settings)
        if not (arguments.corpus or profiles or "ingest.corpus=" in chosen):
            raise PipelineError(
                "no corpus: make ingest CORPUS=folder (a file, s3://bucket/folder or "
                "hf://owner/dataset will do too)"
            )
        # The items of params.yaml belong to another corpus: only requested items are compared. The
        # file of a profile comes into being with the first item that is made of these passages.
        items = params.evaluate.items
        if "evaluate.items=" not in chosen and not (profiles and Path(items).is_file()):
            items = ""
        # Shells other than bash leave the ~ behind the = to us; an address begins with none.
        corpus = os.path.expanduser(arguments.corpus) or params.ingest.corpus
        items = os.path.expanduser(arguments.evaluation) or items
        write_text(file, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        paths = ["--corpus", corpus, "--items", items, "--out", str(PREVIEW)]
        status = ingest.main(["--params", str(file), *paths])
        if not status:
            record_cut(Path(), params, corpus)
            print(f"passages, and why what was not used, file by file: {PREVIEW}/report.html")
        return status
    return 2


if __name__ == "__main__":
    sys.exit(main())
