"""The table of routes."""

from __future__ import annotations

import math

import pytest

from runner.ui import web
from runner.ui.web import BadRequest, Request, Response


def handler(_: Request) -> Response:
    return Response(b"")


def other(_: Request) -> Response:
    return Response(b"")


def test_the_longest_route_that_fits_is_taken() -> None:
    routes = {("GET", "/runs/*"): handler, ("GET", "/runs/live/*"): other, ("GET", "/"): other}
    assert web.find(routes, "GET", "/runs/sweep/001") == (handler, "sweep/001")
    assert web.find(routes, "GET", "/runs/live/a") == (other, "a")
    assert web.find(routes, "GET", "/") == (other, "")


@pytest.mark.parametrize(("method", "path"), [("POST", "/runs/a"), ("GET", "/runs/"), ("GET", "/other"), ("GET", "")])
def test_any_other_path_is_not_found(method: str, path: str) -> None:
    with pytest.raises(BadRequest, match="no such page"):
        web.find({("GET", "/runs/*"): handler}, method, path)


def test_json_has_null_for_what_is_no_number() -> None:
    assert web.as_json({"loss": [math.nan, math.inf, 1.5]}).body == b'{"loss":[null,null,1.5]}'
