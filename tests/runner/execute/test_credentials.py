"""Programs get the credentials that they need, and no others."""

from __future__ import annotations

import pytest

from runner.execute import credentials

ALL = {"HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"}


@pytest.mark.parametrize(
    ("argv", "env", "needed"),
    [
        (["python", "train_torch.py"], {}, set()),
        (["python", "fetch_model.py", "--hub", "a/b"], {}, {"HF_TOKEN"}),
        (["python", "train_nxd.py"], {"NEURON_COMPILE_CACHE_URL": "s3://bucket/cache"}, {"AWS_SECRET_ACCESS_KEY"}),
    ],
)
def test_a_step_gets_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], env: dict[str, str], needed: set[str]
) -> None:
    for name in ALL:
        monkeypatch.setenv(name, "canary")
    given = credentials.of_step({"argv": argv, "env": env})
    assert ALL & given.keys() == needed
    assert "PATH" in given


def test_the_executor_gets_what_some_step_may_need(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALL:
        monkeypatch.setenv(name, "canary")
    assert ALL & credentials.of_executor().keys() == {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"}
