"""The store is freed by the rules, and never of what a run in progress needs."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
from records import a_run

from runner.commands import gc
from runner.errors import RecipeError
from runner.execute.run_folder import LOCK
from runner.record.runs import every


def collect(folder: Path, dry_run: bool = False, **rules: object) -> set[str]:
    """Apply the rules; the names of what is left."""
    asked = {"days": None, "gb": None, "unreachable": False} | rules
    gc.collect(folder / "store", every(folder / "runs"), gc.Rules(**asked), dry_run)  # type: ignore[arg-type]
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


def test_without_a_rule_nothing_goes(folder: Path) -> None:
    with pytest.raises(RecipeError, match="choose what to remove"):
        collect(folder)


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
    assert not cache.exists() and not list((folder / "store" / "doomed").iterdir())
