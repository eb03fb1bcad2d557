"""Runs on a real Slurm cluster: one node and two, nodes that die, jobs that wait, are interrupted and cancelled."""

from __future__ import annotations

import getpass
import json
import socket
import subprocess
import sys
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
from evaluating import a_trial, with_losses
from far_runs import command, done
from interrupted_training import (
    TRAINING,
    adapter_digest,
    events_of,
    lost_steps,
    random_steps,
    until_started,
    until_steps,
)
from slurm_cluster import Cluster, missing, slurm_cluster
from ssh_host import SSHD, Host, free_port, quoted, ssh_host

from runner import targets
from runner.commands.sweep.pruning import Pruner, watch
from runner.record.runs import every

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def login(cluster: Cluster, work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """The cluster's login node, as a laptop reaches it."""
    if not Path(SSHD).exists():
        pytest.skip("no sshd")
    home = work.parent / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    with ssh_host(work.parent / "login", home, "login", environment=f"SLURM_CONF={cluster.config}") as host:
        yield host


@pytest.fixture(autouse=True)
def no_jobs_left(cluster: Cluster) -> Iterator[None]:
    """What a failed test leaves in the queue is no concern of the next one."""
    yield
    cluster.clear()


# What Slurm knows of its own job. argv: the output folder.
TELL_COMMENT = """
import json, os, pathlib, subprocess, sys
def told(form):
    command = ["squeue", "--noheader", f"--jobs={os.environ['SLURM_JOB_ID']}", f"--format={form}"]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode().rstrip("\\n")
pathlib.Path(sys.argv[1], "training.json").write_text(json.dumps({"comment": told("%k"), "job": told("%j")}))
"""
# What ends a job early and has Slurm start it again: preemption, the warning of a time limit, a drained node.
INTERRUPTIONS = (
    ["scontrol requeue {job}"],
    ["scancel --signal=USR1 --batch {job}"],
    ["scontrol update nodename={node} state=drain reason=maintenance", "scontrol requeue {job}"],
)


def on_slurm(work: Path) -> list[str]:
    return ["target=slurm", f"target.folder={work.parent}/shared"]


def jobs(run_folder: Path) -> list[str]:
    return json.loads((run_folder / "scheduled.json").read_text())["ids"]


@pytest.mark.parametrize("name", ["my recipe", "50%j", 'it\'s "#1"', "레시피"])
def test_a_recipe_a_folder_and_an_option_may_be_called_anything(cluster: Cluster, work: Path, name: str) -> None:
    shared = work.parent / f"shared {name}"
    comment = f"say {name}; \\done"
    target = ["target=slurm", f"target.folder={quoted(shared)}", f"target.slurm.options.comment={quoted(comment)}"]
    run = a_run(work, {"train": TELL_COMMENT}, *target, f"name={quoted(name)}")
    assert last(started(run)) == "finished"
    [folder] = (shared / "runs").iterdir()
    assert json.loads((folder / "results" / "train" / "training.json").read_text()) == {"comment": comment, "job": name}
    assert (folder / "executor.log").exists()


def test_two_nodes_train_as_one_does(cluster: Cluster, work: Path) -> None:
    for nodes in (1, 2):
        words = [*on_slurm(work), f"parallel.nodes={nodes}", *SHORT]
        done(command_here(work, "run", "quickstart", *words))
    one, two = (run.result("train", "training.json") for run in every(work / "runs"))
    assert one and two
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
    assert two["eval_loss_end"] == pytest.approx(one["eval_loss_end"], abs=1e-4)
    assert {len(jobs(folder)) for folder in (work.parent / "shared" / "runs").iterdir()} == {1, 3}
    assert len(list((work.parent / "shared" / "runs").glob("*/logs/train.node-1.log"))) == 1
    cluster.drain()


def test_stages_that_want_other_machines_are_jobs_that_wait_for_each_other(cluster: Cluster, work: Path) -> None:
    programs = {"convert": ENDS, "train": ENDS, "export": ENDS}
    words = ["target.slurm.stages.train.gres=neuron:8", "target.slurm.options.comment=ours"]
    run = a_run(work, programs, *on_slurm(work), *words)
    assert last(started(run)) == "finished"
    assert [stage["state"] for stage in run.stages().values()] == ["finished"] * 3
    assert len(jobs(there(work, run))) == 3


def test_a_stage_that_fails_ends_the_jobs_behind_it(cluster: Cluster, work: Path) -> None:
    programs = {"convert": "raise SystemExit('no such shape')", "train": ENDS}
    run = a_run(work, programs, *on_slurm(work), "target.slurm.stages.train.gres=neuron:8")
    assert last(started(run)) == "failed"
    assert "no such shape" in run.stages()["convert"]["reason"]
    assert targets.of_run(run).cancel(run) == "failed"
    assert cluster.squeue() == []


def test_a_run_is_requeued_when_its_node_dies(cluster: Cluster, work: Path) -> None:
    run = a_run(work, {"train": START_TWICE}, *on_slurm(work))
    stream = started(run)
    until_line(run, "start 1")
    [node] = cluster.squeue("%N")
    cluster.kill_node(node)
    assert last(stream) == "finished"
    targets.of_run(run).fetch(run, adapter=False)
    assert run.result("train", "training.json") == {"starts": 2}
    cluster.start_node(node)


def test_a_run_goes_on_after_its_time_is_up(cluster: Cluster, work: Path) -> None:
    run = a_run(work, {"train": START_TWICE}, *on_slurm(work))
    stream = started(run)
    until_line(run, "start 1")
    subprocess.run(["scancel", "--signal=USR1", "--batch", *jobs(there(work, run))], check=True)
    states = [event["state"] for event in map(json.loads, stream) if event["event"] == "run"]
    assert states == ["interrupted", "started", "finished"]
    assert run.state == "finished"


def test_a_training_interrupted_at_random_steps_loses_one_at_most_and_ends_with_the_same_bits(
    cluster: Cluster, work: Path
) -> None:
    done(command_here(work, "run", *TRAINING))
    done(command_here(work, "run", *TRAINING, *on_slurm(work), "--detach"))
    undisturbed, run = every(work / "runs")
    folder, steps = there(work, run), random_steps()
    events = events_of(folder)
    until_started(events)
    for lines in INTERRUPTIONS:
        until_steps(events, next(steps))
        [node] = cluster.squeue("%N")
        for line in lines:
            subprocess.run(line.format(job=jobs(folder)[0], node=node).split(), check=True)
        until_started(events)
    assert cluster.squeue("%N") != [node], "the drained node runs nothing more"
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=True)
    done(command_here(work, "attach", run.name))
    assert run.state == "finished"
    lost = lost_steps(folder)
    assert len(lost) == len(INTERRUPTIONS) and set(lost) <= {0, 1}, lost
    assert adapter_digest(folder) == adapter_digest(undisturbed.folder)


def test_a_waiting_run_says_why_and_can_be_cancelled(cluster: Cluster, work: Path) -> None:
    run = a_run(work, {"train": ENDS}, *on_slurm(work), "target.slurm.options.hold=true")
    target = targets.of_run(run)
    target.start(run, attached=False)
    assert target.state(run) == "waiting: JobHeldUser"
    note = next(target.follow(run))
    assert "is waiting: JobHeldUser" in json.loads(note)["message"]
    out = done(command_here(work, "cancel", run.name))
    assert "stopped" in out
    assert cluster.squeue() == []
    assert target.state(run) == "stopped"


def test_a_job_says_whose_it_is_and_asks_for_what_the_plan_needs(cluster: Cluster, work: Path) -> None:
    words = [*on_slurm(work), "target.slurm.options.hold=true", f"sdk.train_python={sys.executable}"]
    done(command_here(work, "run", "quickstart", *words, "--detach"))
    [run] = every(work / "runs")
    [job] = jobs(there(work, run))
    said = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    assert f"Comment=recipe=quickstart user={getpass.getuser()}" in said
    assert "CPUs/Task=2" in said and "MinMemoryNode=4099M" in said


def test_status_says_when_a_waiting_run_is_expected_to_start(cluster: Cluster, work: Path) -> None:
    words = [*on_slurm(work), "target.slurm.options.exclusive=true", "target.slurm.time=60"]
    first = a_run(work, {"train": START_TWICE}, *words, "target.slurm.options.nodes=2")
    started(first)
    second = a_run(work, {"train": ENDS}, *words)
    targets.of_run(second).start(second, attached=False)
    states = (done(command_here(work, "status")) for _ in range(30))  # until the scheduler has planned
    assert any("expected to start 20" in " ".join(said.split()) for said in states)
    (work.parent / "shared" / "end").touch()


def test_who_follows_the_log_before_the_run_begins_is_told_why_it_waits(cluster: Cluster, work: Path) -> None:
    run = a_run(work, {"train": "print('begun')\n" + ENDS}, *on_slurm(work), "target.slurm.options.hold=true")
    targets.of_run(run).start(run, attached=False)
    logs = command_here(work, "logs", "-f", run.name)
    assert logs.stderr and "is waiting: JobHeldUser" in logs.stderr.readline()
    subprocess.run(["scontrol", "release", *jobs(there(work, run))], check=True)
    assert "begun" in done(logs)


def test_status_shows_the_stage_and_a_run_that_has_ended_leaves_the_list(cluster: Cluster, work: Path) -> None:
    run = a_run(work, {"convert": ENDS, "train": START_TWICE}, *on_slurm(work))
    targets.of_run(run).start(run, attached=False)
    until_line(run, "start 1")
    said = done(command_here(work, "status"))
    assert "running" in said and "train" in said
    (work.parent / "shared" / "end").touch()
    cluster.drain()
    assert "finished" in done(command_here(work, "status"))
    assert "No runs are in progress." in done(command_here(work, "status"))


def test_a_controller_that_does_not_answer_is_said_not_to(
    cluster: Cluster, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(work, {"train": ENDS}, *on_slurm(work), "target.slurm.options.hold=true")
    targets.of_run(run).start(run, attached=False)
    elsewhere = work / "slurm.conf"
    port = next(line for line in cluster.config.read_text().splitlines() if line.startswith("SlurmctldPort="))
    elsewhere.write_text(cluster.config.read_text().replace(port, f"SlurmctldPort={free_port()}\nMessageTimeout=2"))
    monkeypatch.setenv("SLURM_CONF", str(elsewhere))
    state = json.loads(done(command_here(work, "status", "--json")))[0]["state"]
    assert state.startswith("cannot be asked: ") and "slurm" in state
    monkeypatch.setenv("SLURM_CONF", str(cluster.config))
    assert targets.of_run(run).state(run) == "waiting: JobHeldUser"


def test_cancel_leaves_nothing(cluster: Cluster, work: Path) -> None:
    run = a_run(work, {"train": START_TWICE}, *on_slurm(work))
    stream = started(run)
    until_line(run, "start 1")
    assert targets.of_run(run).cancel(run) == "stopped"
    assert last(stream) == "stopped"
    assert cluster.squeue() == []


def test_what_slurm_refuses_is_said_in_one_line_and_leaves_no_record(cluster: Cluster, work: Path) -> None:
    words = ["run", "quickstart", *on_slurm(work), "target.slurm.partition=gpu"]
    out = done(command_here(work, *words), status=2)
    assert out.strip().splitlines()[-1].startswith("runner: target=slurm: sbatch: error: ")
    assert "Invalid partition" in out
    assert every(work / "runs") == []
    assert list((work.parent / "shared" / "runs").iterdir()) == []
    swept = done(command_here(work, *words, "-m", "train.seed=1,2"), status=2)
    assert "Invalid partition" in swept.strip().splitlines()[-1]
    assert every(work / "runs") == []


def test_doctor_looks_at_a_node(cluster: Cluster, work: Path) -> None:
    found = done(command_here(work, "doctor", "quickstart", *on_slurm(work)))
    assert "python" in found
    refused = done(command_here(work, "doctor", "quickstart", *on_slurm(work), "target.slurm.partition=gpu"), status=2)
    assert "nvalid partition" in refused


def test_a_server_on_a_node_is_reached_by_its_name(cluster: Cluster, work: Path) -> None:
    trained = done(command_here(work, "run", "quickstart", *on_slurm(work), *SHORT))
    assert "gather the adapter" in trained
    served = done(command_here(work, "serve", "last", "--detach", "serve=embedded", "serve.host=0.0.0.0"))
    assert f"serving at http://{socket.gethostname()}:" in served
    assert cluster.squeue("%T") == ["RUNNING"]
    assert "answers, " in done(command_here(work, "serve", "--list"))
    done(command_here(work, "stop", "last"))
    assert cluster.squeue() == []


def test_a_server_on_a_node_is_reached_through_the_login_node(cluster: Cluster, work: Path, login: Host) -> None:
    words = [*on_slurm(work), f"target.host={login.name}", f"sdk.train_python={sys.executable}",
             f"target.forward={free_port()}"]  # fmt: skip
    done(command(login, work, "run", "quickstart", *words, *SHORT))
    served = done(command(login, work, "serve", "last", "--detach", "serve=embedded", "serve.host=0.0.0.0"))
    assert f"serving at http://{socket.gethostname()}:" in served
    assert "connect with `runner attach " in done(command(login, work, "serve", "--list"))
    attached = command(login, work, "attach", "last")
    assert attached.stdout and any("reached from here at" in line for line in attached.stdout)
    assert "answers, " in done(command(login, work, "serve", "--list"))
    done(command(login, work, "stop", "last"))
    attached.communicate(timeout=60)
    assert cluster.squeue() == []


def test_a_sweep_packs_and_outlives_its_sweeper(cluster: Cluster, work: Path) -> None:
    """8 trials of 8 cores: the 32 cores of the cluster take four at once."""
    words = ["run", "quickstart", "-m", "train.seed=range(8)", *on_slurm(work), *SHORT, "train.max_steps=2",
             "target.slurm.options.gres=neuron:8"]  # fmt: skip
    sweeper = command_here(work, *words)
    assert sweeper.stdout
    while len(cluster.squeue("%i")) < 1:
        assert sweeper.poll() is None, sweeper.communicate()
    sweeper.kill()
    sweeper.wait()
    out = done(command_here(work, *words))
    assert out.count("finished in") == 8
    runs = sorted((work.parent / "shared" / "runs").iterdir())
    assert len(runs) == 8
    assert len({one.partition("_")[0] for run in runs for one in jobs(run)}) == 1, "one array"
    assert most_at_once(runs) == 4


def test_a_trial_that_falls_behind_is_cancelled_and_frees_its_place(cluster: Cluster, work: Path) -> None:
    with_losses(a_trial(work, "sweep/000", [], *on_slurm(work)), {5: 1.0})
    run = a_trial(work, "sweep/001", ["5=2"], *on_slurm(work))
    target = targets.of_run(run)
    target.start(run, attached=False)
    list(watch(target.follow(run), run, Pruner(min_resource=5, reduction_factor=3)))
    assert run.state == "pruned" and "held-out loss 2.0000 at step 5" in str(run.prune_reason)
    assert cluster.squeue() == []


def test_submitted_from_a_laptop(cluster: Cluster, work: Path, login: Host) -> None:
    words = [*on_slurm(work), f"target.host={login.name}", f"sdk.train_python={sys.executable}"]
    run = a_run(work, {"train": ENDS}, *words)
    assert last(started(run)) == "finished"
    assert "finished" in done(command(login, work, "status", run.name))
    there = f"{login.name}:{work.parent}/shared"
    other = a_run(work, {"convert": START_TWICE}, *on_slurm(work))  # on the login node itself
    stream = started(other)
    until_line(other, "start 1")
    elsewhere = work.parent / "elsewhere"
    elsewhere.mkdir()
    listed = done(command(login, elsewhere, "status", other.name, "--host", there))
    assert "running" in listed and "slurm at login" in listed
    said = done(command(login, elsewhere, "status", "--host", there))
    rows = [line for line in said.splitlines() if "quickstart" in line]
    assert ["finished" in row for row in rows] == [True, False] and "convert" in rows[1]
    assert [one.name for one in every(elsewhere / "runs")] == [other.name], "asking for all copies no record"
    store = work.parent / "shared" / "store"
    assert "removed train-1 " in done(command(login, elsewhere, "gc", "--host", there, "--days", "0"))
    assert [path.name for kind in ("objects", "partial") for path in (store / kind).iterdir()] == ["convert-1"]
    assert "stopped" in done(command(login, elsewhere, "cancel", other.name))
    assert last(stream) == "stopped"
    assert cluster.squeue() == []


def test_hydras_own_launcher_for_slurm_runs_trials_on_the_nodes(cluster: Cluster, work: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = ["run", "quickstart", "-m", "train.seed=1,2", *SHORT, "hydra/launcher=submitit_slurm",
             "+hydra.launcher.additional_parameters={gres: 'neuron:8'}", "hydra.launcher.timeout_min=10"]  # fmt: skip
    out = done(command_here(work, *words))
    assert [run.state for run in every(work / "runs")] == ["finished"] * 2, out
