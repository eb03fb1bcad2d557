"""The Jinja environment of chat templates, as transformers' apply_chat_template has it. Needs `jinja2`."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

TODAY = datetime(2024, 7, 26)  # what Llama 3's template writes where it finds no clock


def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox, with transformers' settings and functions.

    Only the date is always the same: today's would give other tokens tomorrow.
    """
    extensions = ["jinja2.ext.loopcontrols", _Generation]
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    sandbox.globals |= {"raise_exception": _refuse, "strftime_now": TODAY.strftime}
    sandbox.filters["tojson"] = _tojson
    return sandbox


class _Generation(Extension):
    """{% generation %} marks an answer for transformers' assistant masks; what is inside is written as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Any) -> str:
        return caller()


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Plain JSON, with transformers' arguments: jinja2's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
