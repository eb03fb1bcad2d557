"""A headless Chromium that is told what to do through a pipe (the DevTools protocol): pages with a strict content
policy let no script of a test in."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip

_PATIENCE = 60_000  # milliseconds until a condition that does not hold is a failure


class Refused(Exception):
    """What the browser did not do, and why."""


class Page:
    """One tab. `console` has what it wrote to its console and the errors of its scripts, `requests` every address."""

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from = os.fdopen(to_browser, "wb"), os.fdopen(from_browser, "rb")
        self._numbers, self._buffer, self._session = itertools.count(1), b"", None
        self.console: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        session = {"sessionId": self._session} if self._session else {}
        self._to.write(json.dumps(message | session).encode() + b"\0")
        self._to.flush()
        while (answer := self._next()).get("id") != number:
            self._note(answer)
        if "error" in answer:
            raise Refused(answer["error"]["message"])
        return answer["result"]

    def open(self, address: str) -> None:
        """Go to an address; returns when it is loaded."""
        self.call("Page.navigate", url=address)
        while (event := self._next()).get("method") != "Page.loadEventFired":
            self._note(event)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, condition: str) -> None:
        """Returns when a JavaScript condition holds, be it on the next page."""
        while True:
            with contextlib.suppress(Refused):  # the page was left meanwhile
                return self.run(_WHEN.replace("CONDITION", condition).replace("PATIENCE", str(_PATIENCE)))

    def press(self, key: str, code: int, text: str = "", control: bool = False) -> None:
        """Press and release a key."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 2 if control else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Type a text where the cursor is."""
        self.call("Input.insertText", text=text)

    def look(self, width: int, height: int = 900, dark: bool = False) -> None:
        """Change the size of the window and the colour scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, whole: bool = False) -> None:
        """Write a screenshot, of the window or of the whole page."""
        made = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(made["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = self._from.read1(2**16)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        values = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif event.get("method") == "Log.entryAdded":
            self.console.append(values["entry"]["text"])
        elif event.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.console.append(json.dumps(values))


_WHEN = """new Promise((done, fail) => {
  const look = () => { if (CONDITION) { watcher.disconnect(); clearInterval(timer); done(); } };
  setTimeout(() => fail(new Error(document.title + ": " + document.body.innerText.slice(0, 2000))), PATIENCE);
  const watcher = new MutationObserver(look), timer = setInterval(look, 50);
  watcher.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  look();
})"""


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Page]:
    """A new browser with its profile in a folder."""
    (browser_reads, to_browser), (from_browser, browser_writes) = os.pipe(), os.pipe()
    command = [str(PROGRAM), *_FLAGS, f"--user-data-dir={folder / 'profile'}"]
    shell = ["bash", "-c", f'exec "$@" 3<&{browser_reads} 4>&{browser_writes}', "bash", *command]  # its fixed numbers
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(shell, pass_fds=(browser_reads, browser_writes), stdout=log, stderr=log)
    for end in (browser_reads, browser_writes):
        os.close(end)
    try:
        yield Page(to_browser, from_browser)
    finally:
        process.kill()
        process.wait()
