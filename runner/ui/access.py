"""Who may ask: the browser that was given the token, from a page of this server, under a name of this machine.

Other users of the machine lack the token. A page of another site could make the browser send requests: its Origin
differs, and the cookie is not sent along. A name that its owner points at 127.0.0.1 (DNS rebinding) is not ours.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from email.message import Message
from http.cookies import CookieError, SimpleCookie

_OUR_NAMES = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Access:
    """The token of one server. Cookies do not tell ports apart, so that of each server has a name of its own."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def opens(self, token: str) -> bool:
        """Whether a token is ours."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    @property
    def cookie(self) -> str:
        """The Set-Cookie header for a browser that has shown the token."""
        return f"{self._name}={self.token}; Path=/; HttpOnly; SameSite=Strict"

    def refuses(self, method: str, headers: Message) -> str | None:
        """Why a request is refused before its address is looked at; None if it may go on."""
        host = headers.get("Host", "")
        if host.rpartition(":")[0] not in _OUR_NAMES:  # any port: an SSH tunnel may begin at another
            return f"{host or 'no host'}: not a name of this server; use {_OUR_NAMES[0]}"
        origin = headers.get("Origin")
        if origin not in (None, f"http://{host}") or (method != "GET" and origin is None):
            return "this request comes from another page"
        return None

    def knows(self, headers: Message) -> bool:
        """Whether the browser has shown the token before."""
        try:
            cookies = SimpleCookie("; ".join(headers.get_all("Cookie", [])))
        except CookieError:
            return False
        return self._name in cookies and self.opens(cookies[self._name].value)

    @property
    def _name(self) -> str:
        return f"runner-ui-{self.port}"
