"""A request, a response, and the table that says which function answers which address."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from runner.commands.tables import finite
from runner.ui.errors import BadRequest, not_found
from runner.ui.site import Site


@dataclass(frozen=True)
class Request:
    """What a browser asks for. `rest` is what stands for the `*` in the route's path; `query` has its parameters."""

    site: Site
    method: str
    path: str
    query: Mapping[str, list[str]]
    rest: str = ""
    body: bytes = b""

    def first(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return self.query.get(name, [default])[0]

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises BadRequest."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            raise BadRequest("the body is not JSON") from None
        if not isinstance(value, dict):
            raise BadRequest("the body is no JSON object")
        return value


@dataclass(frozen=True)
class Response:
    """An answer. A body of bytes is sent whole; one of several parts is streamed, each part as soon as it is there."""

    body: bytes | Iterable[bytes]
    kind: str = "text/html; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response]
# (method, path); a path that ends in * covers all that begin with what stands before.
Routes = Mapping[tuple[str, str], Handler]


def as_json(value: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A value as JSON, with null for what is no number."""
    body = json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(body.encode(), "application/json", status)


def find(routes: Routes, method: str, path: str) -> tuple[Handler, str]:
    """The handler of a path, and what stands for the `*`; the longest match counts. Raises BadRequest."""
    if (method, path) in routes:
        return routes[method, path], ""
    starts = [known[:-1] for verb, known in routes if verb == method and known.endswith("*")]
    matching = [start for start in starts if path.startswith(start) and path != start]
    if not matching:
        raise not_found(f"{path}: no such page")
    start = max(matching, key=len)
    return routes[method, f"{start}*"], path.removeprefix(start)
