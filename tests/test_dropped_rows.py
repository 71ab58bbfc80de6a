"""docs/dropped-rows.md names every reason for which a stage drops a row, and no other."""

from __future__ import annotations

import re

from tasks.core.params import load_params
from tasks.finetune.continuation import KNOWN
from tasks.lm import examples
from tasks.scoring import reviews
from tasks.supervise import stage as supervise
from tasks.validate import verdicts
from tasks.validate.expectations import LABEL_BALANCE, select_checks
from tasks.verify import judging, rivals
from tests.conftest import ROOT

_STAGES = ("generate", "supervise", "finetune", "claims", "lm")
#: A reason that is written where it is given: a parser's, or a counter's.
_WRITTEN = re.compile(r'(?:reason=|dropped\[|Counter\(\{)"([a-z_]+)"|"(beyond_[a-z_]+)"')
_PARTS = {"no_<part>", "empty_<part>"}


def reasons_of_the_code() -> set[str]:
    files = (path for stage in _STAGES for path in sorted((ROOT / "tasks" / stage).glob("*.py")))
    texts = (path.read_text(encoding="utf-8") for path in files)
    found = {name for text in texts for names in _WRITTEN.findall(text) for name in names if name}
    validate = load_params(ROOT / "params.yaml").validate
    found |= {check.name for check in select_checks(validate)} | {LABEL_BALANCE}
    found |= {verdicts.MAX_ROWS, rivals.DUPLICATE, rivals.NOT_BEST, KNOWN}
    found |= {judging.DISAGREES, judging.UNGROUNDED, judging.UNSURE, judging.NOT_REPAIRED}
    found |= {reviews.WRONG_BY_REVIEW, supervise.MAX_ROWS, supervise.OVER_SHARE}
    return found | {supervise.HELD_OUT, supervise.OF_HELD_OUT_PASSAGE, examples.CUT_OUT}


def test_the_page_names_every_reason_and_no_other() -> None:
    text = (ROOT / "docs" / "dropped-rows.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert told - _PARTS == reasons_of_the_code()
    assert told > _PARTS
