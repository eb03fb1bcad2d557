"""The executor with real child processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner.execute import execute


def step(store: Path, stage: str, code: str, *, key: str = "", cached: bool = True, resumable: bool = False) -> dict:
    key = key or f"{stage}-1"
    output = str(store / "partial" / key)
    argv = [sys.executable, "-c", code, output]
    return {"stage": stage, "key": key, "argv": argv, "env": {}, "cached": cached, "resumable": resumable}


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def states(run: Path) -> list[tuple[str, str]]:
    return [(event["stage"], event["state"]) for event in events(run) if event["event"] == "step"]


WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1], 'made').write_text('x')"


def test_second_run_makes_nothing(tmp_path: Path) -> None:
    plan = {"store": str(tmp_path / "store"), "steps": [step(tmp_path / "store", "convert", WRITE)]}
    assert execute(plan, tmp_path / "one") == 0
    assert execute(plan, tmp_path / "two") == 0
    assert states(tmp_path / "one") == [("convert", "begun"), ("convert", "finished")]
    assert states(tmp_path / "two") == [("convert", "begun"), ("convert", "cached")]
    assert (tmp_path / "two" / "artifacts" / "convert" / "made").read_text() == "x"


@pytest.mark.parametrize("users", [None, "7"])
def test_several_processes_share_the_cores_unless_the_user_says_otherwise(tmp_path, monkeypatch, users) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if users:
        monkeypatch.setenv("OMP_NUM_THREADS", users)
    code = "import os, sys; open(sys.argv[1] + '/made', 'w').write(os.environ.get('OMP_NUM_THREADS', ''))"
    cores = len(os.sched_getaffinity(0))
    for processes, threads in ((1, ""), (2, str(max(1, cores // 2))), (10 * cores, "1")):
        one = {**step(tmp_path / "store", "train", code, key=f"train-{processes}"), "processes": processes}
        assert execute({"store": str(tmp_path / "store"), "steps": [one]}, tmp_path / f"run-{processes}") == 0
        made = tmp_path / f"run-{processes}" / "artifacts" / "train" / "made"
        assert made.read_text() == (users or threads)


def test_failed_step_publishes_nothing_and_ends_the_run(tmp_path: Path) -> None:
    store = tmp_path / "store"
    broken = step(store, "train", WRITE + "; print('no luck'); sys.exit(2)")
    plan = {"store": str(store), "steps": [broken, step(store, "export", WRITE)]}
    assert execute(plan, tmp_path / "run") == 2
    assert not (store / "objects").exists()
    assert "no luck" in events(tmp_path / "run")[-2]["reason"]
    assert ("export", "begun") not in states(tmp_path / "run")


def test_only_a_resumable_step_finds_what_it_left(tmp_path: Path) -> None:
    store = tmp_path / "store"
    code = (
        "import sys, pathlib; f = pathlib.Path(sys.argv[1], 'made'); seen = f.exists(); f.touch(); sys.exit(not seen)"
    )
    for resumable, expected in ((True, 0), (False, 1)):
        plan = {"store": str(store), "steps": [step(store, "train", code, key=f"k{resumable}", resumable=resumable)]}
        assert execute(plan, tmp_path / f"a{resumable}") == 1
        assert execute(plan, tmp_path / f"b{resumable}") == expected


def test_uncached_step_runs_every_time_and_leaves_its_output_with_the_run(tmp_path: Path) -> None:
    store = tmp_path / "store"
    plan = {"store": str(store), "steps": [step(store, "serve", WRITE, cached=False)]}
    for name in ("one", "two"):
        assert execute(plan, tmp_path / name) == 0
        assert states(tmp_path / name)[-1] == ("serve", "finished")
        assert (tmp_path / name / "artifacts" / "serve" / "made").is_file()
    assert not (store / "objects").exists()


def start(plan: dict, run: Path) -> subprocess.Popen:
    run.mkdir()
    (run / "plan.json").write_text(json.dumps(plan))
    return subprocess.Popen([sys.executable, "-m", "runner.execute", str(run / "plan.json"), "--run", str(run)])


def waiting_step(store: Path, fifo: Path) -> dict:
    """A step that tells its pid through a named pipe and then waits for ever."""
    code = f"import os, signal; open({str(fifo)!r}, 'w').write(str(os.getpid())); signal.pause()"
    os.mkfifo(fifo)
    return step(store, "train", code)


def test_stopping_the_executor_ends_the_step(tmp_path: Path) -> None:
    plan = {"store": str(tmp_path / "store"), "steps": [waiting_step(tmp_path / "store", tmp_path / "fifo")]}
    process = start(plan, tmp_path / "run")
    pid = int((tmp_path / "fifo").read_text())
    step_process = os.pidfd_open(pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    assert select.select([step_process], [], [], 20)[0], "the step outlived the run"
    assert events(tmp_path / "run")[-1]["state"] == "stopped"
    assert not (tmp_path / "store" / "objects").exists()


def test_killing_the_executor_ends_the_step_and_frees_the_lock(tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = start({"store": str(store), "steps": [waiting_step(store, tmp_path / "fifo")]}, tmp_path / "run")
    pid = int((tmp_path / "fifo").read_text())
    step_process = os.pidfd_open(pid)
    process.kill()
    process.wait()
    assert select.select([step_process], [], [], 20)[0], "the step outlived its executor"
    assert execute({"store": str(store), "steps": [step(store, "train", WRITE)]}, tmp_path / "again") == 0


def test_two_runs_make_an_artifact_once(tmp_path: Path) -> None:
    store, count = tmp_path / "store", tmp_path / "count"
    slow = step(store, "convert", WRITE + f"; open({str(count)!r}, 'a').write('x'); input_ = sum(range(10**7))")
    runs = [start({"store": str(store), "steps": [slow]}, tmp_path / name) for name in ("one", "two")]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert count.read_text() == "x"


def test_an_echo_is_the_whole_stream_with_its_offsets_also_when_a_run_goes_on(tmp_path: Path) -> None:
    plan, store = tmp_path / "plan.json", tmp_path / "store"
    (tmp_path / "events.jsonl").touch()
    plan.write_text(json.dumps({"store": str(store), "steps": [step(store, "train", "pass")]}))
    for times in (1, 2):
        command = [sys.executable, "-m", "runner.execute", str(plan), "--run", str(tmp_path), "--echo"]
        printed = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
        offsets, lines = zip(*(line.split(b" ", 1) for line in printed), strict=True)
        assert b"\n".join(lines) + b"\n" == (tmp_path / "events.jsonl").read_bytes()
        assert list(map(int, offsets)) == [sum(len(line) + 1 for line in lines[:n]) for n in range(len(lines))]
        assert [json.loads(line).get("state") for line in lines].count("started") == times


def executor(run: Path, plan: dict, *words: str) -> subprocess.Popen[str]:
    run.mkdir(exist_ok=True)
    (run / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "runner.execute", str(run / "plan.json"), "--run", str(run), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_plan_in_parts_is_finished_by_the_last(tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    plan = {"store": str(store), "steps": [step(store, name, WRITE) for name in ("convert", "train", "export")]}
    assert executor(run, plan, "--steps", "convert,train").wait() == 0
    assert [event["state"] for event in events(run) if event["event"] == "run"] == ["started"]
    assert executor(run, plan, "--steps", "export").wait() == 0
    assert [event["state"] for event in events(run) if event["event"] == "run"] == ["started", "started", "finished"]


def test_nodes_start_a_step_together_and_know_which_they_are(tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    names = "os.environ['PET_NODE_RANK'], os.environ['PET_MASTER_ADDR']"
    # each waits for the file of the other
    code = f"""import os, pathlib, sys, time
out = pathlib.Path(sys.argv[1])
(out / os.environ["PET_NODE_RANK"]).touch()
while len(list(out.glob("[01]"))) < 2:
    time.sleep(0.01)
print({names})"""
    skipped, together = step(store, "convert", WRITE), {**step(store, "train", code), "nodes": 2}
    plan = {"store": str(store), "steps": [skipped, together, step(store, "export", WRITE)]}
    (run / "logs").mkdir(parents=True)
    (run / "nodes.json").write_text(json.dumps({"stage": "train", "host": "old", "attempt": "7.0"}))  # before a requeue
    other = executor(run, plan, "--node", "1", "--attempt", "7.1")
    first = executor(run, plan, "--attempt", "7.1")
    assert (first.wait(), other.wait()) == (0, 0), other.communicate()
    told = [(run / "logs" / name).read_text().split() for name in ("train.log", "train.node-1.log")]
    assert [words[0] for words in told] == ["0", "1"]
    assert told[0][1] == told[1][1] != "old"


def test_an_interrupted_run_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    wait = "import sys, time; print('at work', flush=True); time.sleep(60)"
    process = executor(run, {"store": str(store), "steps": [step(store, "convert", WRITE), step(store, "train", wait)]})
    while not (run / "logs" / "train.log").exists() or not (run / "logs" / "train.log").read_text():
        assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 75
    plan = {"store": str(store), "steps": [step(store, "convert", WRITE), step(store, "train", WRITE)]}
    assert executor(run, plan).wait() == 0
    assert [one["state"] for one in events(run) if one["event"] == "run"] == [
        "started", "interrupted", "started", "finished",
    ]  # fmt: skip
    assert ("convert", "cached") in states(run)


def test_a_step_keeps_the_cores_that_it_was_granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    code = "import os; print(os.environ['NEURON_RT_VISIBLE_CORES'], os.environ['NEURON_RT_ROOT_COMM_ID'])"
    one = {**step(store, "train", code), "cores": {"count": 2, "of": 32, "wait": False}}
    one["env"] = {"NEURON_RT_ROOT_COMM_ID": "localhost:48620"}
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "6,7")
    assert execute({"store": str(store), "steps": [one]}, tmp_path / "run") == 0
    assert (tmp_path / "run" / "logs" / "train.log").read_text() == "6,7 localhost:48626\n"
