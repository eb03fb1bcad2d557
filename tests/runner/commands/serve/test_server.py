"""`runner serve`: what is refused, and real servers that are listed, asked, killed and stopped."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from served_runs import a_run

from runner.commands.serve import servers
from runner.commands.serve.server import plan_of
from runner.errors import RecipeError
from runner.execute import files
from runner.execute.events import EventWriter
from runner.record import create
from runner.record.runs import Run, every

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "runner", *words, "--in", str(folder / "runs")]


def runner(folder: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(command(folder, *words), cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pid_of_server(run: Run) -> int:
    """The program that the run's executor started."""
    executor = next(event["pid"] for event in run.events() if event["event"] == "run")
    [server] = Path(f"/proc/{executor}/task/{executor}/children").read_text().split()
    return int(server)


def words_of(folder: Path, *words: str) -> list[str]:
    _, plan = plan_of(words, folder / "runs")
    [step] = plan.steps
    return list(step.argv)


def values_of(argv: list[str], flag: str) -> list[str]:
    return [argv[place + 1] for place, word in enumerate(argv) if word == flag]


def test_one_run_is_served_by_the_name_in_its_recipe_and_several_by_theirs(tmp_path, tiny_model, tiny_adapter) -> None:
    one, two = (a_run(tmp_path, tiny_model, tiny_adapter, number=number) for number in (1, 2))
    store = tmp_path / "store" / "objects"
    exported = [f"{store}/export-{number:016x}/adapter" for number in (1, 2)]
    assert values_of(words_of(tmp_path), "--adapter") == [f"adapter={exported[1]}"], "the last one"
    alone = words_of(tmp_path, one.name, "serve.adapter_name=sql", "serve.port=8000")
    assert values_of(alone, "--adapter") == [f"sql={exported[0]}"]
    assert (values_of(alone, "--port"), values_of(alone, "--model")) == (["8000"], [f"{store}/fetch-a"])
    both = words_of(tmp_path, one.name, f"chat={two.name}")
    assert values_of(both, "--adapter") == [f"{one.name}={exported[0]}", f"chat={exported[1]}"]


def test_a_run_is_served_by_another_engine_than_its_recipe_says(tmp_path, tiny_model, tiny_adapter) -> None:
    a_run(tmp_path, tiny_model, tiny_adapter)
    argv = words_of(tmp_path, "last", "serve=vllm", "sdk.serve_python=/venv/bin/python")
    assert argv[1].endswith("serve_vllm.py") and values_of(argv, "--python") == ["/venv/bin/python"]


def test_what_one_server_cannot_serve_is_refused(tmp_path, tiny_model, tiny_adapter) -> None:
    one = a_run(tmp_path, tiny_model, tiny_adapter)
    other = a_run(tmp_path, tiny_model, tiny_adapter, base="b", number=2)
    large = a_run(tmp_path, tiny_model, tiny_adapter, "train.lora.rank=600", number=3)
    vllm = ["serve=vllm", "sdk.serve_python=python"]
    on_inf2 = [one.name, "hardware=inf2_xlarge", "serve=vllm"]
    for words, message in (
        ([one.name, other.name], f"{other.name}: has a different base model than {one.name}"),
        ([f"x={one.name}", f"x={large.name}"], "x: two adapters have this name"),
        ([f"base={one.name}", large.name], "base: this is the name of the base model"),
        ([one.name, large.name, *vllm], f"{large.name}: train.lora.rank: vLLM serves ranks up to 512"),
        ([one.name, large.name, *vllm, "sdk.vllm_lora=false"], "serves only merged models"),
        ([one.name, "train.lora.rank=8"], "train.lora.rank=8: the model is already trained"),
        ([one.name, "serve.prot=1"], "serve.prot=1: no such key; did you mean serve.port"),
        ([one.name, "serve.port=x"], f"{one.name}: serve.port: must be an integer"),
        ([one.name, "serve=none"], "serve=none serves nothing"),
        ([one.name, "hardware=inf2_xlarge"], "serve=embedded: serves on a CPU alone; take serve=vllm on inf2.xlarge"),
        ([*on_inf2, "serve.tp_size=4"], "is more than the 2 cores of inf2.xlarge; choose serve.tp_size=2"),
        ([*on_inf2, "sdk.name=2.33", "sdk.serves_on=[trn2]"], "sdk: 2.33 serves on trn2, not on inf2"),
        (["quickstart", "serve=none"], "serve=none serves nothing"),
        (["quickstart", one.name], "a recipe cannot be served together"),
        (["nobody"], "nobody: no such run"),
    ):
        with pytest.raises(RecipeError, match=message):
            plan_of(words, tmp_path / "runs")
    (one.folder / "artifacts" / "export").unlink()
    with pytest.raises(RecipeError, match="export/adapter does not exist .any more.; run its recipe again"):
        plan_of([one.name], tmp_path / "runs")
    with pytest.raises(RecipeError, match="none exist yet"):
        plan_of(["last"], tmp_path / "empty")


def test_a_run_is_served_on_other_hardware_by_the_release_for_it(tmp_path, tiny_model, tiny_adapter) -> None:
    one = a_run(tmp_path, tiny_model, tiny_adapter)
    composed, plan = plan_of([one.name, "serve=vllm", "hardware=inf2_48xlarge", "serve.tp_size=8"], tmp_path / "runs")
    assert (composed.recipe.hardware.name, composed.recipe.sdk.name) == ("inf2.48xlarge", "2.28")
    assert plan.steps[0].cores == {"count": 8, "of": 24, "wait": True}
    assert composed.recipe.sdk.serve_python in plan.steps[0].argv


def test_stop_ends_no_run_that_is_not_a_server(tmp_path, tiny_model, tiny_adapter) -> None:
    training = a_run(tmp_path, tiny_model, tiny_adapter)
    to_serve = a_run(tmp_path, tiny_model, tiny_adapter, "serve.mode=foreground", number=2)  # its server never began
    for run in (training, to_serve):
        said = runner(tmp_path, "stop", run.name, status=2)
        assert said == (f"runner: {run.name}: not serving (yet); `runner cancel {run.name}` stops a run of any kind\n")
    assert "last: no servers are running" in runner(tmp_path, "stop", status=2)


def test_a_server_that_is_not_ready_yet_has_its_port_already(tmp_path, tiny_model, tiny_adapter) -> None:
    trained = a_run(tmp_path, tiny_model, tiny_adapter)
    first = create.create(*plan_of([trained.name, "serve.port=8123"], tmp_path / "runs"))
    (first / "logs").mkdir()
    EventWriter(first / "events.jsonl").emit("step", stage="serve", state="begun")
    with (first / "lock").open("wb") as lock:  # as its executor has
        files.lock(lock)
        said = runner(tmp_path, "serve", trained.name, "serve.port=8123", status=2)
    assert f"serve.port: 8123: in use by {first.name}; stop it with `runner stop {first.name}`" in said


def test_the_port_of_a_run_that_will_serve_is_not_free(tmp_path, tiny_model, tiny_adapter) -> None:
    trained = a_run(tmp_path, tiny_model, tiny_adapter)
    paths = [f"paths.runs={tmp_path}/runs", f"paths.store={tmp_path}/store"]
    training = create.create(*plan_of(["quickstart", "serve.port=8123", *paths], tmp_path / "runs"))
    with (training / "lock").open("wb") as lock:
        files.lock(lock)
        said = runner(tmp_path, "serve", trained.name, "serve.port=8123", status=2)
    assert f"serve.port: 8123: {training.name} will serve there when it is trained" in said


def test_adapters_of_several_runs_are_served_asked_listed_and_stopped(tmp_path, tiny_model, tiny_adapter) -> None:
    one, two = (a_run(tmp_path, tiny_model, tiny_adapter, number=number) for number in (1, 2))
    port = free_port()
    said = runner(tmp_path, "serve", f"one={one.name}", f"two={two.name}", "--detach", f"serve.port={port}")
    assert f"serving at http://127.0.0.1:{port}, models: base, one, two" in said
    [server] = servers.live(tmp_path / "runs")
    assert (server.port, server.models, server.run.state) == (port, ["base", "one", "two"], "running")
    listed = runner(tmp_path, "serve", "--list")
    assert server.run.name in listed and "answers, " in listed

    taken = runner(tmp_path, "serve", one.name, f"serve.port={port}", status=2)
    assert taken == (
        f"runner: serve.port: {port}: in use by {server.run.name}; stop it with `runner stop {server.run.name}`, "
        "or choose another with serve.port=N\n"
    )
    assert len(every(tmp_path / "runs")) == 3, "a refused server leaves no record"

    runner(tmp_path, "ask", "CREATE TABLE", "--max-tokens", "8")
    [line] = (server.run.folder / "asked" / "question" / "answers.jsonl").read_text().splitlines()
    answers = json.loads(line)["answers"]
    assert len({answer["text"] for answer in answers.values()}) == 3, answers
    runner(tmp_path, "ask", "a question " * 32, "--max-tokens", "1")  # longer than a file's name may be
    assert "no such server" in runner(tmp_path, "ask", "a", "--server", "other", status=2)
    assert "trained on plain prompts, not on chats" in runner(tmp_path, "ask", "--models", "two", status=2)
    assert "a conversation is with one model" in runner(tmp_path, "ask", "--models", "one", "two", status=2)
    assert "--system: is for a conversation" in runner(tmp_path, "ask", "a", "--system", "b", status=2)

    assert "this run has no stage export" in runner(tmp_path, "serve", server.run.name.partition("-serve")[0] + "-s",
                                                      status=2)  # fmt: skip
    end = os.pidfd_open(pid_of_server(server.run))
    assert "stopped" in runner(tmp_path, "stop", "last")
    assert select.select([end], [], [], 0)[0], "it is gone when stop returns"
    assert "No servers are running" in runner(tmp_path, "serve", "--list")


def test_nothing_is_left_of_a_server_whose_executor_was_killed(tmp_path, tiny_model, tiny_adapter) -> None:
    a_run(tmp_path, tiny_model, tiny_adapter)
    port = free_port()
    runner(tmp_path, "serve", "--detach", f"serve.port={port}")
    [server] = servers.live(tmp_path / "runs")
    end = os.pidfd_open(pid_of_server(server.run))
    os.kill(next(event["pid"] for event in server.run.events() if event["event"] == "run"), signal.SIGKILL)
    assert select.select([end], [], [], 60)[0]
    assert server.run.state == "killed" and servers.live(tmp_path / "runs") == []
    connection = http.client.HTTPConnection("127.0.0.1", port)
    with pytest.raises(ConnectionRefusedError):
        connection.request("GET", "/health")


def test_in_the_foreground_ctrl_c_ends_it(tmp_path, tiny_model, tiny_adapter) -> None:
    run = a_run(tmp_path, tiny_model, tiny_adapter)
    words = command(tmp_path, "serve", run.name, f"serve.port={free_port()}")
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stdout and any("serving at" in line for line in process.stdout)
    [server] = servers.live(tmp_path / "runs")
    end = os.pidfd_open(pid_of_server(server.run))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert select.select([end], [], [], 0)[0]


def test_a_server_that_does_not_start_is_told_and_not_listed(tmp_path, tiny_model, tiny_adapter) -> None:
    run = a_run(tmp_path, tiny_model, tiny_adapter)
    weights = tmp_path / "store" / "objects" / "export-0000000000000001" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(b"broken")
    said = runner(tmp_path, "serve", run.name, "--detach", f"serve.port={free_port()}", status=2)
    assert "adapter_model.safetensors" in said and "Traceback" not in said
    assert servers.live(tmp_path / "runs") == []


def test_a_container_that_a_killed_run_left_is_removed(tmp_path, tiny_model, tiny_adapter, monkeypatch) -> None:
    """`docker` here writes its words down: what a machine without Docker can show."""
    run = a_run(tmp_path, tiny_model, tiny_adapter)
    plan = run.plan
    output = f"{tmp_path}/store/partial/serve-1"
    argv = ["python", "serve_vllm.py", "--image", "vllm:1", "--output", output]
    plan["steps"].append({**plan["steps"][0], "stage": "serve", "key": "serve-1", "argv": argv})
    (run.folder / "plan.json").write_text(json.dumps(plan))
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ "$1" != ps ] || echo 0123456789ab\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    servers.reap(every(tmp_path / "runs"))
    assert (tmp_path / "asked").read_text().splitlines() == [
        f"ps --all --quiet --filter label=trainium-recipes.output={output}", "rm --force 0123456789ab"
    ]  # fmt: skip
