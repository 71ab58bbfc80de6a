"""A headless Chromium, driven over its DevTools protocol: what a person sees and does, and which
addresses the pages ask for.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

#: Visible text of the page, shadow roots left out: neither Prefect's pages nor MLflow's use them.
_TEXT = "document.body ? document.body.innerText : ''"
#: The smallest visible element that a selector names and whose text is (or begins with) a given
#: one; hidden ones are no use to a person.
_FIND = """
(([selector, text, place]) => {
  const seen = [...document.querySelectorAll(selector)].filter(e => e.getClientRects().length && getComputedStyle(e).visibility != 'hidden');
  const named = e => (e.innerText || e.value || e.getAttribute('aria-label') || '').trim();
  const found = text ? seen.filter(e => named(e) == text).concat(seen.filter(e => named(e) != text && named(e).startsWith(text))) : seen;
  const element = found.at(place);
  if (!element) return null;
  element.scrollIntoView({block: 'center'});
  const box = element.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})(%s)
"""
#: Notes what gets the focus, of what a person operates and can see, in the page's order.
_WATCH_FOCUS = """
window.operable = [...document.querySelectorAll('a[href], select, input, textarea, button, summary')]
  .filter(e => e.checkVisibility());
window.reached = [];
document.addEventListener('focusin', event => {
  const style = getComputedStyle(event.target);
  if (style.outlineStyle != 'none' && parseFloat(style.outlineWidth)) reached.push(event.target);
});
document.activeElement.blur();
"""
_MISSED = """
operable.filter((e, place) => reached.indexOf(e) < 0
  || (place && reached.indexOf(e) < reached.indexOf(operable[place - 1]))).map(e => e.outerHTML)
"""
#: Boxes that scroll sideways get the focus too.
_SPARE_TABS = 20


def chromium() -> str:
    """Return the path of a Chromium or Chrome; empty where there is none."""
    return next(
        (
            path
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (path := shutil.which(name))
        ),
        "",
    )


class Browser:
    """One page. Every wait ends with an error that holds the page's text."""

    def __init__(self, profile: Path, patience: float = 60.0) -> None:
        self.patience = patience
        self.asked: list[str] = []
        self.faults: list[str] = []
        command = [
            chromium(),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--window-size=1500,1900",
        ]  # tall: lists render only what is in sight
        # Names do not resolve: what a page fetches from elsewhere fails as it would on a machine
        # without a network.
        command += [
            "--disable-background-networking",
            "--disable-component-update",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ]
        command += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        port = self._port(profile / "DevToolsActivePort")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as response:
            page = next(target for target in json.load(response) if target["type"] == "page")
        self.socket = connect(page["webSocketDebuggerUrl"], max_size=None, open_timeout=30)
        self.number = 0
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _port(self, file: Path) -> int:
        deadline = time.monotonic() + self.patience
        while not (file.exists() and file.read_text().count("\n")):
            assert self.process.poll() is None and time.monotonic() < deadline, (
                "Chromium does not start"
            )
            time.sleep(0.1)
        return int(file.read_text().splitlines()[0])

    def send(self, method: str, **params: Any) -> Any:
        """Send one command and return its result; requests that the page makes meanwhile are noted
        in ``asked``, errors in its console in ``faults``.
        """
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while (message := json.loads(self.socket.recv(timeout=60))).get("id") != self.number:
            self._note(message.get("method"), message.get("params", {}))
        assert "error" not in message, f"{method}: {message['error']}"
        return message["result"]

    def _note(self, method: str | None, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.faults.append(told["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.faults.append(str(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.faults.append(str(told["args"]))

    def js(self, expression: str) -> Any:
        """Return an expression's value in the page."""
        result = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, address: str) -> None:
        """Go to an address."""
        self.send("Page.navigate", url=address)

    def text(self) -> str:
        """Return the visible text."""
        return str(self.js(_TEXT))

    def see(self, *words: str) -> str:
        """Wait until the page shows every one of ``words``; return its text."""
        deadline = time.monotonic() + self.patience
        while missing := [word for word in words if word not in (text := self.text())]:
            assert time.monotonic() < deadline, (
                f"{self.js('location.href')} does not show {missing}:\n{text}"
            )
            time.sleep(0.3)
        return text

    def gone(self, words: str) -> None:
        """Wait until the page no longer shows ``words``, such as a message that covers a button."""
        deadline = time.monotonic() + self.patience
        while words in self.text():
            assert time.monotonic() < deadline, f"{self.js('location.href')} still shows {words!r}"
            time.sleep(0.3)

    def click(self, selector: str, text: str = "", place: int = 0) -> None:
        """Click the visible element of a selector and text, once there is one, with a real mouse
        event.
        """
        deadline = time.monotonic() + self.patience
        while (spot := self.js(_FIND % json.dumps([selector, text, place]))) is None:
            assert time.monotonic() < deadline, (
                f"{self.js('location.href')} has no {selector} {text!r}:\n{self.text()}"
            )
            time.sleep(0.3)
        where = {"x": spot[0], "y": spot[1], "button": "left", "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=spot[0], y=spot[1])
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, **where)

    def type(self, text: str) -> None:
        """Put ``text`` in place of what the focused field holds, as typed."""
        self.js("document.activeElement.select && document.activeElement.select()")
        self.send("Input.insertText", text=text)

    def tab_through(self) -> list[str]:
        """Press Tab from the top of the page until it has gone round; return the markup of what
        can be operated but was not reached in order, or was reached without a mark that shows it.
        """
        self.js(_WATCH_FOCUS)
        for _ in range(self.js("window.operable.length") + _SPARE_TABS):
            for kind in ("keyDown", "keyUp"):
                self.send("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
        return list(self.js(_MISSED))

    def shot(self, path: Path, width: int = 0) -> None:
        """Save what is seen as a PNG; with ``width``, as a window of that width shows it."""
        if width:
            size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
            self.send("Emulation.setDeviceMetricsOverride", **size)
            time.sleep(2)  # until the page has followed
        data = self.send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
        if width:
            self.send("Emulation.clearDeviceMetricsOverride")

    def elsewhere(self) -> list[str]:
        """Return the addresses beyond loopback that the pages asked for."""
        return sorted(
            {
                address
                for address in self.asked
                if urllib.parse.urlsplit(address).hostname not in (None, "127.0.0.1", "localhost")
            }
        )
