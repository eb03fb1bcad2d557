"""`runner doctor` as a user types it, on machines with other tools, environments and hubs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_machine
import pytest

from runner.commands.doctor import _rendezvous, check_recipe, compare, probe_flags
from runner.compose.recipe import compose
from runner.plan.command import Place
from runner.plan.model import Plan

NEURON = {
    "neuronx-cc": "2.24.8799.0+6f62ff7c", "torch-neuronx": "2.9.0.2.13.26312+8e870898",
    "neuronx_distributed": "0.18.27753+a1b2c3d4", "transformers": "4.48.3",
}  # fmt: skip
STAGES = {"numpy": "1.26.4", "torch": "2.9.1", "torch-xla": "2.9.0", "tokenizers": "0.21.4", "safetensors": "0.5.3"}
TRN2 = ["hardware=trn2", "train.backend=nxd", "tp_size=8", "serve=none"]


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with fake_machine.hub() as address:
        yield address


def doctor(folder: Path, *words: str, **environment: str) -> tuple[int, str]:
    """Exit status and what was printed; nothing may be written."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    clean |= {"NO_PROXY": "127.0.0.1", "HF_HOME": str(folder / "no-token")} | environment
    before = sorted(folder.rglob("*"))
    command = [sys.executable, "-m", "runner", "doctor", *words]
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert sorted(folder.rglob("*")) == before
    return done.returncode, done.stdout


def findings(folder: Path, *words: str, **environment: str) -> dict[str, list[dict[str, str]]]:
    """The findings by what they are about."""
    _, said = doctor(folder, *words, "--json", **environment)
    found = json.loads(said)
    return {about: [one for one in found if one["about"] == about] for about in {one["about"] for one in found}}


def neuron_machine(folder: Path, packages: dict[str, str], listed: object = None) -> dict[str, str]:
    """Variables and files of a Trainium machine whose training environment is at folder/venv."""
    fake_machine.python(folder / "venv" / "python", packages)
    path = fake_machine.neuron_ls(folder / "bin", fake_machine.trn2() if listed is None else listed)
    return {"PATH": f"{path}:{os.environ['PATH']}"}


def on_trn2(folder: Path) -> list[str]:
    return [*TRN2, f"sdk.train_python={folder}/venv/python"]


def test_nothing_is_in_the_way_of_the_quickstart(tmp_path: Path) -> None:
    status, said = doctor(tmp_path)
    assert status == 0, said
    assert {line.split()[0] for line in said.splitlines()} == {"ok"}
    assert {line.split()[1] for line in said.splitlines()} == {
        "recipe", "python", "environment", "disk", "memory", "port"
    }  # fmt: skip


def test_a_recipe_that_cannot_work(tmp_path: Path) -> None:
    status, said = doctor(tmp_path, "quickstart", "parallel.tp_size=3")
    assert status == 1
    assert "error   recipe      parallel.tp_size: 3 does not divide num_attention_heads 8" in said


def test_what_is_no_requirement_is_said(tmp_path: Path) -> None:
    status, said = doctor(tmp_path, "quickstart", "sdk.train_packages=['torch=2']")
    assert status == 1
    assert "error   recipe      sdk.train_packages: torch=2: not a pip requirement" in said


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runner", "doctor", "quickstart", "tp_sise=2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_trainium_machine_as_it_should_be(tmp_path: Path) -> None:
    found = findings(tmp_path, "quickstart", *on_trn2(tmp_path), **neuron_machine(tmp_path, NEURON | STAGES))
    assert [one["level"] for one in found["neuron"]] == ["ok"]
    assert found["neuron"][0]["says"].startswith("64 cores, driver ")
    assert found["environment"][0]["says"] == f"{tmp_path}/venv/python: Python 3.10.12, 9 required packages installed"


def test_packages_of_another_release(tmp_path: Path) -> None:
    packages = NEURON | STAGES | {"neuronx-cc": "2.22.12471.0", "transformers": "4.57.1"}
    del packages["tokenizers"]
    found = findings(tmp_path, "quickstart", *on_trn2(tmp_path), **neuron_machine(tmp_path, packages))["packages"]
    assert [(one["level"], one["says"].partition(": ")[2], one["todo"]) for one in found] == [
        ("error", "tokenizers is missing", f"run: {tmp_path}/venv/python -m pip install 'tokenizers>=0.21,<1'"),
        ("error", "transformers is 4.57.1, not ==4.48.*",
         f"run: {tmp_path}/venv/python -m pip install 'transformers==4.48.*'"),
        ("error", "neuronx-cc is 2.22.12471.0, not >=2.23,<2.25",
         "choose the sdk that this machine has, or start the AMI of Neuron 2.29"),
        ("warning", "neuronx-cc is 2.22.12471.0, not ==2.24.* by the release notes of Neuron 2.29",
         "with another neuronx-distributed, train.nxd.release=RELEASE selects its modelling code"),
    ]  # fmt: skip


def test_bounds_count_on_neuron_too(tmp_path: Path) -> None:
    """An old library fails as a new one does: both are found, on Trainium as on a CPU."""
    packages = NEURON | STAGES | {"tokenizers": "0.13.3", "numpy": "3.0.0", "torch": "2.1.2"}
    found = findings(tmp_path, "quickstart", *on_trn2(tmp_path), **neuron_machine(tmp_path, packages))["packages"]
    assert [one["says"].partition(": ")[2] for one in found] == [
        "numpy is 3.0.0, not >=1.26,<3", "tokenizers is 0.13.3, not >=0.21,<1", "torch is 2.1.2, not >=2.8,<3"
    ]  # fmt: skip


def test_what_one_page_of_aws_says_alone_is_a_warning(tmp_path: Path) -> None:
    """Training environments of 2.29 are said to be those of 2.28 by one page, and not by another."""
    of_2_28 = {
        "neuronx-cc": "2.23.6484.0", "torch-neuronx": "2.9.0.2.12.1", "neuronx_distributed": "0.17.26814"
    }  # fmt: skip
    found = findings(tmp_path, "quickstart", *on_trn2(tmp_path), **neuron_machine(tmp_path, NEURON | STAGES | of_2_28))
    assert {one["level"] for one in found["packages"]} == {"warning"}
    assert found["environment"][0]["level"] == "ok"


def test_a_vllm_that_no_ami_has_is_said_with_how_to_install_it(tmp_path: Path) -> None:
    python = tmp_path / "vllm" / "python"
    fake_machine.python(python, {"neuronx-cc": "2.21.1", "neuronx-distributed-inference": "0.6.1"})
    recipe = ["llama3_8b_dolly_trn2", "sdk=neuron_2_26", f"sdk.serve_python={python}"]
    found = findings(tmp_path, *recipe)["packages"]
    assert [one["says"] for one in found] == [f"{python}: vllm is missing"]
    assert "upstreaming-to-vllm" in found[0]["todo"] and "sdk=neuron_2_28" in found[0]["todo"]


def test_a_machine_without_neuron(tmp_path: Path) -> None:
    found = findings(tmp_path, "quickstart", *TRN2)
    assert found["neuron"][0]["says"] == "neuron-ls: no such command"
    assert "rehearse with hardware=cpu" in found["neuron"][0]["todo"]
    assert "No such file or directory" in found["environment"][0]["says"]
    assert "choose the sdk of this machine (it has none)" in found["environment"][0]["todo"]


@pytest.mark.parametrize(
    ("listed", "level", "expected"),
    [
        (fake_machine.devices(1, 4, 96 * 2**30), "error", "the recipe trains on 8"),
        (fake_machine.devices(2, 4, 96 * 2**30), "warning", "trn2.48xlarge has 64"),
        (fake_machine.devices(16, 4, 64 * 2**30), "error", "a core has 16.0 GiB, not 24 GiB"),
        (
            fake_machine.devices(16, 4, 96 * 2**30, neuron_processes=[{"pid": 77, "command": "vllm serve"}]),
            "warning", "process 77 uses cores: vllm serve",
        ),
    ],
)  # fmt: skip
def test_other_cores_than_the_recipe_wants(tmp_path: Path, listed: object, level: str, expected: str) -> None:
    machine = neuron_machine(tmp_path, NEURON | STAGES, listed)
    found = findings(tmp_path, "quickstart", *on_trn2(tmp_path), **machine)["neuron"]
    assert [one["level"] for one in found if expected in one["says"]] == [level]
    assert all(one["todo"] for one in found if one["level"] != "ok")


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, said = doctor(tmp_path, "quickstart", f"serve.port={port}")
    assert status == 1
    assert f"error   port        {port} is in use" in said


def test_no_room_for_the_artifacts(tmp_path: Path) -> None:
    shapes = "hidden_size:16384,intermediate_size:53248,num_hidden_layers:1000,num_attention_heads:128"
    huge = f"model.architecture={{{shapes},num_key_value_heads:8,vocab_size:128256,max_position_embeddings:8192}}"
    found = findings(tmp_path, "quickstart", "model=llama3_8b", huge, "tp_size=1")
    assert found["disk"][0]["level"] == "error"
    assert "runner gc" in found["disk"][0]["todo"]
    assert found["memory"][0]["level"] == "error"


@pytest.mark.parametrize(
    ("model", "token", "expected"),
    [
        ("me/open", fake_machine.GOOD_TOKEN, {("ok", "token", "HF_TOKEN: me"), ("ok", "hub", "me/open: readable")}),
        ("me/open", "", {("warning", "token", "none: HF_TOKEN is not set"), ("ok", "hub", "me/open: readable")}),
        ("me/open", "hf_wrong", {("error", "token", "HF_TOKEN: the hub rejects it")}),
        ("me/gated", fake_machine.GOOD_TOKEN, {("error", "hub", "me/gated: you have not accepted its licence")}),
        ("me/absent", fake_machine.GOOD_TOKEN, {("error", "hub", "me/absent: no such model, or private")}),
        ("me/moved", fake_machine.GOOD_TOKEN, {("warning", "hub", "me/moved: the hub answered 307")}),
    ],
)
def test_the_hub(tmp_path: Path, hub: str, model: str, token: str, expected: set[tuple[str, str, str]]) -> None:
    words = ["quickstart", "model=llama3_2_1b", f"model.path={model}"]
    found = findings(tmp_path, *words, HF_ENDPOINT=hub, HF_TOKEN=token)
    said = {(one["level"], one["about"], one["says"].removeprefix(f"{hub}/")) for one in found["token"] + found["hub"]}
    assert expected <= said


def test_a_hub_out_of_reach_is_a_warning(tmp_path: Path) -> None:
    words = ["quickstart", "model=llama3_2_1b", "--target", "local"]
    found = findings(tmp_path, *words, HF_ENDPOINT="http://127.0.0.1:9", HF_TOKEN="hf_secret")
    assert found["hub"][0]["level"] == "warning"
    assert "model.source=folder" in found["hub"][0]["todo"]
    assert "hf_secret" not in json.dumps(found)


def test_finished_artifacts_need_no_room(tmp_path: Path) -> None:
    recipe = compose("quickstart").recipe
    context, _ = check_recipe(recipe, Place(Path("/code"), tmp_path))
    assert isinstance(context.plan, Plan)
    report = {
        "python": "3.10.1", "memory": None, "neuron": {"error": "-"}, "installed": [], "ports": {},
        "environments": {context.place.python: {"error": "-"}},
        "store": {"path": "store", "writable": True, "free": 0, "objects": [step.key for step in context.plan.steps]},
    }  # fmt: skip
    assert [one.level for one in compare(context, report) if one.about == "disk"] == ["ok"]


@pytest.mark.parametrize(
    ("reserved", "free", "expected"),
    [
        ([[44000, 44000], [48620, 48683]], True, ["ok"]),
        ([], True, ["warning"]),
        ([[44000, 44000]], True, ["warning"]),
        ([[44000, 48620]], False, ["error", "error", "ok"]),
    ],
)
def test_the_ports_of_the_training(tmp_path: Path, reserved: list[list[int]], free: bool, expected: list[str]) -> None:
    """44000 and 48620 are among those that Linux gives to any connection, unless they are reserved."""
    recipe = compose("llama3_8b_dolly_trn2", ["parallel.nodes=2", "target=slurm", "serve=none"]).recipe
    context, _ = check_recipe(recipe, Place(Path("/code"), tmp_path, "/python"))
    assert probe_flags(context).count("--any-port") == 2
    handed_out = {"range": [32768, 60999], "reserved": reserved}
    found = list(_rendezvous(context, {"any_ports": {"44000": free, "48620": free}, "handed_out": handed_out}))
    assert [one.level for one in found] == expected
    if expected == ["warning"]:
        assert found[0].todo.endswith("reserved_ports=48620" if reserved else "reserved_ports=44000,48620")
