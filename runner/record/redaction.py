"""Text that leaves this machine, without the secrets in it: known ones, those in URLs, and all that look like one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from runner.compose.url_secrets import without_secrets
from runner.execute import probe

# The forms that issuers give their credentials.
CREDENTIAL = re.compile(
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    r"|\bhf_[A-Za-z]{34}\b"  # Hugging Face
    r"|\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,})"  # GitHub
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}"  # Slack
    r"|\bpypi-[A-Za-z0-9_-]{50,}"  # PyPI
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# A name of a file or variable that may hold a secret.
SECRET_NAME = re.compile(
    r"(?i)(^|[\W_])(credentials?|secrets?|passw(or)?ds?|tokens?|keys?|pem|p12|pfx|kubeconfig)([\W_]|$)"
)
_PRIVATE_KEY = re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)")
# As a shell, JSON, YAML, an HTTP header or a command line writes a secret beside its name. In lower case, `key` and
# `token` alone name other things here.
_NAMED = re.compile(
    r"""(?x) (?P<before>
      \b [A-Z0-9_]* (?:TOKEN|PASSWORD|PASSWD|SECRET|KEY|CREDENTIALS?) (?:_[A-Z0-9_]*)? ["']? \s* [=:] \s* ["']?
    | (?i: \b (?:\w*_)? (?:password|passwd|secret|api_?key|(?:access|auth|hf|hub)_token) ["']? \s* [=:] \s* ["']? )
    | (?i: --(?:[\w-]+-)? (?:password|secret|token|api-key) (?:=|["',\s]+) )
    | (?i: \b (?:bearer|basic) \s+ (?=\S{8}) )
    ) [^\s"',}]+"""
)
_SHORTEST = 6  # characters: a shorter value of a variable would be found in the middle of words


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with *** for each secret: the values of `environment` (by default this process's), and what has the form
    of a secret.

    >>> redacted("HF_TOKEN=abcdefgh python train.py", {})
    'HF_TOKEN=*** python train.py'
    """
    for secret in _secrets(os.environ if environment is None else environment):
        text = text.replace(secret, "***")
    text = _PRIVATE_KEY.sub("***", without_secrets(text))
    return CREDENTIAL.sub("***", _NAMED.sub(lambda match: f"{match['before']}***", text))


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """Values of variables that are named like a secret, and the hub's token; the longest first: it may hold another."""
    values = {value.strip() for name, value in environment.items() if SECRET_NAME.search(name)}
    _, token = probe.hub_token(environment)
    return sorted((value for value in values | {token or ""} if len(value) >= _SHORTEST), key=len, reverse=True)
