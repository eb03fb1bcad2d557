"""Who may use the embedded server: programs with the API key, and web pages of this machine. Needs starlette.

A page of any site can have the browser of a user send requests to a server on localhost, also under a name of its own
that it points there (DNS rebinding). Such requests name that site in Host or Origin.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from common.serving.openai_api import ApiError

API_KEY = "VLLM_API_KEY"  # vLLM's variable, so that a client needs one name for both servers
_NO_KEY = f"The Authorization header must be Bearer and the API key: the value of {API_KEY} when the server was started"
_FOR_BROWSERS = f"""This server answers only with an API key.

In a browser: start `runner ui` with {API_KEY} set to the key, and open Playground.
On a command line: runner ask, with {API_KEY} set; or curl -H "Authorization: Bearer ${API_KEY}".
"""
_DENIED = "PermissionDeniedError"


class Access:
    """ASGI middleware. Answers with status 401 without the API key that the environment sets, if it sets one, and 403
    to a page of another site; `host` is the address that the server listens on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._local = is_local(host)
        self._api_key = os.environ.get(API_KEY, "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope["path"], Headers(scope=scope))
            except ApiError as error:
                await _refusal(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._local and not _is_local_place(host):
            raise ApiError("Host is not localhost, where this server listens", None, 403, _DENIED)
        if origin is not None and not _is_local_place(_place(origin)) and _place(origin) != host:
            raise ApiError("Origin is another site", None, 403, _DENIED)
        given = headers.get("authorization", "").encode()
        if self._api_key and path != "/health" and not hmac.compare_digest(given, f"Bearer {self._api_key}".encode()):
            raise ApiError(_NO_KEY, None, 401, "AuthenticationError")


def _refusal(error: ApiError, path: str) -> Response:
    """A program gets the error as an object; who opens `/` is a person, who cannot send the header."""
    if path == "/" and error.status == 401:
        return PlainTextResponse(_FOR_BROWSERS, error.status)
    return JSONResponse(error.content, error.status)


def is_local(host: str) -> bool:
    """Whether a name or an address always means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_local_place(place: str) -> bool:
    """Whether `place`, as in HOST:PORT, is of this machine."""
    try:
        return is_local(urlsplit(f"//{place}").hostname or "")
    except ValueError:
        return False


def _place(origin: str) -> str:
    return origin.partition("://")[2]
