"""Runs whose store is on a real S3 server: killed on one machine, resumed on another."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import SECRET, counted, missing, s3_server

from runner.execute.run_folder import executor_pid
from runner.paths import ROOT, SCRIPTS
from runner.record.runs import Run, every

s3fs = pytest.importorskip("s3fs", reason="no s3fs: make setup-s3")
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
STORE = "s3://bucket/store"
SQL = ROOT / "recipes" / "assets" / "sql"
TRAINING = [
    "quickstart", "tp_size=2", "evaluate=none", "serve=none", "dataset.train_rows=200", "dataset.seq_len=64",
    "train.batch_size=1", "train.max_steps=5", "train.checkpoint_every=5",
]  # fmt: skip

LONG = ["train.max_steps=100"]  # so that it does not end before a checkpoint is pushed


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
    server = client(variables)
    while True:
        assert process.poll() is None, process.communicate()
        runs = every(machine / "runs") if (machine / "runs").is_dir() else []
        keys = [step["key"] for run in runs for step in run.plan["steps"] if step["stage"] == "train"]
        if keys and server.exists(f"{STORE}/checkpoints/{keys[0]}/manifest.json"):
            break
        time.sleep(0.1)
    executor = executor_pid(the_run(machine).folder)
    assert executor
    os.kill(executor, signal.SIGKILL)
    process.kill()
    process.communicate()


def client(variables: dict[str, str]) -> Any:
    return s3fs.S3FileSystem(
        key=variables["AWS_ACCESS_KEY_ID"],
        secret=variables["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        use_listings_cache=False,
    )


def test_a_training_that_is_killed_resumes_on_a_fresh_machine_to_the_same_bits(
    tmp_path: Path, server: dict[str, str]
) -> None:
    done(runner(tmp_path / "undisturbed", {}, "run", *TRAINING, *LONG))
    words = ["run", *TRAINING, *LONG, f"paths.remote_store={STORE}"]
    first = runner(tmp_path / "first", server, *words)
    kill_after_a_pushed_checkpoint(tmp_path / "first", server, first)
    done(runner(tmp_path / "second", server, *words))
    made = states(the_run(tmp_path / "second"))
    assert made == {"fetch": "cached", "tokenize": "cached", "convert": "cached", "train": "finished",
                    "export": "finished"}  # fmt: skip
    assert "resuming from step" in (the_run(tmp_path / "second").folder / "logs" / "train.log").read_text()
    assert adapter(tmp_path / "second") == adapter(tmp_path / "undisturbed")
    done(runner(tmp_path / "third", server, *words))
    assert set(states(the_run(tmp_path / "third")).values()) == {"cached"}
    assert adapter(tmp_path / "third") == adapter(tmp_path / "undisturbed")
    check_that_no_file_has_the_secret(tmp_path)


def transfer(variables: dict[str, str], *words: str | Path) -> subprocess.Popen[str]:
    """scripts/remote_store.py, which copies."""
    environment = {**os.environ, "AWS_EC2_METADATA_DISABLED": "true", **variables}
    argv = [sys.executable, str(SCRIPTS / "remote_store.py"), STORE, *map(str, words)]
    return subprocess.Popen(argv, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def killed_in_the_middle(variables: dict[str, str], limit: int, *words: str | Path) -> None:
    """Kill a transfer when `limit` bytes have passed between it and the server."""
    with counted(variables["AWS_ENDPOINT_URL"], limit, lambda: process.kill()) as address:
        process = transfer({**variables, "AWS_ENDPOINT_URL": address}, *words)
        assert process.wait() == -signal.SIGKILL, process.communicate()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def an_artifact(folder: Path, seed: int) -> Path:
    """Files of 1 KiB to 8 MiB."""
    folder.mkdir()
    for size in (2**10, 2**20, 2**22, 2**23):
        (folder / f"{size}.bin").write_bytes(random.Random(seed + size).randbytes(size))
    return folder


def test_transfers_that_are_killed_in_the_middle_show_nothing_and_are_completed(
    tmp_path: Path, server: dict[str, str]
) -> None:
    seed = int(os.environ.get("KILL_SEED") or random.randrange(10**6))
    print(f"KILL_SEED={seed}")
    draw, artifact, name = random.Random(seed), an_artifact(tmp_path / "artifact", 0), "artifacts/killed-1"
    for limit in (draw.randrange(2**12, 2**20), draw.randrange(2**20, 12 * 2**20)):
        killed_in_the_middle(server, limit, "push", name, artifact)
        assert not client(server).exists(f"{STORE}/{name}/manifest.json"), limit
    done(transfer(server, "push", name, artifact))
    for limit in (draw.randrange(2**14, 2**20), draw.randrange(2**20, 12 * 2**20)):
        killed_in_the_middle(server, limit, "fetch", name, tmp_path / "copy")
    done(transfer(server, "fetch", name, tmp_path / "copy"))
    copied = {path: found for path, found in content(tmp_path / "copy").items() if not path.endswith(".partial")}
    assert copied == content(artifact)


@pytest.mark.parametrize("flags", [[], ["--replace"]], ids=["artifact", "checkpoints"])
def test_machines_that_push_the_same_at_once_leave_one_whole(
    tmp_path: Path, server: dict[str, str], flags: list[str]
) -> None:
    """Such as a training of two users, whose training.json differ in the seconds."""
    folders, name = [an_artifact(tmp_path / str(seed), seed) for seed in range(3)], f"artifacts/at-once-{len(flags)}"
    for number in range(2):
        for process in [transfer(server, "push", name, folder, *flags) for folder in folders]:
            done(process)
        done(transfer(server, "fetch", name, tmp_path / f"copy-{number}"))
        assert content(tmp_path / f"copy-{number}") in [content(folder) for folder in folders]


def test_a_run_whose_artifacts_have_expired_makes_them_again(tmp_path: Path, server: dict[str, str]) -> None:
    store = "bucket/expiring"
    words = ["run", *TRAINING, f"paths.remote_store=s3://{store}"]
    done(runner(tmp_path / "first", server, *words))
    keys = {step["stage"]: f"{store}/artifacts/{step['key']}" for step in the_run(tmp_path / "first").plan["steps"]}
    remote = client(server)
    largest = max(remote.find(keys["convert"], detail=True).values(), key=lambda entry: entry["size"])
    for expired in (f"{store}/remote-store.json", keys["tokenize"], f"{keys['train']}/manifest.json", largest["name"]):
        remote.rm(expired, recursive=True)
    output = done(runner(tmp_path / "second", server, *words))
    assert "remote store: " in output and "has lost" in output
    made = {"fetch": "cached", "tokenize": "finished", "convert": "finished", "train": "finished", "export": "cached"}
    assert states(the_run(tmp_path / "second")) == made
    assert adapter(tmp_path / "second") == adapter(tmp_path / "first")
    done(runner(tmp_path / "third", server, *words))
    assert set(states(the_run(tmp_path / "third")).values()) == {"cached"}


def test_the_lifecycle_rules_of_the_documentation_are_accepted(server: dict[str, str]) -> None:
    [text] = re.findall("```json\n(.*?)```", (ROOT / "docs" / "object_storage.md").read_text(), re.DOTALL)
    client(server).call_s3(
        "put_bucket_lifecycle_configuration", Bucket="bucket", LifecycleConfiguration=json.loads(text)
    )


def check_that_no_file_has_the_secret(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def upload(variables: dict[str, str], folder: Path, address: str) -> None:
    server = client(variables)
    for path in folder.rglob("*"):
        if path.is_file():
            server.put_file(str(path), f"{address}/{path.relative_to(folder)}")


def test_model_data_and_adapter_are_read_from_s3(tmp_path: Path, server: dict[str, str]) -> None:
    done(runner(tmp_path / "first", {}, "run", *TRAINING))
    made = the_run(tmp_path / "first").folder / "artifacts"
    for name, folder in {"model": made / "fetch", "adapter": made / "export" / "adapter", "rows": SQL}.items():
        upload(server, folder.resolve(), f"bucket/inputs/{name}")
    named = {"model.path": "model", "dataset.path": "rows/train.jsonl", "train.init_adapter": "adapter"}
    on_s3 = [f"{key}=s3://bucket/inputs/{name}" for key, name in named.items()]
    local = [
        f"model.path={made / 'fetch'}", f"dataset.path={SQL / 'train.jsonl'}",
        f"train.init_adapter={made / 'export' / 'adapter'}",
    ]  # fmt: skip
    output = done(runner(tmp_path / "s3", server, "run", *TRAINING, *on_s3))
    assert "copy the adapter to continue from S3" in output
    done(runner(tmp_path / "local", {}, "run", *TRAINING, *local))
    assert adapter(tmp_path / "s3") == adapter(tmp_path / "local")
    check_that_no_file_has_the_secret(tmp_path)
    output = done(runner(tmp_path / "s3", server, "plan", *TRAINING, *on_s3))
    assert output.count("cached") == len(the_run(tmp_path / "s3").steps)
    upload(server, SQL, "bucket/inputs/rows")  # the same content
    assert done(runner(tmp_path / "s3", server, "plan", *TRAINING, *on_s3)).count("cached") == output.count("cached")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text(
        "".join((SQL / f"{name}.jsonl").read_text() for name in ("train", "eval"))
    )
    upload(server, tmp_path / "rows", "bucket/inputs/rows")
    lines = done(runner(tmp_path / "s3", server, "plan", *TRAINING, *on_s3)).splitlines()
    for step, state in (("copy the base model", "cached"), ("copy the rows", "will run"), ("tokenize", "will run")):
        assert [line for line in lines if step in line and state in line], lines


def test_an_export_is_uploaded_to_a_new_folder_alone(tmp_path: Path, server: dict[str, str]) -> None:
    done(runner(tmp_path, {}, "run", *TRAINING))
    address = "s3://bucket/adapters/sql"
    assert address in done(runner(tmp_path, server, "export", "last", "out", "--push", address))
    for push, message in (
        (address, f"--push: {address}: already exists; choose a new folder"),
        ("s3://nowhere/sql", "--push: s3://nowhere/sql: no such bucket"),
        ("s3://bucket", "name a folder in the bucket"),
    ):
        assert message in done(runner(tmp_path, server, "export", "last", "other", "--push", push), status=2)
        assert not (tmp_path / "other").exists()
    done(runner(tmp_path, server, "run", *TRAINING, f"train.init_adapter={address}"))


@pytest.mark.parametrize(
    ("variables", "key", "message"),
    [
        ({}, "model.path=s3://bucket/nowhere", "model.path: s3://bucket/nowhere: no such file or folder on S3"),
        ({}, "dataset.path=s3://nowhere/rows.jsonl", "no such bucket"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "model.path=s3://bucket/a", "set AWS_PROFILE"),
    ],
)
def test_an_address_that_cannot_be_read_is_one_line(
    tmp_path: Path, server: dict[str, str], variables: dict[str, str], key: str, message: str
) -> None:
    output = done(runner(tmp_path, {**server, **variables}, "plan", *TRAINING, key), status=2)
    assert message in output
    assert len([line for line in output.splitlines() if not line.startswith("note:")]) == 1


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
