"""``python -m tasks.lm.hub_commits``: the present commits of a run's hub models.

A run asks before its graph begins, and writes them into its parameters: DVC knows a model by its
settings alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.core.log_lines import set_up_logging
from tasks.core.params import Params, load_params
from tasks.core.stage import one_line_errors
from tasks.lm.licence import hub_name
from tasks.lm.preflight import read_models

_NAME = "models"


def find_commits(params: Params) -> dict[str, str]:
    """Return setting -> commit (40 hex digits) of the base models of the hub that a run loads; with
    work pools none, as for :func:`read_models`.

    Configurations are downloaded, weights are not. Raises :class:`PipelineError` for a model that
    is not there, is gated or has no safetensors, and for an adapter that does not fit its base.
    """
    bases = read_models(params).bases
    return {
        setting: base.revision
        for setting, base in bases.items()
        if hub_name(base.name) == base.name
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the commits as JSON. Return 0, or 2 after an error of one line."""
    parser = argparse.ArgumentParser(prog="python -m tasks.lm.hub_commits", allow_abbrev=False)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments = parser.parse_args(argv)
    set_up_logging(_NAME)
    with one_line_errors(_NAME):
        print(json.dumps(find_commits(load_params(arguments.params))))
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main())
