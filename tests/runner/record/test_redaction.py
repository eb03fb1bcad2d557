"""Secrets in text that leaves this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.record.redaction import redacted

KEY = "PRIVATE " + "KEY-----"  # apart: no file of the repository has what looks like one
SECRET = "Canary0Canary1"


@pytest.mark.parametrize(
    "text",
    [
        "export HF_TOKEN={}", "WANDB_API_KEY: '{}'", '"DB_PASSWORD": "{}"', "AWS_SECRET_ACCESS_KEY = {}",
        "MY_KEY_2={}", "password={}", "api_key: {}", '{{"access_token": "{}"}}', "Authorization: Bearer {}",
        "--password {}", '["--hub-token", "{}"]', '"--api-key",\n  "{}"', "postgresql://me:{}@db/runs",
        f"-----BEGIN RSA {KEY}\n{{}}\n-----END RSA {KEY}", f"-----BEGIN {KEY}\n{{}}",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    assert SECRET not in redacted(text.format(SECRET), {})
    assert "***" in redacted(text.format(SECRET), {})


@pytest.mark.parametrize("form", ["AKIA" + "A1" * 8, "hf_" + "aB" * 17, "ghp_" + "x" * 36])
def test_forms_of_issuers_are_hidden_wherever_they_are(form: str) -> None:
    assert redacted(f"download with {form} failed", {}) == "download with *** failed"


@pytest.mark.parametrize(
    "text",
    [
        '"key": "train-1f2e3d"', "tokens: 4096", '"train.label_tokens": 579', "--max-tokens 40", "a basic test",
        "tokenizer: model/tokenizer.json", "--seed 1 --output /store/train-1", "KEYBOARD=us",
    ],
)  # fmt: skip
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redacted(text, {}) == text


def test_values_of_this_environment_are_hidden_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}-from-a-file\n")
    environment = {"MY_TOKEN": SECRET, "OTHER_TOKEN": f"{SECRET}Canary2", "HF_TOKEN_PATH": str(tmp_path / "token")}
    text = f"a {SECRET}Canary2 b {SECRET} c {SECRET}-from-a-file"
    assert redacted(text, environment) == "a *** b *** c ***"


def test_short_values_are_no_secrets() -> None:
    assert redacted("step 1 of 10", {"SSH_KEYS": "1"}) == "step 1 of 10"
