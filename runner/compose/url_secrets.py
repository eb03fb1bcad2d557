"""Passwords and tokens in URLs: `postgresql://me:PASSWORD@db/runs`, `https://host/file?token=TOKEN`."""

from __future__ import annotations

import re

_SECRET = re.compile(
    r"""(?ix) (?P<before> \b [a-z][a-z0-9+.-]* :// [^\s/:@]* : ) [^\s/@]+ (?=@)
    | (?P<name> [?&] [\w-]* (?:token|password|passwd|secret|api_?key|signature) = ) [^\s&#'"]+"""
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


def has_secret(text: str) -> bool:
    """Whether a text is a URL with a password or a token; a text in which a URL only occurs is not."""
    return bool(_URL.fullmatch(text) and _SECRET.search(text))


def without_secrets(text: str) -> str:
    """A text with *** in place of each password and token in its URLs.

    >>> without_secrets("hydra.sweeper.storage=postgresql://me:hunter2@db/runs")
    'hydra.sweeper.storage=postgresql://me:***@db/runs'
    """
    return _SECRET.sub(lambda match: f"{match['before'] or match['name']}***", text)
