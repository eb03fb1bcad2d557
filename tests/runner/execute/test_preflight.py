"""Packages and ports are checked before the first step."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_machine
import pytest

from runner.execute import cores
from runner.execute.executor import execute
from tests.runner.execute.small_plans import WRITE, events, step


def test_an_environment_that_lacks_a_package_is_refused_before_any_work(tmp_path: Path) -> None:
    store, python = tmp_path / "store", tmp_path / "venv" / "python"
    fake_machine.python(python, {"transformers": "4.57.6", "torch": "2.8.0"})
    steps = [step(store, "convert", WRITE), step(store, "train", WRITE)]
    steps[1]["packages"] = {str(python): ["python>=3.10", "transformers==4.48.*", "torch>=2.8", "neuronx-distributed"]}
    assert execute({"store": str(store), "steps": steps}, tmp_path / "run") == 2
    [failed] = [event for event in events(tmp_path / "run") if event["event"] == "step"]
    assert failed["reason"].startswith(
        f"{python}: transformers is 4.57.6, not ==4.48.*; neuronx-distributed is missing (`runner doctor`"
    )
    assert (failed["stage"], failed["state"]) == ("train", "failed")
    assert not store.exists()


def test_an_environment_of_finished_steps_need_not_be_there(tmp_path: Path) -> None:
    store = tmp_path / "store"
    one = step(store, "convert", WRITE)
    assert execute({"store": str(store), "steps": [one]}, tmp_path / "one") == 0
    one["packages"] = {str(tmp_path / "gone" / "python"): ["torch"]}
    assert execute({"store": str(store), "steps": [one]}, tmp_path / "two") == 0
    (store / "objects" / one["key"] / "made").unlink()
    (store / "objects" / one["key"]).rmdir()
    assert execute({"store": str(store), "steps": [one]}, tmp_path / "three") == 2
    assert "gone/python: No such file or directory" in events(tmp_path / "three")[-2]["reason"]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one.getsockname()[1]


def test_a_port_in_use_is_told_before_any_work(tmp_path: Path, monkeypatch, taken: int) -> None:
    monkeypatch.setenv("RUNNER_CORES", str(tmp_path / "cores"))
    store = tmp_path / "store"
    steps = [step(store, "convert", WRITE), step(store, "train", WRITE)]
    steps[1] |= {"ports": [taken], "cores": {"count": 2, "of": 4, "wait": True}}
    assert execute({"store": str(store), "steps": steps}, tmp_path / "run") == 2
    assert f"port {taken} is in use" in events(tmp_path / "run")[-2]["reason"]
    assert not store.exists()


def test_a_port_of_a_run_that_holds_cores_is_waited_for(tmp_path: Path, monkeypatch, taken: int) -> None:
    """The runs of one machine share it: the second finds its own port beside the first's."""
    monkeypatch.setenv("RUNNER_CORES", str(tmp_path / "cores"))
    one = step(tmp_path / "store", "train", "import os; print(os.environ['NEURON_RT_ROOT_COMM_ID'])")
    one |= {"ports": [taken], "cores": {"count": 2, "of": 4, "wait": True}}
    one["env"] = {"NEURON_RT_ROOT_COMM_ID": f"localhost:{taken}"}
    with cores.lease(2, 4, "the first", None):
        assert execute({"store": str(tmp_path / "store"), "steps": [one]}, tmp_path / "run") == 0
    assert (tmp_path / "run" / "logs" / "train.log").read_text() == f"localhost:{taken + 2}\n"


def test_a_runner_without_the_stages_packages_says_what_to_install(tmp_path: Path) -> None:
    step_without = step(tmp_path / "store", "train", WRITE) | {"packages": {sys.executable: ["no-such-package"]}}
    assert execute({"store": str(tmp_path / "store"), "steps": [step_without]}, tmp_path / "run") == 2
    [reason] = [event["reason"] for event in events(tmp_path / "run") if event["event"] == "step"]
    assert "no-such-package is missing (pip install 'trainium-recipes[train]'" in reason
