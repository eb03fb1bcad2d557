"""A record is complete before others see it, in a folder whose name no shell can misread."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from records import a_run

from runner.compose.recipe import compose
from runner.paths import ROOT
from runner.plan.model import Plan
from runner.record import create, provenance, runs


def test_a_record_is_not_seen_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(provenance, "uncommitted", lambda _: seen.append(runs.every(tmp_path / "runs")) or b"")
    made = a_run(tmp_path)
    assert seen == [[]]
    assert [run.folder for run in runs.every(tmp_path / "runs")] == [made.folder]


NAMES = {"50%j: my recipe": "50-j-my-recipe", "a/../b": "a-..-b", "레시피": "레시피", "//": "run", "x" * 99: "x" * 48}


@pytest.mark.parametrize(("name", "part"), NAMES.items())
def test_a_run_has_a_folder_that_no_program_reads_another_meaning_into(tmp_path: Path, name: str, part: str) -> None:
    run = a_run(tmp_path, f'name="{name}"')
    assert run.folder.parent == tmp_path / "runs" and run.name.endswith(f"-{part}")
    assert run.recipe["name"] == name


def test_runs_that_start_in_the_same_second_get_a_record_each(tmp_path: Path) -> None:
    composed = compose("quickstart", [f"paths.runs={tmp_path}/runs"])
    plan = Plan("quickstart", str(tmp_path / "store"), ())
    with ThreadPoolExecutor(20) as threads:
        made = list(threads.map(lambda _: create.create(composed, plan), range(20)))
    assert len(set(made)) == 20
    assert {run.folder for run in runs.every(tmp_path / "runs")} == set(made)
    assert not list((tmp_path / "runs" / ".incoming").iterdir())


@pytest.mark.parametrize("point", ["safe_dump", "write_text", "fsync", "rename"])
def test_a_kill_while_a_record_is_made_leaves_none(tmp_path: Path, point: str, capsys) -> None:
    """Wherever the process dies, the other commands see no record, and the same command makes one."""
    patched = {"safe_dump": "yaml.safe_dump", "write_text": "pathlib.Path.write_text", "fsync": "os.fsync"}
    script = KILLED.format(target=patched.get(point, "pathlib.Path.rename"), folder=tmp_path)
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT).returncode == -signal.SIGKILL
    assert runs.recorded(tmp_path / "runs") == []
    a_run(tmp_path)
    assert len(runs.every(tmp_path / "runs")) == 1 and not capsys.readouterr().err


KILLED = """
import os, signal
from unittest import mock
from runner.compose.recipe import compose
from runner.plan.model import Plan
from runner.record import create
composed = compose("quickstart", ["paths.runs={folder}/runs"])
with mock.patch("{target}", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)):
    create.create(composed, Plan("quickstart", "store", ()))
"""
