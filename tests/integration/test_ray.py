"""Runs as jobs of a real Ray cluster: followed, packed, cancelled, lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_runs import (
    ENDS,
    SHORT,
    START_TWICE,
    a_run,
    command_here,
    last,
    most_at_once,
    started,
    there,
    until_line,
)
from far_runs import done
from ray_cluster import missing, ray_cluster

from runner import targets
from runner.errors import RecipeError
from runner.execute import files
from runner.record.runs import every

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
CORES = """
import json, os, pathlib, sys
cores = os.environ["NEURON_RT_VISIBLE_CORES"].split(",")
pathlib.Path(sys.argv[1], "training.json").write_text(json.dumps({"cores": len(cores)}))
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ray_cluster() as address:
        yield address


@pytest.fixture
def words(tmp_path: Path, address: str) -> list[str]:
    return ["target=ray", f"target.folder={tmp_path}/shared", f"target.ray.address={address}"]


def test_the_quickstart_is_a_job(work: Path, words: list[str]) -> None:
    out = done(command_here(work, "run", "quickstart", *words, *SHORT))
    assert "train LoRA" in out
    [run] = every(work / "runs")
    assert run.state == "finished"
    assert run.result("train", "training.json")
    assert "finished" in done(command_here(work, "status", "last"))


def test_ray_says_which_cores(work: Path, words: list[str]) -> None:
    run = a_run(work, {"train": CORES}, *words, "target.ray.resources.neuron_cores=4")
    assert last(started(run)) == "finished"
    targets.of_run(run).fetch(run, adapter=False)
    assert run.result("train", "training.json") == {"cores": 4}


def test_cancel_leaves_nothing(work: Path, words: list[str]) -> None:
    run = a_run(work, {"train": START_TWICE}, *words)
    stream = started(run)
    until_line(run, "start 1")
    assert "stopped" in done(command_here(work, "cancel", run.name))
    assert last(stream) == "stopped"
    assert not [one for one in processes() if str(there(work, run)) in one]


def processes() -> list[str]:
    lines = (file.read_bytes().replace(b"\0", b" ").decode() for file in Path("/proc").glob("[0-9]*/cmdline"))
    return [line for line in lines if "runner.execute" in line or "start-" in line]


def test_a_run_that_finds_no_cores_waits_and_says_so(work: Path, words: list[str]) -> None:
    run = a_run(work, {"train": ENDS}, *words, "target.ray.resources.neuron_cores=17")
    target = targets.of_run(run)
    target.start(run, attached=False)
    assert target.state(run).startswith("waiting: ")
    assert target.cancel(run) == "stopped"


def test_a_run_that_ray_gave_up_is_submitted_again(work: Path, words: list[str]) -> None:
    with ray_cluster(1, RAY_JOB_START_TIMEOUT_SECONDS="15") as impatient:
        here = [*words, f"target.ray.address={impatient}"]
        first = a_run(work, {"train": START_TWICE}, *here, "target.ray.resources.neuron_cores=16")
        started(first)
        second = a_run(work, {"train": ENDS}, *here, "target.ray.resources.neuron_cores=16")
        follower = command_here(work, "run", "quickstart", *here, *SHORT, "target.ray.resources.neuron_cores=16")
        assert follower.stderr and "submit the run again" in follower.stderr.readline()
        target = targets.of_run(second)
        target.start(second, attached=False)
        stream = target.follow(second)
        assert any(b"submitted again" in line for line in stream)
        (work.parent / "shared" / "end").touch()
        assert last(stream) == "finished"
        done(follower)


def test_where_no_ray_answers_one_line_says_so(work: Path, words: list[str]) -> None:
    run = a_run(work, {"train": ENDS}, *words[:2], "target.ray.address=http://127.0.0.1:9")
    with pytest.raises(RecipeError, match="target.ray.address: http://127.0.0.1:9: no Ray cluster answers"):
        targets.of_run(run).start(run, attached=False)
    assert not there(work, run).exists()


def test_a_sweep_packs_onto_the_cores_there_are(work: Path, words: list[str]) -> None:
    """8 trials of 8 cores: the 32 cores of the cluster take four at once."""
    out = done(command_here(work, "run", "quickstart", "-m", "train.seed=range(8)", *words, *SHORT, "train.max_steps=2",
                            "target.ray.resources.neuron_cores=8"))  # fmt: skip
    assert out.count("finished in") == 8
    assert most_at_once(sorted((work.parent / "shared" / "runs").iterdir())) == 4


def test_a_command_at_the_end(work: Path, words: list[str]) -> None:
    run = a_run(work, {"train": ENDS}, *words, """target.on_end='echo "$RUNNER_STATE $RUNNER_REASON" >>told'""")
    assert last(started(run)) == "finished"
    files.wait_until_unlocked(there(work, run) / "lock")
    assert (work.parent / "shared" / "told").read_text() == "finished \n"
