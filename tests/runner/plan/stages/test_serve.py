from __future__ import annotations

import pytest
from planned import arguments, artifacts, command, recipe_of, value_of

from runner.errors import RecipeError
from runner.plan.stages import serve

BEFORE = "fetch tokenize export evaluate"


def test_the_smoke_test_compares_the_servers_answers_with_the_evaluation() -> None:
    made = command(serve.command, "serve.smoke_prompts=3", "serve.port=8000", after=BEFORE)
    assert (made.program, made.cached) == ("smoke_test.py", False)
    test, server = " ".join(arguments(made)).split(" -- ")
    assert value_of(test.split(), "--evaluation") == "/store/objects/evaluate-1"
    assert value_of(test.split(), "--prompts") == "3"
    assert "serve_embedded.py" in server
    assert value_of(server.split(), "--port") == value_of(test.split(), "--port") == "8000"
    assert test.endswith("--output OUT")


def test_a_server_in_the_foreground_is_the_step_itself() -> None:
    made = command(serve.command, "serve.mode=foreground", "serve.port=8000", "evaluate=none", after="fetch export")
    assert (made.program, made.title) == ("serve_embedded.py", "serve at http://127.0.0.1:8000/v1 until Ctrl-C")
    assert value_of(arguments(made), "--adapter") == "adapter=/store/objects/export-1/adapter"


@pytest.mark.parametrize("overrides", [["serve=none"], ["evaluate=none"]])
def test_nothing_is_served_without_an_engine_or_without_an_evaluation_to_compare_with(overrides: list[str]) -> None:
    assert serve.command(recipe_of(*overrides), artifacts(*BEFORE.split())) is None


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::1"])
def test_an_address_to_listen_on_is_accepted(host: str) -> None:
    made = command(serve.command, f"serve.host='{host}'", after=BEFORE)
    assert value_of(arguments(made), "--host") == host


@pytest.mark.parametrize("host", ["not.an.address", "", "127.0.0.1:80"])
def test_a_host_that_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(RecipeError, match="serve.host: .*say 127.0.0.1, or 0.0.0.0"):
        command(serve.command, f"serve.host='{host}'", after=BEFORE)
