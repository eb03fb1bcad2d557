"""The store is freed by the rules, and never of what a run in progress needs."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from records import a_run

from runner.cli import main
from runner.execute import gc
from runner.execute.run_folder import LOCK
from runner.paths import ROOT
from runner.record.runs import every
from tests.runner.execute.small_plans import start, step


def collect(folder: Path, dry_run: bool = False, **rules: object) -> set[str]:
    """Apply the rules; the names of what is left."""
    asked = {"days": None, "gb": None, "unreachable": False} | rules
    gc.collect(folder / "store", folder / "runs", gc.Rules(**asked), dry_run)  # type: ignore[arg-type]
    return {path.name for path in (folder / "store" / "objects").iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, age in ((1, 30), (2, 0)):
        run = a_run(tmp_path, key=f"train-{number}", loss=number)
        times = (run.folder / "events.jsonl").stat().st_mtime - age * 86400
        os.utime(run.folder / "events.jsonl", (times, times))
    unknown = tmp_path / "store" / "objects" / "train-3"
    unknown.mkdir()
    (unknown / "shard").write_text("bytes")
    return tmp_path


def test_age_goes_by_the_last_run_that_wanted_it(folder: Path) -> None:
    assert collect(folder, days=7.0) == {"train-2", "train-3"}


def test_unreachable_is_what_no_record_names(folder: Path) -> None:
    assert collect(folder, unreachable=True) == {"train-1", "train-2"}


def test_size_takes_the_longest_unused_first(folder: Path) -> None:
    two_of_three = len('{"loss": 1}') + len("bytes")
    assert collect(folder, gb=two_of_three / 1e9) == {"train-2", "train-3"}


def test_a_dry_run_removes_nothing(folder: Path) -> None:
    assert len(collect(folder, dry_run=True, gb=0.0)) == 3


def test_a_run_in_progress_keeps_what_it_needs(folder: Path) -> None:
    run = every(folder / "runs")[0]
    with (run.folder / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert collect(folder, gb=0.0) == {"train-1"}


def test_a_record_that_does_not_tell_its_job_counts_as_in_progress(folder: Path) -> None:
    (every(folder / "runs")[0].folder / "scheduled.json").write_text('{"scheduler": "slurm"')
    assert collect(folder, gb=0.0) == {"train-1"}


def test_what_the_compiler_made_goes_by_the_runs_that_name_it(folder: Path) -> None:
    """A server tells which compiled model it took; until then, and while it lives, none goes."""
    run, store = every(folder / "runs")[0], folder / "store"
    for name in ("compiled/aa", "compiled/bb", "neuron-cache/neuronxcc-2"):
        (store / name).mkdir(parents=True)
    plan = json.loads((run.folder / "plan.json").read_text())
    plan["steps"][0]["argv"] += ["--artifacts", str(store / "compiled"), f"sql={store}/objects/train-3/adapter"]
    (run.folder / "plan.json").write_text(json.dumps(plan))

    def left(live: bool = False) -> set[str]:
        with (run.folder / LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX if live else fcntl.LOCK_UN)
            assert "train-3" in collect(folder, unreachable=True), "a run reads it"
        return {path.name for path in (*(store / "compiled").iterdir(), *store.glob("neuron-cache"))}

    with (run.folder / "events.jsonl").open("a") as events:
        assert left(live=True) == {"aa", "bb"}, "no run names the training's cache"
        events.write(json.dumps({"time": 1.0, "event": "serving", "url": "", "models": [], "compiled": "aa"}) + "\n")
        events.flush()
        assert left(live=True) == {"aa"}
        assert left() == {"aa"}


def test_the_trainings_cache_stays_while_a_run_names_it(folder: Path) -> None:
    run, cache = every(folder / "runs")[0], folder / "store" / "neuron-cache"
    cache.mkdir()
    plan = json.loads((run.folder / "plan.json").read_text())
    plan["steps"][0]["env"]["NEURON_COMPILE_CACHE_URL"] = str(cache)
    (run.folder / "plan.json").write_text(json.dumps(plan))
    collect(folder, unreachable=True)
    assert cache.is_dir()
    collect(folder, gb=0.0)
    assert not cache.exists() and not (folder / "store" / "doomed").exists()


def start_elsewhere(folder: Path, stage: str, code: str, key: str) -> subprocess.Popen[str]:
    """An executor in progress whose record is not among those that gc reads; returns once `code` runs."""
    store, run = folder / "store", folder / "elsewhere"
    plan = {
        "store": str(store),
        "steps": [step(store, "train", "pass", key="train-1"), step(store, stage, code, key=key)],
    }
    executor = start(run, plan)
    while not (run / "logs" / f"{stage}.log").exists() or not (run / "logs" / f"{stage}.log").read_text():
        assert executor.poll() is None
        os.sched_yield()
    return executor


def test_what_a_run_needs_stays_wherever_its_record_is(folder: Path) -> None:
    code = "import signal; print('begun', flush=True); signal.pause()"
    executor = start_elsewhere(folder, "serve", code, "serve-9")
    try:
        assert collect(folder, gb=0.0) == {"train-1"}
        assert (folder / "store" / "partial" / "serve-9").is_dir()
    finally:
        executor.terminate()
        executor.wait()
    assert collect(folder, gb=0.0) == set()


def test_what_an_interrupted_gc_left_goes_with_the_next(folder: Path) -> None:
    left = folder / "store" / "doomed" / "0"
    left.mkdir(parents=True)
    (left / "weights").touch()
    assert collect(folder, gb=0.0) == set()
    assert not left.exists()


def test_two_at_once_both_end_well(folder: Path) -> None:
    command = [sys.executable, "-m", "runner", "gc", "--in", "runs", "--gb", "0"]
    both = [subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert list((folder / "store" / "objects").iterdir()) == []


@pytest.mark.parametrize("amount", ["-1", "nan", "inf", "much"])
def test_an_amount_is_a_finite_number_from_0_on(folder: Path, amount: str, capsys) -> None:
    assert main(["gc", f"--gb={amount}", "--store", str(folder / "store")]) == 2
    assert f"argument --gb: {amount}: " in capsys.readouterr().err


def test_a_run_whose_plan_is_damaged_keeps_what_it_links_to(folder: Path) -> None:
    for run in every(folder / "runs"):
        (run.folder / "plan.json").write_text("")
    assert collect(folder, unreachable=True) == {"train-1", "train-2"}


def test_verify_finds_a_changed_byte_and_moves_the_artifact_aside(folder: Path, capsys) -> None:
    arguments = ["gc", "--verify", "--store", str(folder / "store")]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "3 artifacts: 0 damaged, 1 of an earlier version without digests\n"
    (folder / "store" / "objects" / "train-1" / "training.json").write_text('{"loss": 7}')
    assert main(arguments) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("train-1: the content of training.json has changed; moved to ")
    assert {path.name for path in (folder / "store" / "objects").iterdir()} == {"train-2", "train-3"}


def test_compile_stages_go_with_the_cache_that_they_filled(folder: Path) -> None:
    store = folder / "store"
    (store / "neuron-cache").mkdir()
    (store / "objects" / "compile-1").mkdir()
    in_future = (store / "objects" / "compile-1").stat().st_mtime + 40 * 86400
    os.utime(store / "objects" / "compile-1", (in_future, in_future))
    old = in_future - 90 * 86400
    os.utime(store / "neuron-cache", (old, old))
    assert "compile-1" not in collect(folder, days=20)


def test_the_sums_go_with_their_artifact(folder: Path) -> None:
    sums = folder / "store" / "sums"
    sums.mkdir(exist_ok=True)
    for name in ("train-2.json", "train-3.json", ".train-3.json.partial"):
        (sums / name).write_text("{}")
    collect(folder, unreachable=True)
    assert {path.name for path in sums.iterdir()} == {"train-1.json", "train-2.json"}


def copy(folder: Path, name: str, days: float, *runs: int) -> Path:
    """What was copied to this machine `days` ago, for some of the runs, oldest first."""
    copied = folder / name
    copied.mkdir(parents=True)
    (copied / "file").write_bytes(bytes(2_000_000))
    then = time.time() - days * 86400
    os.utime(copied, (then, then))
    for number in runs:
        plan_file = every(folder / "runs")[number].folder / "plan.json"
        plan = json.loads(plan_file.read_text())
        plan["steps"][0]["argv"].append(f"{name}/file")
        plan_file.write_text(json.dumps(plan))
    return copied


def collect_copies(folder: Path, dry_run: bool = False, active: list[str] | None = None, **rules: object) -> set[str]:
    """Apply the rules; the copies that are left."""
    copies = gc.Copies(folder, active or [])
    asked = {"days": None, "gb": None, "unreachable": False} | rules
    gc.collect(folder / "store", folder / "runs", gc.Rules(**asked), dry_run, copies)  # type: ignore[arg-type]
    return {f"{path.parent.name}/{path.name}" for kind in ("code", "inputs") for path in (folder / kind).iterdir()}


OLD, NEW, SHARED, UNKNOWN = (
    f"{kind}/{letter * 16}" for kind, letter in zip(("code", "inputs") * 2, "abcd", strict=True)
)


@pytest.fixture
def copied(folder: Path) -> Path:
    """Run 0 is 30 days old; run 1 is of today."""
    copy(folder, OLD, 40, 0)
    copy(folder, NEW, 40, 1)
    copy(folder, SHARED, 40, 0, 1)
    copy(folder, UNKNOWN, 40)
    copy(folder, "code/my-project", 40)
    copy(folder, "inputs/eeeeeeeeeeeeeeee", 0.5)
    return folder


ALWAYS = {"code/my-project", "inputs/eeeeeeeeeeeeeeee"}


def test_copies_go_by_the_runs_that_name_them(copied: Path, capsys) -> None:
    everything = ALWAYS | {OLD, NEW, SHARED, UNKNOWN}
    assert collect_copies(copied, dry_run=True, days=7.0) == everything
    assert f"would remove {OLD}  2.0 MB" in capsys.readouterr().out.splitlines()
    assert collect_copies(copied, unreachable=True) == everything - {UNKNOWN}
    assert collect_copies(copied, days=7.0) == ALWAYS | {NEW, SHARED}
    assert f"removed {OLD}  2.0 MB" in capsys.readouterr().out.splitlines()


def test_a_store_alone_leaves_such_folders_alone(copied: Path) -> None:
    collect(copied, gb=0.0)
    assert (copied / OLD).is_dir()


def test_a_run_that_may_get_another_pod_keeps_its_copies(copied: Path) -> None:
    oldest = every(copied / "runs")[0]
    assert collect_copies(copied, active=[oldest.name], gb=0.0) == ALWAYS | {OLD, SHARED}
    assert (copied / "store" / "objects" / "train-1").is_dir()


def test_while_a_run_has_no_record_yet_all_copies_stay(copied: Path) -> None:
    assert collect_copies(copied, active=["not-here-yet"], gb=0.0) == ALWAYS | {OLD, NEW, SHARED, UNKNOWN}


def test_a_copy_that_a_gc_was_killed_at_goes_with_the_next(copied: Path) -> None:
    (copied / UNKNOWN).rename((copied / UNKNOWN).with_suffix(".doomed"))
    assert collect_copies(copied, unreachable=True) == ALWAYS | {OLD, NEW, SHARED}


CHANGE = """
import shutil, sys
from pathlib import Path
from runner.execute.store import Store
store, run = Store(Path(sys.argv[1])), Path(sys.argv[2])
print("begun", flush=True)
while True:
    (store.prepare("train-9", keep=False) / "weights").touch()
    store.publish("train-9").rename(store.partial("train-9"))
    shutil.rmtree(shutil.copytree(run, run.with_name("another"), symlinks=True))
"""


def test_what_other_processes_move_or_remove_meanwhile_is_no_error(folder: Path) -> None:
    command = [sys.executable, "-c", CHANGE, str(folder / "store"), str(every(folder / "runs")[0].folder)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert other.stdout and other.stdout.readline() == b"begun\n"
        for _ in range(300):
            collect(folder, dry_run=True, days=7.0)
        assert other.poll() is None
    finally:
        other.kill()
        other.communicate()
