"""A machine over SSH, before it is reached. Runs on a real sshd are in tests/integration/test_ssh.py."""

from __future__ import annotations

import pytest

from runner import targets
from runner.compose.recipe import compose
from runner.errors import RecipeError


def test_a_host_is_required() -> None:
    with pytest.raises(RecipeError, match="target.host: missing; name a machine"):
        targets.of(compose("quickstart", ["target=ssh", "target.host=null"]).recipe.target)


def test_a_machine_is_called_by_its_host() -> None:
    target = targets.of(compose("quickstart", ["target=ssh", "target.host=me@there:2222"]).recipe.target)
    assert target.where == "me@there:2222"
    assert target.survives and not target.local_store and not target.has_queue
