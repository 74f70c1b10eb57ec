"""An installed Chromium, driven through the DevTools protocol: pages as people see them, not as a parser does."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from contextlib import contextmanager

from tests.loopback import urlopen_here

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--remote-debugging-port=0", "--remote-allow-origins=*"),
)
WAIT = 60
"""Seconds after which a browser that says nothing is given up."""

WIDTHS = (360, 768, 1280, 1920)
"""Of a phone, a tablet, a notebook and a desk, in CSS pixels."""

CONTRASTS = r"""(() => {
  // colors as a canvas paints them, so that every notation of CSS is understood
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  const channels = css => {
    brush.clearRect(0, 0, 1, 1); brush.fillStyle = css; brush.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const known = new Map();
  const color = css => known.get(css) ?? known.set(css, channels(css)).get(css);
  const over = ([r, g, b, a], below) => [r, g, b].map((one, at) => a * one + (1 - a) * below[at]);
  const light = parts => {
    const [r, g, b] = parts.map(one => (one /= 255) <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    if (!element) return [255, 255, 255];
    return over(color(getComputedStyle(element).backgroundColor), ground(element.parentElement));
  };
  document.querySelectorAll("details").forEach(part => (part.open = true));
  const found = new Map();
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, style, title") || !element.getClientRects().length) continue;
    texts += 1;
    const style = getComputedStyle(element), drawn = element instanceof SVGElement;
    const below = ground(element);
    let [r, g, b, a] = color(drawn ? style.fill : style.color);
    for (let up = element; up; up = up.parentElement) a *= parseFloat(getComputedStyle(up).opacity);
    const pair = [light(over([r, g, b, a], below)), light(below)].sort((x, y) => y - x);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    const what = `${element.tagName} ${element.getAttribute("class") ?? ""}: ${node.data.trim().slice(0, 30)}`;
    if (ratio < 4.5) found.set(what, ratio);
  }
  return { texts, low: [...found].slice(0, 20) };
})()"""

CUT_OFF = r"""(() => {
  const width = document.documentElement.clientWidth;
  // what scrolls within itself is not cut off, nor is what an ellipsis ends, whose whole name is its title
  const scrolls = element => element.closest(".wide, .file, dialog, [aria-hidden=true]");
  return [...document.querySelectorAll("main *")]
    .filter(element => !scrolls(element) && element.getClientRects().length)
    .filter(element => { const box = element.getBoundingClientRect(); return box.right > width + 1 || box.left < -1; })
    .slice(0, 8).map(element => element.outerHTML.slice(0, 120));
})()"""


class Browser:
    """A tab of Chromium. What it says of its own accord, errors and requests above all, is in `events`."""

    def __init__(self, address):
        import websocket

        self._socket = websocket.create_connection(address, timeout=WAIT)
        self._number, self.events = 0, []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Ask for something; return the answer."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return message["result"]
            self.events.append(message)

    def run(self, script):
        """Return what a JavaScript expression comes to, as JSON values."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def size(self, width, height=900):
        """Give the window a width, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, media="", scheme="light"):
        """Show the page on a screen or on paper (`print`), in light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", media=media, features=[feature])

    def open(self, path):
        """Load a file and wait until all of it is there."""
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + WAIT
        while not self._loaded(path):
            assert time.monotonic() < end, f"{path} did not load"
            time.sleep(0.02)

    def _loaded(self, path):
        return self.run("document.readyState === 'complete' && location.pathname") == path.resolve().as_uri()[7:]

    def press(self, key):
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            code = {"Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37}[key]
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def errors(self):
        """Return what went wrong since the page was opened."""
        self.run("1")  # what was said before this answer has been read
        return [
            event["params"]
            for event in self.events
            if event["method"] == "Runtime.exceptionThrown"
            or (event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] in ("error", "warning"))
            or (event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "warning"))
        ]

    def requests(self):
        """Return what was asked for since the page was opened, the page itself included."""
        return [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]

    def picture(self, path, *, whole=True):
        """Write what is seen as a PNG file."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(shot["data"]))

    def _clip(self, whole):
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {**size, "x": 0, "y": 0, "scale": 1}}

    def pdf(self):
        """Return the page as it is printed on A4."""
        printed = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True)
        return base64.b64decode(printed["data"])

    def close(self):
        """Leave the tab."""
        self._socket.close()


@contextmanager
def chromium(profile):
    """Start Chromium with a profile of its own, and give a tab of it; it ends with the block."""
    process = subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        said, end = profile / "DevToolsActivePort", time.monotonic() + WAIT
        while not (said.exists() and "\n" in said.read_text()):
            assert process.poll() is None, "Chromium ended"
            assert time.monotonic() < end, "Chromium did not start"
            time.sleep(0.05)
        port = said.read_text().splitlines()[0]
        with urlopen_here(f"http://127.0.0.1:{port}/json/list", timeout=WAIT) as answer:
            tabs = json.load(answer)
        tab = Browser(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
        yield tab
        tab.close()
    finally:
        process.terminate()
        process.wait(WAIT)
