"""Runs whose store is on a real S3 server: killed on one machine, resumed on another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import SECRET, missing, s3_server

from runner.execute.run_folder import executor_pid
from runner.paths import ROOT
from runner.record.runs import Run, every

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
STORE = "s3://bucket/store"
TRAINING = [
    "quickstart", "tp_size=2", "evaluate=none", "serve=none", "dataset.train_rows=200", "dataset.seq_len=64",
    "train.batch_size=1", "train.max_steps=40", "train.checkpoint_every=5",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as variables:
        yield variables


def runner(machine: Path, variables: dict[str, str], *words: str) -> subprocess.Popen[str]:
    """`runner` on a machine, which is a folder with a store of its own."""
    machine.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_DISABLED": "true", **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "runner", *words], cwd=machine, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def done(process: subprocess.Popen[str], status: int = 0) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == status, output
    return output


def the_run(machine: Path) -> Run:
    [run] = every(machine / "runs")
    return run


def adapter(machine: Path) -> bytes:
    return (the_run(machine).folder / "artifacts" / "export" / "adapter" / "adapter_model.safetensors").read_bytes()


def states(run: Run) -> dict[str, str]:
    return {event["stage"]: event["state"] for event in run.events() if event["event"] == "step"}


def kill_after_a_pushed_checkpoint(machine: Path, variables: dict[str, str], process: subprocess.Popen[str]) -> None:
    """Kill the run once S3 has a checkpoint. The kernel then ends what the executor has started."""
    found = machine / "found.json"
    while True:
        assert process.poll() is None, process.communicate()
        runs = every(machine / "runs") if (machine / "runs").is_dir() else []
        keys = [step["key"] for run in runs for step in run.plan["steps"] if step["stage"] == "train"]
        if keys and f"checkpoints/{keys[0]}" in listed(variables, found, f"checkpoints/{keys[0]}"):
            break
        time.sleep(0.2)
    executor = executor_pid(the_run(machine).folder)
    assert executor
    os.kill(executor, signal.SIGKILL)
    process.kill()
    process.communicate()


def listed(variables: dict[str, str], found: Path, *names: str) -> list[str]:
    program = str(ROOT / "scripts" / "remote_store.py")
    command = [sys.executable, program, STORE, "list", *names, "--output", str(found)]
    subprocess.run(command, env={**os.environ, **variables}, check=True)
    return json.loads(found.read_text())


def test_a_training_that_is_killed_resumes_on_a_fresh_machine_to_the_same_bits(
    tmp_path: Path, server: dict[str, str]
) -> None:
    done(runner(tmp_path / "undisturbed", {}, "run", *TRAINING))
    words = ["run", *TRAINING, f"paths.remote_store={STORE}"]
    first = runner(tmp_path / "first", server, *words)
    kill_after_a_pushed_checkpoint(tmp_path / "first", server, first)
    output = done(runner(tmp_path / "second", server, *words))
    made = states(the_run(tmp_path / "second"))
    assert made == {"fetch": "cached", "tokenize": "cached", "convert": "cached", "train": "finished",
                    "export": "finished"}  # fmt: skip
    assert "resum" in output
    assert adapter(tmp_path / "second") == adapter(tmp_path / "undisturbed")
    done(runner(tmp_path / "third", server, *words))
    assert set(states(the_run(tmp_path / "third")).values()) == {"cached"}
    assert adapter(tmp_path / "third") == adapter(tmp_path / "undisturbed")
    check_that_no_file_has_the_secret(tmp_path)


def check_that_no_file_has_the_secret(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("variables", "address", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, STORE, "no AWS credentials were found"),
        ({}, "s3://nowhere/store", "s3://nowhere/store: no such bucket; create it, or check the name"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, STORE, "cannot be reached"),
    ],
)  # fmt: skip
def test_a_store_that_cannot_be_used_is_one_line_before_work_starts(
    tmp_path: Path, server: dict[str, str], variables: dict[str, str], address: str, message: str
) -> None:
    words = ["run", *TRAINING, f"paths.remote_store={address}"]
    output = done(runner(tmp_path / "machine", {**server, **variables}, *words), status=1)
    assert message in output
    assert "Traceback" not in output
    assert states(the_run(tmp_path / "machine")) == {"remote store": "failed"}
