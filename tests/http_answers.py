"""What the handlers of the tests' small HTTP servers share."""

from __future__ import annotations

import json
from typing import Any


class Answers:
    """Stands before BaseHTTPRequestHandler among the bases of a handler: sends whole answers, and prints nothing."""

    def read_json(self: Any) -> Any:
        """The body of the request."""
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self: Any, status: int, content: bytes, kind: str | None = None) -> None:
        """Send a whole answer of a media type."""
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer_json(self: Any, status: int, value: Any) -> None:
        """Send a value as JSON."""
        self.answer(status, json.dumps(value).encode(), "application/json")

    def log_message(self, *_: object) -> None:
        """Nothing."""
