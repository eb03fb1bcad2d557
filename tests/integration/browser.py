"""A real browser, headless Chromium, driven by the DevTools protocol over its debugging pipe."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-pipe"
)
# The shell puts our pipes where Chromium looks for them: it reads from 3 and writes to 4.
_SHELL = 'exec "$0" "$@" 3<&{} 4>&{}'
_UNTIL = """new Promise((done) => (function look() {
  if (%s) done(); else setTimeout(look, 20);
})())"""


class Page:
    """One page; `events` are the events of the protocol since it was opened."""

    def __init__(self, reading: int, writing: int):
        self._reader, self._writer = os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0)
        self._number, self._rest, self._session = 0, b"", {}
        self.events: list[dict[str, Any]] = []
        [target] = [each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        self._writer.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._reader.read1(2**20)
            assert more, "the browser has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def look(self, width: int, scheme: str = "light") -> None:
        """Have a window of this width, in the light or dark colours."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str) -> None:
        """Open an address; returns when the page is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def js(self, code: str) -> Any:
        """The value of an expression, of a promise when it is there."""
        done = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        self.js(_UNTIL % condition)

    def press(self, key: str, control: bool = False) -> None:
        """Press a key."""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, modifiers=2 if control else 0)

    def type(self, text: str) -> None:
        """Type a text where the cursor is."""
        self.call("Input.insertText", text=text)

    @property
    def problems(self) -> list[dict[str, Any]]:
        """Errors of scripts, and what the console says of the page."""
        kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [event["params"] for event in self.events if event.get("method") in kinds]

    @property
    def requests(self) -> list[str]:
        """The addresses that the page has asked for."""
        sent = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A page of a browser whose profile is in a new folder."""
    from_us, writing = os.pipe()
    reading, to_us = os.pipe()
    command = [
        "bash",
        "-c",
        _SHELL.format(from_us, to_us),
        str(CHROMIUM),
        *_FLAGS.split(),
        f"--user-data-dir={profile}",
    ]
    with subprocess.Popen(
        command, pass_fds=(from_us, to_us), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        os.close(from_us)
        os.close(to_us)
        try:
            yield Page(reading, writing)
        finally:
            process.kill()
