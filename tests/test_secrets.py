"""No file of the repository has a credential in it, by the forms that their issuers give them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from runner.record import redaction

ROOT = Path(__file__).parents[1]
CREDENTIAL = re.compile(redaction.CREDENTIAL.pattern.encode())


def test_no_tracked_file_has_a_credential() -> None:
    try:
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout")
    files = [ROOT / name.decode() for name in names if name]
    assert [file for file in files if file.is_file() and CREDENTIAL.search(file.read_bytes())] == []


def test_credentials_are_recognized() -> None:
    for text in (b"AKIA" + b"A1" * 8, b"hf_" + b"aB" * 17, b"ghp_" + b"x" * 36, b"-----BEGIN " + b"PRIVATE KEY-----"):
        assert CREDENTIAL.search(b"token = " + text)
