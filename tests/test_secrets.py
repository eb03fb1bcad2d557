"""No file of the repository has a credential in it, by the forms that their issuers give them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CREDENTIAL = re.compile(
    rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    rb"|\bhf_[A-Za-z]{34}\b"  # Hugging Face
    rb"|\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,})"  # GitHub
    rb"|\bxox[abprs]-[A-Za-z0-9-]{10,}"  # Slack
    rb"|\bpypi-[A-Za-z0-9_-]{50,}"  # PyPI
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


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
