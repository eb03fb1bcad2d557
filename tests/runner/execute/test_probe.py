"""The probe as it runs on a machine: a program of its own, with the tools that it finds there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_machine
import pytest

from runner.execute import probe

PROGRAM = Path(probe.__file__)


def report(*flags: object, path: Path | None = None, **environment: str) -> dict[str, Any]:
    """What the probe prints, with no variables of the hub but those given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    clean |= {"NO_PROXY": "127.0.0.1", "PATH": f"{path}:{clean['PATH']}" if path else clean["PATH"]}
    command = [sys.executable, "-I", "-S", str(PROGRAM), *map(str, flags)]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with fake_machine.hub() as address:
        yield address


def test_it_needs_the_standard_library_alone() -> None:
    found = report()  # -I -S: no package can be imported, nor anything beside it
    assert found["memory"]["total"] >= found["memory"]["available"] > 0
    assert found["environments"] == {}


def test_a_system_without_proc(tmp_path: Path) -> None:
    assert probe.memory(tmp_path / "meminfo") is None


def test_neuron_cores_memory_and_who_holds_them(tmp_path: Path) -> None:
    busy = [{"pid": 113985, "command": "neuron-bench exec --run-as-cc-neff --...", "neuron_runtime_version": "2.0.0"}]
    listed = fake_machine.devices(16, 4, 96 * 2**30, neuron_processes=busy)
    found = report(path=fake_machine.neuron_ls(tmp_path, listed))["neuron"]
    assert (found["devices"], found["cores"], found["memory"]) == (16, 64, 16 * 96 * 2**30)
    assert found["processes"] == {"113985": "neuron-bench exec --run-as-cc-neff --..."}


def test_neuron_ls_before_it_listed_core_ids(tmp_path: Path) -> None:
    device = {"neuron_device": 0, "bdf": "00:1e.0", "connected_to": None, "nc_count": 2, "memory_size": 34359738368}
    found = report(path=fake_machine.neuron_ls(tmp_path, [{**device, "neuron_processes": []}]))["neuron"]
    assert (found["cores"], found["memory"], found["processes"]) == (2, 32 * 2**30, {})


def test_neuron_ls_as_it_is_announced_for_2_34(tmp_path: Path) -> None:
    content = {"instance_type": "trn2.48xlarge", "devices": fake_machine.trn2()}
    found = report(path=fake_machine.neuron_ls(tmp_path, content, flag="--output-format"))["neuron"]
    assert found["cores"] == 64


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('nrt: no device found')", "nrt: no device found"),
        ("print('[]')", "no device in its answer"),
        ("print('not JSON')", "Expecting value"),
    ],
)
def test_a_neuron_ls_that_fails_says_why(tmp_path: Path, body: str, reason: str) -> None:
    fake_machine.command(tmp_path / "neuron-ls", body)
    assert reason in report(path=tmp_path)["neuron"]["error"]


def test_environments(tmp_path: Path) -> None:
    broken = fake_machine.command(tmp_path / "broken", "sys.exit(3)")
    found = report("--python", sys.executable, "--python", "/nowhere/python", "--python", broken)["environments"]
    assert found[sys.executable]["version"] == sys.version.split()[0]
    assert "pytest" in found[sys.executable]["packages"]
    assert found["/nowhere/python"] == {"error": "No such file or directory"}
    assert "exit status 3" in found[str(broken)]["error"]


def test_the_store_that_is_not_there_yet(tmp_path: Path) -> None:
    found = report("--store", tmp_path / "not" / "yet")["store"]
    assert found["objects"] == []
    assert found["writable"]
    assert found["free"] > 0
    assert not list(tmp_path.iterdir())


def test_finished_artifacts(tmp_path: Path) -> None:
    (tmp_path / "objects" / "fetch-1").mkdir(parents=True)
    assert report("--store", tmp_path)["store"]["objects"] == ["fetch-1"]


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert report("--port", port)["ports"] == {str(port): False}
    assert report("--port", port)["ports"] == {str(port): True}


def test_an_accepted_token(hub: str, tmp_path: Path) -> None:
    found = report("--model", "me/open", HF_ENDPOINT=hub, HF_TOKEN=fake_machine.GOOD_TOKEN)
    assert found["hub"] == {"endpoint": hub, "token": "HF_TOKEN", "user": "me", "status": 200, "code": None}
    assert fake_machine.GOOD_TOKEN not in json.dumps(found)


def test_the_token_file_of_the_hubs_login(hub: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{fake_machine.GOOD_TOKEN}\n")
    found = report("--model", "me/open", HF_ENDPOINT=hub, HF_HOME=str(tmp_path))["hub"]
    assert (found["token"], found["user"]) == (str(tmp_path / "token"), "me")


@pytest.mark.parametrize(
    ("model", "token", "expected"),
    [
        ("me/gated", fake_machine.GOOD_TOKEN, {"user": "me", "status": 403, "code": "GatedRepo"}),
        ("me/open", "hf_wrong", {"user": None, "status": 200, "code": None}),
        ("me/open", "hf_two\nlines", {"user": None, "status": 200, "code": None}),
        ("me/open", "hf_schlüssel", {"user": None, "status": 200, "code": None}),
        ("me/absent", fake_machine.GOOD_TOKEN, {"user": "me", "status": 404, "code": "RepoNotFound"}),
        ("me/moved", fake_machine.GOOD_TOKEN, {"user": "me", "status": 307, "code": None}),
    ],
)
def test_what_the_hub_answers(hub: str, model: str, token: str, expected: dict[str, Any]) -> None:
    found = report("--model", model, HF_ENDPOINT=hub, HF_TOKEN=token)["hub"]
    assert {name: found[name] for name in expected} == expected
    assert token[:6] not in json.dumps(found)


def test_a_hub_that_does_not_answer(tmp_path: Path) -> None:
    found = report("--model", "me/open", HF_ENDPOINT="http://127.0.0.1:9", HF_TOKEN="hf_secret", HF_HOME=str(tmp_path))
    assert "refused" in found["hub"]["error"]
    assert "hf_secret" not in json.dumps(found)


def test_a_hub_that_must_not_be_asked() -> None:
    found = report("--model", "me/open", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")["hub"]
    assert found["error"] == "HF_HUB_OFFLINE is set"


@pytest.mark.parametrize(
    ("text", "expected"), [("", []), ("44000,48620-48683", [[44000, 44000], [48620, 48683]])]
)  # fmt: skip
def test_ports_that_the_system_hands_out(tmp_path: Path, text: str, expected: list[list[int]]) -> None:
    (tmp_path / "ip_local_port_range").write_text("32768\t60999\n")
    (tmp_path / "ip_local_reserved_ports").write_text(f"{text}\n")
    assert probe.handed_out(tmp_path) == {"range": [32768, 60999], "reserved": expected}
    assert probe.handed_out(tmp_path / "nowhere") is None
