"""The HTTP server: listens on this machine alone, asks `access` first, then calls the function of the route.

The standard library's server is enough for one person's browser; Starlette, which the stage programs use, is not among
the packages of the control plane.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

from runner.errors import RecipeError
from runner.startup import print_error
from runner.ui import pages, web
from runner.ui.access import Access
from runner.ui.errors import BadRequest
from runner.ui.routes import ROUTES
from runner.ui.site import Site
from runner.ui.web import Request, Response, Routes

LOOPBACK = "127.0.0.1"
_LARGEST_BODY = 2**20  # bytes
_IDLE = 60.0  # seconds after which a connection without requests is closed
_ALWAYS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


class Server(ThreadingHTTPServer):
    """Serves `routes` on a port of this machine, 0 for any free one. Raises OSError for a port in use."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, site: Site, port: int = 0, routes: Routes = ROUTES):
        super().__init__((LOOPBACK, port), _Handler)
        self.site, self.routes = site, routes
        self.access = Access(self.server_port)

    @property
    def url(self) -> str:
        """The address to open, with the token."""
        return f"http://{LOOPBACK}:{self.server_port}/?token={self.access.token}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    timeout = _IDLE

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LARGEST_BODY:
            self.close_connection = True  # what follows is not read
            self._send(self._failure(BadRequest(f"a body of up to {_LARGEST_BODY} bytes, with its length, is needed")))
            return
        self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        try:
            response = self._response(body)
        except BadRequest as error:
            response = self._failure(error)
        except RecipeError as error:
            response = self._failure(BadRequest(str(error)))
        except OSError as error:  # of a file of a record; only an address is as long as ENAMETOOLONG says
            missing = error.errno in (errno.ENOENT, errno.ENAMETOOLONG)
            status = HTTPStatus.NOT_FOUND if missing else HTTPStatus.INTERNAL_SERVER_ERROR
            response = self._failure(BadRequest(f"{error.filename or self.path}: {error.strerror}", status))
        except Exception as error:
            print_error(f"ui: {self.command} {urlsplit(self.path).path}: {type(error).__name__}: {error}")
            response = self._failure(
                BadRequest("an error of runner ui; see its terminal", HTTPStatus.INTERNAL_SERVER_ERROR)
            )
        self._send(response)

    def _response(self, body: bytes) -> Response:
        access, address = self.server.access, urlsplit(self.path)
        refusal = access.refuses(self.command, self.headers)
        if refusal:
            raise BadRequest(refusal, HTTPStatus.FORBIDDEN)
        path, query = unquote(address.path), parse_qs(address.query, keep_blank_values=True)
        if access.opens(query.get("token", [""])[0]):  # the token leaves the address bar
            location = quote(f"/{path.lstrip('/')}")
            return Response(
                b"", status=HTTPStatus.SEE_OTHER, headers={"Location": location, "Set-Cookie": access.cookie}
            )
        if not access.knows(self.headers) and not path.startswith(pages.STATIC):  # what is in the package is no secret
            raise BadRequest("open the address that runner ui printed in its terminal", HTTPStatus.FORBIDDEN)
        handler, rest = web.find(self.server.routes, self.command, path)
        return handler(Request(self.server.site, self.command, path, query, rest, body))

    def _failure(self, error: BadRequest) -> Response:
        """A page for a person, JSON for a script."""
        if "text/html" in self.headers.get("Accept", ""):
            return pages.page("error.html", title=error.status.phrase, status=error.status, message=str(error))
        return web.as_json({"error": str(error)}, error.status)

    def _send(self, response: Response) -> None:
        headers = {**_ALWAYS, "Content-Security-Policy": _POLICY, **response.headers}
        try:
            if isinstance(response.body, bytes):
                self._send_whole(response.status, headers, response.kind, response.body)
            else:
                self._stream(response.status, headers, response.kind, response.body)
        except (BrokenPipeError, ConnectionResetError):  # the browser has left
            self.close_connection = True

    def _send_whole(self, status: HTTPStatus, headers: dict[str, str], kind: str, body: bytes) -> None:
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if status is HTTPStatus.OK and self.command == "GET":
            headers["ETag"] = etag
            if self.headers.get("If-None-Match") == etag:
                status, body = HTTPStatus.NOT_MODIFIED, b""
        self._begin(status, {**headers, "Content-Type": kind, "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _stream(self, status: HTTPStatus, headers: dict[str, str], kind: str, parts: Iterable[bytes]) -> None:
        """Its end is that of the connection."""
        self._begin(status, {**headers, "Content-Type": kind, "Connection": "close"})
        for part in parts:
            self.wfile.write(part)

    def _begin(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is the user's, and an address may hold the token."""
