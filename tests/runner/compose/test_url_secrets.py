"""URLs with passwords and tokens."""

from __future__ import annotations

import pytest

from runner.compose.recipe import compose
from runner.compose.url_secrets import command_has_secret, has_secret, without_secrets
from runner.errors import RecipeError

SECRETS = [
    ("http://me:hunter2@mlflow:5000", "http://me:***@mlflow:5000"),
    ("postgresql+psycopg2://me:hunter2@db/runs", "postgresql+psycopg2://me:***@db/runs"),
    ("https://:hunter2@host/file", "https://:***@host/file"),
    ("https://host/file?a=1&access_token=hunter2&b=2", "https://host/file?a=1&access_token=***&b=2"),
    ("https://host/file?X-Amz-Signature=hunter2", "https://host/file?X-Amz-Signature=***"),
]


@pytest.mark.parametrize(("url", "shown"), SECRETS)
def test_a_secret_is_found_and_hidden_in_a_word_of_a_command(url: str, shown: str) -> None:
    assert has_secret(url)
    assert without_secrets(f"hydra.sweeper.storage={url}") == f"hydra.sweeper.storage={shown}"


@pytest.mark.parametrize(
    "text",
    ["http://mlflow:5000", "http://me@mlflow:5000", "s3://bucket/key", "sqlite:///a:b@c.db", "me@host:22", "a: b@c",
     "https://host/?tokens_per_row=5", "Answer with https://me:word@host, nothing else."],
)  # fmt: skip
def test_other_texts_are_left_alone(text: str) -> None:
    assert not has_secret(text)


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("curl -d x https://me:hunter2@host", True),
        ("curl 'https://host/?token=hunter2'", True),
        ("curl https://hooks.slack.com/services/T0/B0/hunter2", True),
        ('curl "https://hooks.slack.com/services/$(cat ~/.hook)" "https://host/?token=$TOKEN" https://u:${P}@h', False),
        ('mail -s "$RUNNER_RUN: $RUNNER_STATE" me@host </dev/null', False),
    ],
)
def test_a_command_reads_its_secrets_elsewhere(command: str, found: bool) -> None:
    assert command_has_secret(command) is found


@pytest.mark.parametrize("key", ["tracker.uri", "target.ray.address", "dataset.path"])
def test_no_key_takes_one(key: str) -> None:
    with pytest.raises(RecipeError, match=f"{key}: contains a password or a token") as refused:
        compose("quickstart", [f"{key}='http://me:hunter2@host:1'"])
    assert "hunter2" not in str(refused.value)
