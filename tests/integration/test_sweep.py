"""Sweeps of real, short trainings: killed and started again, in parallel, searched by Optuna, with failures."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from runner.paths import RECIPES

SHORT = ["tp_size=1", "train.max_steps=2", "evaluate=none", "serve=none"]
GRID = ["train.lora={rank:4,alpha:8},{rank:8,alpha:16}", "train.seed=range(1,4)"]
OPTUNA = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1"]
PARALLEL = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place to run in, with few rows."""
    for name, rows in (("train", 16), ("eval", 4)):
        with (RECIPES / "assets" / "sql" / f"{name}.jsonl").open() as lines:
            (tmp_path / f"{name}.jsonl").write_text("".join(islice(lines, rows)))
    return tmp_path


def start(folder: Path, *words: str) -> subprocess.Popen:
    data = ["dataset.path=train.jsonl", "dataset.eval_path=eval.jsonl"]
    command = [sys.executable, "-u", "-m", "runner", "run", "quickstart", "-m", *SHORT, *data, *words]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(folder: Path, *words: str, status: int = 0) -> str:
    process = start(folder, *words)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == status, output
    return output


def end_at(folder: Path, line: str, number: int, *words: str) -> str:
    """Start a sweep and send a signal to all of its processes when it says `line`. Returns what it said."""
    process = start(folder, *words)
    assert process.stdout
    said = []
    for text in process.stdout:
        said.append(text)
        if text.startswith(line):
            os.killpg(process.pid, number)
    process.wait(60)
    return "".join(said)


def sweep_of(folder: Path) -> Path:
    [sweep] = (folder / "runs" / "sweeps").iterdir()
    return sweep


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def count(sweep: Path) -> Counter:
    """How often each stage of all trials was finished (made) or cached (found)."""
    happened = (event for run in sorted(sweep.glob("0*")) for event in events(run) if event["event"] == "step")
    return Counter((event["stage"], event["state"]) for event in happened)


def test_a_killed_sweep_goes_on_by_the_same_command(folder: Path) -> None:
    end_at(folder, "trial 3: train", signal.SIGKILL, *GRID)
    before = {run.name: events(run) for run in sweep_of(folder).glob("00[012]")}
    output = finish(folder, *GRID)
    assert output.count("finished before") == 3
    sweep = sweep_of(folder)
    assert sorted(run.name for run in sweep.glob("0*")) == [f"00{number}" for number in range(6)]
    assert {name: events(sweep / name) for name in before} == before
    happened = count(sweep)
    assert happened["train", "finished"] + happened["train", "cached"] == 6
    assert len(list((folder / "store" / "objects").glob("train-*"))) == 6
    assert len(list((folder / "store" / "objects").glob("convert-*"))) == happened["convert", "finished"] == 1
    recipes = [(sweep / name / "recipe.yaml").read_text() for name in ("000", "005")]
    assert all(text in recipes[0] for text in ("rank: 4\n", "alpha: 8.0\n"))
    assert all(text in recipes[1] for text in ("rank: 8\n", "alpha: 16.0\n"))


def test_trials_in_parallel_share_what_they_have_in_common(folder: Path) -> None:
    output = finish(folder, "train.seed=1,2", *PARALLEL)
    assert output.count("finished in") == 2
    happened = count(sweep_of(folder))
    assert all(happened[stage, "finished"] == 1 for stage in ("fetch", "tokenize", "convert"))
    assert all(happened[stage, "cached"] == 1 for stage in ("fetch", "tokenize", "convert"))
    assert happened["train", "finished"] == 2
    assert finish(folder, "train.seed=1,2").count("finished before") == 2  # in parallel or not: the same sweep


def test_ctrl_c_leaves_no_process_and_says_how_to_go_on(folder: Path) -> None:
    output = end_at(folder, "trial 0: train", signal.SIGINT, "train.seed=1,2,3", *PARALLEL)
    assert "Run the same command to resume" in output
    assert "Traceback" not in output
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in read(path)]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""


def test_a_sweep_ends_when_its_budget_is_used_up_and_goes_on_with_a_larger_one(folder: Path) -> None:
    price = ["train.seed=1,2", "hardware.price_per_hour=3600000"]
    output = finish(folder, *price, "sweep.max_cost=1")
    assert "stopped by sweep.max_cost: $" in output and "with 1 of 2 trials finished" in output
    assert not (sweep_of(folder) / "001").exists()
    assert finish(folder, *price, "sweep.max_cost=1e9").count("finished before") == 1
    assert sorted(run.name for run in sweep_of(folder).glob("0*")) == ["000", "001"]


def test_trials_that_fall_behind_are_pruned_and_go_on_without_the_pruner(folder: Path) -> None:
    words = ["train.learning_rate=1e-3,1e-1", "train.max_steps=6", "train.eval_every=1"]
    output = finish(folder, *words, "sweep.pruner=successive_halving")
    assert "trial 1: pruned in " in output
    assert finish(folder, *words, "sweep.pruner=successive_halving").count("trial 1: pruned before") == 1
    finish(folder, *words)
    assert "resuming from step " in (sweep_of(folder) / "001" / "logs" / "train.log").read_text()
    assert count(sweep_of(folder))["train", "finished"] == 2


def test_a_killed_optuna_sweep_goes_on_with_its_study(folder: Path) -> None:
    space = [*OPTUNA, "train.learning_rate=tag(log,interval(1e-4,1e-2))", "train.lora.rank=choice(4,8)"]
    said = end_at(folder, "trial 1: train", signal.SIGKILL, *space)
    output = finish(folder, *space)
    assert "trial 0" not in output  # it is in the study
    assert "trial 3" not in output
    sweep = sweep_of(folder)
    assert sorted(run.name for run in sweep.glob("0*")) == ["000", "001", "002"]
    interrupted = next(line for line in said.splitlines() if line.startswith("trial 1: "))
    assert interrupted in output.splitlines()  # the same parameters
    with sqlite3.connect(sweep / "study.db") as database:
        states = database.execute("SELECT number, state FROM trials ORDER BY number").fetchall()
    assert states == [(number, "COMPLETE") for number in range(3)]
    assert "trial 2:" not in finish(folder, *space)  # nothing is left to do


@pytest.mark.parametrize(
    "words", [["dataset.seq_len=8,256"], [*OPTUNA, "hydra.sweeper.sampler.seed=0", "dataset.seq_len=choice(8,256)"]]
)
def test_a_failed_trial_is_reported_and_the_rest_go_on(folder: Path, words: list[str]) -> None:
    output = finish(folder, *words, status=1)
    failure = output.index("failed: tokenize: tokenize_dataset.py: --seq-len 8")
    assert output.index("finished in") > 0
    assert failure < output.index("best first")
    assert "Traceback" not in output


def test_by_choice_a_failed_trial_ends_the_sweep(folder: Path) -> None:
    output = finish(folder, "dataset.seq_len=8,256", "sweep.stop_on_failure=true", status=1)
    assert "trial 0: failed: " in output
    assert "trial 1" not in output


def test_a_trial_of_an_edited_recipe_is_done_again(folder: Path) -> None:
    recipe = folder / "mine.yaml"
    text = (RECIPES / "quickstart.yaml").read_text()
    recipe.write_text(text)
    words = ["train.seed=1,2"]
    command = [sys.executable, "-m", "runner", "run", "./mine.yaml", "-m", *SHORT, *words]
    data = ["dataset.path=train.jsonl", "dataset.eval_path=eval.jsonl"]
    subprocess.run([*command, *data], cwd=folder, check=True)
    recipe.write_text(text.replace("learning_rate: ", "learning_rate: 1"))
    output = subprocess.run([*command, *data], cwd=folder, check=True, capture_output=True, text=True).stdout
    assert output.count("changed since it finished") == 2
    assert count(sweep_of(folder))["train", "finished"] == 2
