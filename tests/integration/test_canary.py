"""Credentials of the environment are in no file, no command line, and no program that does not need them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from far_runs import command, done
from ssh_host import SSHD, Host, quoted, ssh_host

from runner.paths import ROOT

CANARIES = {
    name: f"canary-{name.lower()}"
    for name in ("HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY")
}
# In place of the stages' Python: notes its command line and environment, then makes what the stage would have made.
NOTE = """
import json, os, sys
if "--output" in sys.argv:
    with open({seen!r} + "/" + os.environ["RUNNER_STAGE"], "w") as file:
        json.dump({{"argv": sys.argv, "environment": dict(os.environ)}}, file)
"""
HUB = [
    "model.source=hub", "model.path=somebody/tiny", "model.revision=0123456789abcdef0123456789abcdef01234567",
    "serve=none",
]  # fmt: skip


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    folder = tmp_path / "seen"
    folder.mkdir()
    return folder


@pytest.fixture
def python(tmp_path: Path, seen: Path) -> str:
    program = tmp_path / "python"
    fake = (ROOT / "tests" / "torture" / "fake_stages.py").read_text()
    program.write_text(f"#!{sys.executable} -IS\n{NOTE.format(seen=str(seen))}\n{fake}")
    program.chmod(0o755)
    probe = "from runner.execute import probe; import json, sys; print(json.dumps(probe.environment(sys.executable)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    packages = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, check=True)
    (tmp_path / "packages.json").write_bytes(packages.stdout)
    return f"sdk.train_python={quoted(program)}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, canary in CANARIES.items():
        monkeypatch.setenv(name, canary)
    return tmp_path / "home"


@pytest.fixture
def host(tmp_path: Path, home: Path) -> Iterator[Host]:
    with ssh_host(tmp_path / "host", home) as host:
        yield host


def check(folders: list[Path], seen: Path, has_hub_token: set[str]) -> None:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes() for path in files}
    assert contents
    assert [path for path, content in contents.items() if b"canary-" in content] == []
    stages = {path.name: json.loads(path.read_text()) for path in seen.iterdir()}
    assert {"fetch", "tokenize", "train", "export"} <= stages.keys()
    given = {stage: {name for name in CANARIES if name in note["environment"]} for stage, note in stages.items()}
    assert given == {stage: {"HF_TOKEN"} if stage in has_hub_token else set() for stage in stages}
    assert "canary-" not in json.dumps([note["argv"] for note in stages.values()])


def test_a_run_here(home: Path, work: Path, seen: Path, python: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "runner", "run", "quickstart", *HUB, python]
    run = subprocess.run(argv, cwd=work, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "canary-" not in run.stdout + run.stderr
    check([work], seen, {"fetch"})


@pytest.mark.skipif(not Path(SSHD).exists(), reason="no sshd")
def test_a_run_over_ssh(host: Host, work: Path, seen: Path, python: str) -> None:
    assert "canary-" not in done(command(host, work, "run", "quickstart", *host.target, *HUB, python))
    check([work, host.root], seen, {"fetch"})
