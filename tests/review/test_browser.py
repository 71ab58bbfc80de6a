"""The review pages as a person meets them, in a real browser: keys, undo, two pages on one set, a
server that died.

`make browser` leaves pictures of them in artifacts/browser.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from flows.review import ask, label
from flows.review import rows as review
from flows.review.place import Place
from flows.review.server import make_app
from tasks.core.errors import PipelineError
from tasks.core.page import Page
from tasks.core.ports import find_free_port
from tasks.core.rows import INSTRUCTIONS, VERIFIED
from tasks.scoring.intervals import SPREAD, smallest_gain
from tests.browser import Browser, chromium
from tests.conftest import ROOT
from tests.review.checkout import EVIL, make_checkout, read_lines, row_of, write_rows

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not chromium(), reason="no Chromium here (Debian: apt install chromium)"),
    pytest.mark.timeout(600),
]

_PATIENCE = 30
_PICTURES = ROOT / "artifacts" / "browser"


@contextlib.contextmanager
def served(desk: Any, page: Page, port: int) -> Iterator[str]:
    """Serve a desk in this process; it stops answering at the end of the block."""
    config = uvicorn.Config(
        make_app(desk, page), "127.0.0.1", port, log_level="warning", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def press(browser: Browser, key: str) -> None:
    """Press and release a key, as a person does."""
    known = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}
    code = known.get(key, ord(key.upper()[0]))
    text = {"text": "\r"} if key == "Enter" else {} if key in known else {"text": key}
    for kind in ("keyDown", "keyUp"):
        more = text if kind == "keyDown" else {}
        browser.send(
            "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more
        )


def shoot(browser: Browser, name: str) -> None:
    """Save the page at a screen's and at a phone's width; neither may scroll sideways."""
    _PICTURES.mkdir(parents=True, exist_ok=True)
    for width in (1280, 400):
        browser.shot(_PICTURES / f"{name}-{width}.png", width=width)
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        browser.send("Emulation.setDeviceMetricsOverride", **size)
        assert browser.js("document.documentElement.scrollWidth") <= width
        browser.send("Emulation.clearDeviceMetricsOverride")


def test_rows_are_judged_with_keys_and_nothing_is_lost(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "main", rows=8)
    file = checkout / "local/mine/reviews.jsonl"
    desk = review.open_desk(Place(checkout, "mine"))
    page, port = Page("Review", "Is the response right?", script=review.SCRIPT), find_free_port()
    with Browser(tmp_path / "profile", patience=_PATIENCE) as browser:
        with served(desk, page, port) as address:
            browser.open(address)
            browser.see("0 of 8", "row 1 of 8", "natural language inference", "88 %")
            press(browser, "r")
            browser.see("1 of 8", "row 2 of 8", "100 %", "21 % to 100 %")
            press(browser, "w")
            browser.see("Why is it wrong?")
            browser.type("they are two firms")
            press(browser, "Enter")
            browser.see("2 of 8", "row 3 of 8", "50 %")
            assert [(line["verdict"], line["reason"]) for line in read_lines(file)] == [
                ("right", ""),
                ("wrong", "they are two firms"),
            ]
            press(browser, "z")
            browser.see("1 of 8", "row 2 of 8", "Undone.")
            assert len(read_lines(file)) == 1
            press(browser, "ArrowRight")
            browser.see("row 3 of 8")
            other = desk.rows[2]["key"]
            desk.save({"key": other, "before": None, "after": {"verdict": "right", "reason": ""}})
            press(browser, "u")
            browser.type("two readings")
            press(browser, "Enter")
            browser.see("judged right meanwhile, in another page", "judged right", "2 of 8")
            assert browser.js("document.getElementById('reason').value") == "two readings"
            press(browser, "Escape")
            press(browser, "n")
            browser.see("row 4 of 8")
        press(browser, "r")  # nobody answers
        browser.see("Not saved: the server does not answer", "row 4 of 8")
        with served(review.open_desk(Place(checkout, "mine")), page, port):
            press(browser, "r")
            browser.see("3 of 8", "row 5 of 8")
            assert len(read_lines(file)) == 3
            for _ in range(8):  # one of the passages is hostile
                press(browser, "ArrowRight")
                time.sleep(0.1)
            assert browser.js("document.querySelectorAll('script, img').length") == 1
            browser.open(f"http://127.0.0.1:{port}")
            browser.see("3 of 8")
            shoot(browser, "review")
        assert browser.elsewhere() == []


def test_a_fault_of_the_server_is_told_as_one_and_a_broken_file_when_the_page_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is a server that does not answer."""
    checkout = make_checkout(tmp_path / "main", rows=8)
    desk = review.open_desk(Place(checkout, "mine"))
    page, port = Page("Review", "Is it right?", script=review.SCRIPT), find_free_port()

    def fail(_: object) -> None:
        raise RuntimeError("a bug")

    with Browser(tmp_path / "profile", patience=_PATIENCE) as browser:
        with served(desk, page, port) as address:
            browser.open(address)
            browser.see("row 1 of 8")
            with monkeypatch.context() as patched:
                patched.setattr(desk, "save", fail)
                press(browser, "r")
                browser.see("Not saved: the server answers 500. Its terminal says why.")
            press(browser, "r")
            browser.see("1 of 8", "row 2 of 8")
            desk.file.path.write_text("broken by hand")
            browser.open(address)
            browser.see("reviews.jsonl line 1 is not valid JSON")
            press(browser, "r")
            assert desk.file.path.read_text() == "broken by hand"


def test_rows_that_no_reader_answered_say_nothing_of_a_reader(tmp_path: Path) -> None:
    source = {"supervise": {"source": "constructed"}}
    checkout = make_checkout(tmp_path / "main", rows=0, **source)
    made = checkout / ".runs/mine/artifacts/supervise/instructions.parquet"
    write_rows(made, map(row_of, range(3)), INSTRUCTIONS)
    page, port = Page("Review", "Is the response right?", script=review.SCRIPT), find_free_port()
    desk = review.open_desk(Place(checkout, "mine"))
    with (
        Browser(tmp_path / "profile", patience=_PATIENCE) as browser,
        served(desk, page, port) as address,
    ):
        browser.open(address)
        browser.see("0 of 3", "row 1 of 3", "instruction", "response")
        assert "agreement" not in browser.js("document.body.innerText").lower()
        press(browser, "r")
        browser.see("1 of 3", "row 2 of 3")
        shoot(browser, "review-constructed")


def test_items_are_made_with_keys_and_nothing_is_lost(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "main", rows=8)
    file = checkout / "local/mine/items.jsonl"
    desk = label.open_desk(Place(checkout, "mine"))
    page, port = Page("Label", "Questions to measure with.", script=label.SCRIPT), find_free_port()
    with Browser(tmp_path / "profile", patience=_PATIENCE) as browser:
        with served(desk, page, port) as address:
            browser.open(address)
            browser.see(
                "a draft of the last run", "Drafts left", "100 items show 11.8, 554 show 5.0"
            )
            press(browser, "a")
            browser.see("Saved.", "over 100", "on 1 passage\nHeld out")
            press(browser, "e")
            browser.type("Nobody knows when it broke.")
            press(browser, "Escape")
            press(browser, "2")
            press(browser, "a")
            browser.see(f"{100 * smallest_gain(2, SPREAD):.1f}", "on 2 passages")
            made = read_lines(file)
            assert [row["held_out"]["how"] for row in made] == ["accepted", "edited"]
            assert (made[1]["hypothesis"], made[1]["label"]) == (
                "Nobody knows when it broke.",
                "neutral",
            )
            press(browser, "z")
            browser.see("Undone.", "over 100")
            assert len(read_lines(file)) == 1
            press(browser, "x")
            browser.see("Rejected.")
            press(browser, "h")
            browser.see("written by hand")
            press(browser, "Escape")
            press(browser, "a")
            browser.see("the hypothesis is empty")
            press(browser, "e")
            browser.type("It broke twice.")
        press(browser, "Escape")
        press(browser, "a")  # nobody answers
        browser.see("Not saved: the server does not answer")
        with served(label.open_desk(Place(checkout, "mine")), page, port):
            press(browser, "a")
            browser.see("choose a label: entailment, neutral, contradiction")
            press(browser, "3")
            press(browser, "a")
            browser.see("Saved.")
            assert read_lines(file)[1]["hypothesis"] == "It broke twice."
            assert read_lines(file)[1]["label"] == "contradiction", "chosen, not proposed"
            for _ in range(8):  # one of the passages is hostile
                press(browser, "ArrowRight")
                time.sleep(0.1)
            assert browser.js("document.querySelectorAll('script, img').length") == 1
            shoot(browser, "label")
        assert browser.elsewhere() == []


def test_a_held_key_decides_once(tmp_path: Path) -> None:
    """The system repeats it: rows were judged that nobody had read."""
    checkout = make_checkout(tmp_path / "main", rows=8)
    pages = {
        review: (review.SCRIPT, "r", "local/mine/reviews.jsonl", "row 2 of 8"),
        label: (label.SCRIPT, "x", "local/mine/items.rejected.jsonl", "Rejected."),
    }
    with Browser(tmp_path / "profile", patience=_PATIENCE) as browser:
        for module, (script, key, file, seen) in pages.items():
            desk = module.open_desk(Place(checkout, "mine"))
            page, port = Page("Page", "Held.", script=script), find_free_port()
            with served(desk, page, port) as address:
                browser.open(address)
                browser.see("characters" if module is label else "row 1 of 8")
                press(browser, key)
                browser.see(seen)
                held = {"key": key, "text": key, "windowsVirtualKeyCode": ord(key.upper())}
                for _ in range(3):
                    browser.send("Input.dispatchKeyEvent", type="keyDown", autoRepeat=True, **held)
                    time.sleep(0.3)
                assert len(read_lines(checkout / file)) == 1


def test_text_of_scripts_that_run_from_the_right_does_so(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "main", rows=2)
    rows = [row_of(0) | {"instruction": "\u05de\u05d4 \u05e7\u05e8\u05d4?"}, row_of(1)]
    write_rows(checkout / ".runs/mine/artifacts/verify/instructions.parquet", rows, VERIFIED)
    desk = review.open_desk(Place(checkout, "mine"))
    page, port = Page("Review", "Is it right?", script=review.SCRIPT), find_free_port()
    direction = "[...document.querySelectorAll('%s')].map(e => getComputedStyle(e).direction)"
    with Browser(tmp_path / "profile", patience=_PATIENCE) as browser:
        with served(desk, page, port) as address:
            browser.open(address)
            browser.see("row 1 of 2")
            found = [browser.js(direction % "dd.main, dd")]
            press(browser, "ArrowRight")
            browser.see("row 2 of 2")
            found.append(browser.js(direction % "dd.main, dd"))
            assert sorted(one.count("rtl") for one in found) == [0, 1]
        desk = label.open_desk(Place(checkout, "mine"))
        page, port = Page("Label", "Questions.", script=label.SCRIPT), find_free_port()
        with served(desk, page, port) as address:
            browser.open(address)
            browser.see("a draft of the last run")
            press(browser, "e")
            browser.type("\u05de\u05d4 \u05e7\u05e8\u05d4?")
            assert browser.js(direction % "textarea") == ["rtl"]
            spare = "[...document.querySelectorAll('label')].filter(e => !e.control).length"
            assert browser.js(spare) == 0, "a label names a field"
            assert browser.js("document.querySelector('[role=group]').ariaLabel") == "label"


def test_enter_that_ends_a_word_of_an_input_method_asks_nothing(tmp_path: Path) -> None:
    """Japanese and Chinese are typed so: half a question was asked."""
    page, port = Page("Ask", "Answers.", script=ask.SCRIPT), find_free_port()
    with (
        Browser(tmp_path / "profile", patience=_PATIENCE) as browser,
        served(_Answered(), page, port) as address,
    ):
        browser.open(address)
        browser.see("last run of mine")
        composed = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true})"
        browser.js(f"document.getElementById('question').dispatchEvent({composed})")
        time.sleep(0.5)
        assert "the question is empty" not in browser.text()
        press(browser, "Enter")
        browser.see("the question is empty")


class _Answered:
    """A desk whose models have answered: the page is tried here, the models elsewhere."""

    def state(self) -> dict[str, Any]:
        return {"model": "models:/m/1", "profile": "mine"}

    def save(self, change: dict[str, Any]) -> dict[str, Any]:
        if not change["question"]:
            raise PipelineError("the question is empty")
        text = f"\U0001f600 The pump failed because its seal broke. {EVIL}"
        place = {"document": EVIL, "page": 2, "section": "Repairs", "start": 10, "end": 90}
        answer = {**place, "text": text, "zero_shot": EVIL}
        start = text.index("its seal")
        told = {"adapted": "its seal", "span": (start, start + 8)}
        answers = [answer | told, answer | {"adapted": "", "span": None}]
        told = {"question": change["question"], "model": "models:/m/1", "answers": answers}
        return {**told, "choices": ["Yes", "No"]}


def test_a_question_is_answered_with_the_span_marked(tmp_path: Path) -> None:
    page, port = Page("Ask", "Answers from the passages.", script=ask.SCRIPT), find_free_port()
    with Browser(tmp_path / "profile", patience=_PATIENCE) as browser:
        with served(_Answered(), page, port) as address:
            browser.open(address)
            browser.see("models:/m/1", "last run of mine")
            press(browser, "Enter")
            browser.see("the question is empty")
            browser.type("Why did the pump fail?")
            press(browser, "Enter")
            browser.see("Yes, No")
            browser.see("Why did the pump fail?", "page 2, Repairs, characters 10-90", "(nothing)")
            assert browser.js("document.querySelector('mark').textContent") == "its seal"
            colour = browser.js("getComputedStyle(document.querySelector('mark')).backgroundColor")
            assert colour != "rgb(255, 255, 0)", "our colours, not the browser's"
            assert browser.js("document.images.length") == 0 and EVIL in browser.text()
            shoot(browser, "ask")
        assert browser.elsewhere() == []


def test_twenty_items_by_keyboard_and_what_the_page_itself_takes(tmp_path: Path) -> None:
    """The time from a key to the next draft on the screen: the page's part of an item's time."""
    checkout = make_checkout(tmp_path / "main", rows=30)
    file = checkout / "local/mine/items.jsonl"
    page, port = Page("Label", "Questions to measure with.", script=label.SCRIPT), find_free_port()
    seconds: list[float] = []
    with Browser(tmp_path / "profile", patience=_PATIENCE) as browser:
        with served(label.open_desk(Place(checkout, "mine")), page, port) as address:
            browser.open(address)
            browser.see("a draft of the last run")
            started = time.perf_counter()
            for number in range(1, 21):
                if number % 2:  # every other one with a word of one's own in it
                    press(browser, "e")
                    browser.type(f"It is claim {number}.")
                    press(browser, "Escape")
                press(browser, "123"[number % 3])
                before = browser.js("document.body.innerText")
                begun = time.perf_counter()
                press(browser, "a")
                while not (
                    browser.js("document.body.innerText.includes('Saved.')")
                    and browser.js("document.body.innerText") != before
                ):
                    assert time.perf_counter() - begun < _PATIENCE
                # The next passage is on the screen once the file has the item.
                while len(read_lines(file)) < number:
                    assert time.perf_counter() - begun < _PATIENCE
                seconds.append(time.perf_counter() - begun)
    whole = (time.perf_counter() - started) / 20
    seconds.sort()
    print(
        f"20 items: the page takes {seconds[10]:.2f} s an item (median), at most "
        f"{seconds[-1]:.2f} s; with the driven keys {whole:.2f} s"
    )
    assert len(read_lines(file)) == 20
    assert seconds[10] < 3.0
