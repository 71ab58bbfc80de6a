"""Fields of the forms of ``make label`` and ``make review`` that are out to hurt.

Each is taken or refused by a line; what is in the files before and afterwards can be read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from flows.review import label
from flows.review import rows as review
from flows.review.place import Place
from flows.review.server import make_app
from tasks.core.page import Page
from tasks.scoring.datasets import load_dataset, load_items
from tasks.scoring.reviews import Reviews
from tests.conftest import ROOT
from tests.review.checkout import make_checkout, read_lines

pytestmark = pytest.mark.timeout(120)
_ITEMS, _REVIEWS = Path("local/mine/items.jsonl"), Path("local/mine/reviews.jsonl")
_HALF = "\ud800"

#: (name, changes of a good form, status) for ``make label``.
LABELS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("good", {}, 200),
    ("an unknown draft", {"key": "x"}, 409),
    ("a draft that is a list", {"key": [1]}, 409),
    ("no draft", {"key": None}, 409),
    ("an unknown action", {"action": "delete"}, 409),
    ("an action of the desk's own", {"action": "__init__"}, 409),
    ("an action that is an object", {"action": {"a": 1}}, 409),
    ("no fields", {"fields": None}, 409),
    ("fields in a list", {"fields": ["x"]}, 409),
    ("a field that is an object", {"fields": {"hypothesis": {"a": [1]}}}, 200),
    ("a field of other columns", {"fields": {"hypothesis": "It broke.", "id": "x"}}, 200),
    ("an empty field", {"fields": {"hypothesis": " \n\t "}}, 409),
    ("half a character", {"fields": {"hypothesis": f"It broke {_HALF}."}}, 409),
    ("a zero byte", {"fields": {"hypothesis": "It\0broke."}}, 200),
    ("line ends", {"fields": {"hypothesis": "It\u2028broke\r\n{}\n."}}, 200),
    ("commands to the terminal", {"fields": {"hypothesis": "\x1b]0;evil\x07 It broke."}}, 200),
    ("a template", {"fields": {"hypothesis": "{{ 7 * 7 }}{% include 'x' %}"}}, 200),
    ("a script", {"fields": {"hypothesis": "</script><script>alert(1)</script>"}}, 200),
    ("a long field", {"fields": {"hypothesis": "a " * 90_000}}, 200),
    ("a form that is too long", {"fields": {"hypothesis": "a " * 150_000}}, 413),
    ("an unknown label", {"label": "perhaps"}, 409),
    ("a label that is a list", {"label": ["entailment"]}, 409),
    ("a label that is half a character", {"label": _HALF}, 409),
    ("no label", {"label": None}, 409),
    ("answers where there are labels", {"answers": {"a": 1}}, 200),
    ("to undo a path", {"action": "undo", "saved": "../../../params.yaml"}, 409),
    ("to undo an object", {"action": "undo", "saved": {"a": 1}}, 409),
    ("to undo nothing", {"action": "undo"}, 409),
    ("by a hand that is a list", {"by_hand": [0]}, 200),
)

#: (name, changes of a good verdict, status) for ``make review``.
VERDICTS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("good", {}, 200),
    ("an unknown row", {"key": "x"}, 409),
    ("a row that is an object", {"key": {"a": 1}}, 409),
    ("a verdict that is a list", {"after": {"verdict": ["right"], "reason": "x"}}, 409),
    ("an unknown verdict", {"after": {"verdict": "perhaps", "reason": "x"}}, 409),
    ("a verdict that is a text", {"after": "right"}, 409),
    ("more than a verdict", {"after": {"verdict": "right", "key": "x", "row_id": "y"}}, 200),
    ("a reason of half a character", {"after": {"verdict": "wrong", "reason": f"a{_HALF}"}}, 409),
    ("a reason of lines", {"after": {"verdict": "wrong", "reason": 'a\n{"key": 1}\u2028b'}}, 200),
    ("a reason that is an object", {"after": {"verdict": "wrong", "reason": {"a": 1}}}, 200),
    ("a reason that is null", {"after": {"verdict": "wrong", "reason": None}}, 200),
    ("a past that was not", {"before": {"verdict": "right", "reason": ""}}, 409),
    ("a past that is a list", {"before": [1]}, 409),
    ("no change", {"after": None}, 200),
)


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose pages all tests use, one after the other."""
    return make_checkout(tmp_path_factory.mktemp("forms") / "main", 200)


@pytest.fixture(scope="module")
def labels(main: Path) -> TestClient:
    """The page of ``make label``."""
    return _client(label.open_desk(Place(main, "mine")))


@pytest.fixture(scope="module")
def verdicts(main: Path) -> TestClient:
    """The page of ``make review``."""
    return _client(review.open_desk(Place(main, "mine")))


def _client(desk: Any) -> TestClient:
    return TestClient(make_app(desk, Page("Form")), base_url="http://127.0.0.1:4300")


def _send(client: TestClient, form: dict[str, Any]) -> tuple[int, str]:
    """Send a form, written as a browser does: half a character as its escape."""
    headers = {"Content-Type": "application/json"}
    answer = client.post("/save", content=json.dumps(form), headers=headers)
    told = answer.json()
    return answer.status_code, str(told.get("error", "")) if answer.status_code != 200 else ""


@pytest.mark.parametrize(("name", "change", "status"), LABELS, ids=[row[0] for row in LABELS])
def test_hostile_labels(
    main: Path, labels: TestClient, name: str, change: dict[str, Any], status: int
) -> None:
    before = read_lines(main / _ITEMS) if (main / _ITEMS).exists() else []
    draft = labels.get("/state").json()["drafts"][0]
    taken = {key: draft[key] for key in ("key", "fields", "label", "answers")}
    got, told = _send(labels, {"action": "accept", **taken, **change})
    assert got == status and "\n" not in told and bool(told) == (status != 200)
    lines = read_lines(main / _ITEMS)
    assert lines[: len(before)] == before and len(lines) == len(before) + (status == 200)
    assert {frozenset(line) for line in lines} == {frozenset(lines[0])}
    dataset = load_dataset(ROOT / "datasets/contracts.yaml")
    assert len(load_items(dataset, main / _ITEMS)) == len(lines)


@pytest.mark.parametrize(("name", "change", "status"), VERDICTS, ids=[row[0] for row in VERDICTS])
def test_hostile_verdicts(
    main: Path, verdicts: TestClient, name: str, change: dict[str, Any], status: int
) -> None:
    before = read_lines(main / _REVIEWS)
    state = verdicts.get("/state").json()
    row = next(row for row in state["rows"] if row["key"] not in state["verdicts"])
    good = {"before": None, "after": {"verdict": "right", "reason": ""}}
    got, told = _send(verdicts, {"key": row["key"], **good} | change)
    assert got == status and "\n" not in told and bool(told) == (status != 200)
    lines = read_lines(main / _REVIEWS)
    written = status == 200 and name != "no change"
    assert lines[: len(before)] == before and len(lines) == len(before) + written
    assert len(Reviews.read(main / _REVIEWS).verdicts) == len(lines)
