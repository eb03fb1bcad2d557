"""Passwords and tokens in URLs: `postgresql://me:PASSWORD@db/runs`, `https://host/file?token=TOKEN`."""

from __future__ import annotations

import re

_SECRET = re.compile(
    r"""(?ix) (?P<before> \b [a-z][a-z0-9+.-]* :// [^\s/:@]* : ) [^\s/@]+ (?=@)
    | (?P<name> [?&] [\w-]* (?:token|password|passwd|secret|api_?key|signature) = ) [^\s&#'"]+"""
)
# Addresses that let whoever knows them send messages.
_WEBHOOK = re.compile(
    r"https://(hooks\.slack\.com/\w+|discord(app)?\.com/api/webhooks|[\w.-]+\.webhook\.office\.com)/\w"
)
_EXPANSION = re.compile(r"\$(\w+|\{[^}]*\}|\([^)]*\))")  # of a shell
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


def has_secret(text: str) -> bool:
    """Whether a text is a URL with a password or a token; a text in which a URL only occurs is not."""
    return bool(_URL.fullmatch(text) and _SECRET.search(text))


def command_has_secret(command: str) -> bool:
    """Whether a URL in a command of a shell holds a password or a token, or is one of a webhook.

    >>> command_has_secret("curl https://me:hunter2@host"), command_has_secret("curl https://me:$PASSWORD@host")
    (True, False)
    """
    written = _EXPANSION.sub("", command)
    return bool(_SECRET.search(written) or _WEBHOOK.search(written))


def without_secrets(text: str) -> str:
    """A text with *** in place of each password and token in its URLs.

    >>> without_secrets("hydra.sweeper.storage=postgresql://me:hunter2@db/runs")
    'hydra.sweeper.storage=postgresql://me:***@db/runs'
    """
    return _SECRET.sub(lambda match: f"{match['before'] or match['name']}***", text)
