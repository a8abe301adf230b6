"""A headless Chromium without a network, for what only a browser can show: how a page looks, and what is cut off.

It is steered over two pipes with the DevTools protocol, so that one browser serves many pages within a second each.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
QUIET = "--headless --no-sandbox --disable-gpu --no-first-run --hide-scrollbars --remote-debugging-pipe"
QUIET += " --disable-background-networking --disable-component-update --disable-sync --disable-quic"
OFFLINE = ["--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND"]
PHONE, PAPER = 390, 1047  # CSS pixels; A4 landscape within its margins
PATIENCE = 60.0  # seconds for an answer

# What a reader could not read: {kind: [text]}. Boxes are in CSS pixels; texts may touch each other by one.
UNREADABLE = """
(() => {
  const box = (one) => one.getBoundingClientRect();
  const shown = (one) => box(one).width > 0 && getComputedStyle(one).visibility !== "hidden" &&
    getComputedStyle(one).opacity !== "0";
  const found = {cut: [], equal: [], overlapping: [], wide: []};
  if (document.documentElement.scrollWidth > innerWidth + 1)
    found.wide = [...document.querySelectorAll("body *")].filter((one) => box(one).right > innerWidth + 1 &&
      !one.closest(".wide")).slice(0, 5).map((one) => `${one.tagName} ${one.className} ${box(one).right}`);
  for (const figure of document.querySelectorAll(".js-plotly-plot")) {
    const edge = box(figure.querySelector(".svg-container")), room = box(figure.closest(".wide, .gallery"));
    if (edge.bottom > room.bottom + 1 || (edge.right > room.right + 1 && !figure.closest("[style*=min-width]")))
      found.cut.push(`${figure.id}: ${edge.width} x ${edge.height} in ${room.width} x ${room.height}`);
    const texts = [...figure.querySelectorAll(
      ".infolayer text, .xtick text, .ytick text, .barlayer text, .parcoords text")].filter(shown);
    for (const one of texts) {
      const at = box(one);
      if (at.left < edge.left - 1 || at.right > edge.right + 1 || at.top < edge.top - 1 || at.bottom > edge.bottom + 1)
        found.cut.push(`${figure.id}: ${one.textContent}`);
    }
    texts.forEach((one, index) => {
      if (one.matches(".axis-title")) return; // slanted: their boxes overlap, they do not
      for (const other of texts.slice(index + 1).filter((other) => !other.matches(".axis-title"))) {
        const a = box(one), b = box(other);
        if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
            Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
          found.overlapping.push(`${figure.id}: ${one.textContent} / ${other.textContent}`);
      }
    });
    const lists = [".legendtext", ".axis-title"].map((kind) => [...figure.querySelectorAll(kind)]);
    for (const kind of ["x", "y"]) {
      const axes = new Map();
      for (const tick of figure.querySelectorAll(`.${kind}tick text`)) {
        const layer = tick.closest(`.${kind}axislayer-above, .${kind}axislayer-below`);
        if (!axes.has(layer)) axes.set(layer, []);
        axes.get(layer).push(tick);
      }
      lists.push(...axes.values());
    }
    for (const axis of figure.querySelectorAll(".parcoords .axis")) lists.push([...axis.querySelectorAll("text")]);
    for (const list of lists) {
      const words = list.filter(shown).map((one) => one.textContent.trim()).filter((text) => text);
      for (const word of new Set(words))
        if (words.filter((one) => one === word).length > 1) found.equal.push(`${figure.id}: ${word}`);
    }
  }
  return found;
})()
"""


# Until no size has changed for a moment
SETTLED = """
new Promise((done) => {
  let last = "";
  const compare = () => {
    const sizes = [...document.querySelectorAll(".svg-container")].map((one) => [one.clientWidth, one.clientHeight]);
    const now = JSON.stringify([sizes, document.documentElement.scrollHeight, innerWidth]);
    if (now === last) return done();
    last = now;
    setTimeout(compare, 150);
  };
  setTimeout(compare, 150);
})
"""


@dataclass
class View:
    """One page in the browser, at one size."""

    browser: Browser
    session: str
    is_loaded: bool = False
    complaints: list[str] = field(default_factory=list)  # errors on the console, and requests beyond the file

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)

    def evaluate(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def resize(self, width: int, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.settle()

    def emulate(self, media: str = "screen", scheme: str = "light") -> None:
        """The medium is "screen" or "print"; the scheme is "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.settle()

    def settle(self) -> None:
        """Plotly draws again a moment after the size has changed."""
        if self.is_loaded:
            self.evaluate(SETTLED)

    def unreadable(self) -> dict[str, list[str]]:
        """What is cut, equal, overlapping or too wide; kinds without a case are left out."""
        return {kind: cases for kind, cases in self.evaluate(UNREADABLE).items() if cases}

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        height = self.evaluate("document.documentElement.scrollHeight")
        width = self.evaluate("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, path: Path) -> None:
        self.call("Emulation.setEmulatedMedia", media="")
        answer = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        self.browser.views.pop(self.session)
        self.browser.call("Target.closeTarget", targetId=self.browser.targets.pop(self.session))


class Browser:
    """A running Chromium."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        ours = [*os.pipe(), *os.pipe()]
        theirs_in, self.to, self.back, theirs_out = (fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in ours)
        for one in ours:  # the browser has its own as 3 and 4
            os.close(one)
        words = [CHROMIUM, *QUIET.split(), *OFFLINE, f"--user-data-dir={folder}"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *words],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.count = 0
        self.rest = b""
        self.views: dict[str, View] = {}
        self.targets: dict[str, str] = {}

    def open(self, path: Path, width: int = 1400, height: int = 900, scheme: str = "light") -> View:
        """Opens a file, and waits until its figures are drawn."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        view = self.views[session] = View(self, session)
        self.targets[session] = target
        for domain in ("Page", "Runtime", "Log", "Network"):
            view.call(f"{domain}.enable")
        view.resize(width, height)
        view.emulate(scheme=scheme)
        view.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + PATIENCE
        while not view.evaluate("document.readyState === 'complete' && location.protocol === 'file:'"):
            assert time.monotonic() < deadline, f"{path} was not loaded"
            time.sleep(0.02)
        view.is_loaded = True
        view.settle()
        return view

    def call(self, method: str, session: str = "", /, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        os.write(self.to, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        for answer in self.messages():
            if answer.get("id") == self.count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self.note(answer)
        raise AssertionError(f"no answer to {method}")

    def messages(self) -> Iterator[dict[str, Any]]:
        while select.select([self.back], [], [], PATIENCE)[0]:
            chunk = os.read(self.back, 1 << 20)
            assert chunk, "the browser ended"
            *whole, self.rest = (self.rest + chunk).split(b"\0")
            yield from map(json.loads, whole)

    def note(self, event: dict[str, Any]) -> None:
        """Remembers an event that a report must not cause."""
        view = self.views.get(event.get("sessionId", ""))
        if view is None:
            return
        told = event["params"]
        match event["method"]:
            case "Runtime.exceptionThrown":
                view.complaints.append(str(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                view.complaints.append(str(told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                view.complaints.append(str(told["entry"]))
            case "Network.requestWillBeSent" if not told["request"]["url"].startswith(("file:", "data:", "blob:")):
                view.complaints.append(f"requested {told['request']['url']}")

    def close(self) -> None:
        with suppress(AssertionError, OSError):
            self.call("Browser.close")
        os.close(self.to)
        os.close(self.back)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests of a file. A conftest.py imports it."""
    if CHROMIUM is None:
        pytest.skip("chromium is not on this machine")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def assert_readable(browser: Browser, page: Path) -> None:
    """On a phone, wide, on paper, and on the phone again: nothing is cut, equal or too wide, and nothing is fetched."""
    view = browser.open(page, PHONE)
    found = {"phone": view.unreadable()}
    view.resize(1400)
    found["wide"] = view.unreadable()
    view.resize(PAPER)
    view.emulate(media="print")
    view.evaluate("dispatchEvent(new Event('beforeprint'))")
    found["print"] = view.unreadable()
    view.evaluate("dispatchEvent(new Event('afterprint'))")
    view.emulate()
    view.resize(PHONE)
    found["phone again"] = view.unreadable()
    view.close()
    assert {medium: cases for medium, cases in found.items() if cases} == {}
    assert view.complaints == []
