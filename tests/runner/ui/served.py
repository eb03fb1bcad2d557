"""A real server of the pages on loopback, and a browser's requests to it."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.ui.routes import ROUTES
from runner.ui.server import Server
from runner.ui.site import Site
from runner.ui.web import Routes


@dataclass(frozen=True)
class Answer:
    """What the server sent."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Browser:
    """Sends requests as a browser does; `cookie` is what it was given for the token."""

    server: Server
    cookie: str = ""

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, value: Any = None, **headers: str) -> Answer:
        return self.ask("POST", path, json.dumps(value).encode(), {"Origin": self.origin, **headers})

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        """A name in `headers` may have _ for -; one whose value is empty is left out."""
        sent = {"Cookie": self.cookie} | {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.server_port)) as connection:
            connection.request(method, path, body, {name: value for name, value in sent.items() if value})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def sign_in(self) -> Browser:
        """Open the address that the command prints."""
        answer = self.get(self.server.url.removeprefix(self.origin))
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return self


def playground_form(page: str) -> dict[str, Any]:
    """What the playground's page asks a person to fill in."""
    return json.loads(html.unescape(re.findall(r'data-form="([^"]*)"', page)[0]))


def texts_by_model(lines: Sequence[dict[str, Any]], models: Sequence[str]) -> dict[str, str]:
    """The answers of the playground, from the lines that it streams."""
    return {model: "".join(line.get("text", "") for line in lines if line.get("model") == model) for model in models}


@contextlib.contextmanager
def served(folder: Path, routes: Routes = ROUTES) -> Iterator[Browser]:
    """A browser that has not shown the token yet, of a server of the runs in a folder."""
    with Server(Site(folder), routes=routes) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Browser(server)
        finally:
            server.shutdown()
            thread.join()
