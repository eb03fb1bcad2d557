"""What is wrong with a request, and with which status the browser is told."""

from __future__ import annotations

from http import HTTPStatus


class BadRequest(Exception):
    """A request that cannot be answered; its message is shown, with its status."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST):
        super().__init__(message)
        self.status = status


def not_found(message: str) -> BadRequest:
    """The error for an address, or a run, that does not exist."""
    return BadRequest(message, HTTPStatus.NOT_FOUND)
