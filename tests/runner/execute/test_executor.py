"""The executor with real child processes."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_machine
import pytest

from runner.execute import cores
from runner.execute.executor import execute
from runner.plan.model import Step
from runner.plan.text import command_line


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
    code = (
        "import os, pathlib, sys; "
        "pathlib.Path(sys.argv[1], 'made').write_text(os.environ.get('OMP_NUM_THREADS', ''), encoding='utf-8')"
    )
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


def environment(folder: Path, tool: str) -> Path:
    """The Python of an environment with a tool of its own; like a virtual environment's it is a link to another."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / tool).write_text("#!/bin/sh\necho of the environment\n")
    (folder / "bin" / tool).chmod(0o755)
    (folder / "bin" / "python").symlink_to(sys.executable)
    return folder / "bin" / "python"


CALLS_A_TOOL = "import subprocess; subprocess.run(['libneuronpjrt-path'], check=True)"


@pytest.mark.parametrize("relative", [False, True])
def test_a_step_finds_the_tools_of_its_environment(tmp_path: Path, monkeypatch, relative: bool) -> None:
    python = environment(tmp_path / "venv", "libneuronpjrt-path")
    monkeypatch.chdir(tmp_path)
    one = step(tmp_path / "store", "train", f"import os; os.chdir('/'); {CALLS_A_TOOL}")
    one["argv"][0] = str(python.relative_to(tmp_path) if relative else python)
    assert execute({"store": str(tmp_path / "store"), "steps": [one]}, tmp_path / "run") == 0
    assert (tmp_path / "run" / "logs" / "train.log").read_text() == "of the environment\n"


@pytest.mark.parametrize("folder", ["venv", "my venv $x"])
@pytest.mark.parametrize("relative", [False, True])
def test_the_printed_command_finds_them_too(tmp_path: Path, folder: str, relative: bool) -> None:
    python = environment(tmp_path / folder, "libneuronpjrt-path")
    start = str(python.relative_to(tmp_path) if relative else python)
    one = Step("train", "train", "train-1", (start, "-c", CALLS_A_TOOL), {}, cached=True, resumable=False)
    said = subprocess.run(["bash", "-c", command_line(one)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout == "of the environment\n"


def test_a_bare_python_leaves_the_path_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", f"/nowhere:{environment(tmp_path / 'venv', 'tool').parent}")
    one = step(tmp_path / "store", "train", "import os; print(os.environ['PATH'])")
    one["argv"][0] = "python"
    assert execute({"store": str(tmp_path / "store"), "steps": [one]}, tmp_path / "run") == 0
    assert (tmp_path / "run" / "logs" / "train.log").read_text().strip() == os.environ["PATH"]


def test_an_environment_that_lacks_a_package_is_refused_before_any_work(tmp_path: Path) -> None:
    store, python = tmp_path / "store", tmp_path / "venv" / "python"
    fake_machine.python(python, {"transformers": "4.57.6", "torch": "2.8.0"})
    steps = [step(store, "convert", WRITE), step(store, "train", WRITE)]
    steps[1]["packages"] = {str(python): ["python>=3.10", "transformers==4.48.*", "torch>=2.8", "neuronx-distributed"]}
    assert execute({"store": str(store), "steps": steps}, tmp_path / "run") == 2
    [failed] = [event for event in events(tmp_path / "run") if event["event"] == "step"]
    assert failed["reason"].startswith(
        f"{python}: transformers is 4.57.6, not ==4.48.*; neuronx-distributed is missing (`runner doctor`"
    )
    assert (failed["stage"], failed["state"]) == ("train", "failed")
    assert not store.exists()


def test_an_environment_of_finished_steps_need_not_be_there(tmp_path: Path) -> None:
    store = tmp_path / "store"
    one = step(store, "convert", WRITE)
    assert execute({"store": str(store), "steps": [one]}, tmp_path / "one") == 0
    one["packages"] = {str(tmp_path / "gone" / "python"): ["torch"]}
    assert execute({"store": str(store), "steps": [one]}, tmp_path / "two") == 0
    (store / "objects" / one["key"] / "made").unlink()
    (store / "objects" / one["key"]).rmdir()
    assert execute({"store": str(store), "steps": [one]}, tmp_path / "three") == 2
    assert "gone/python: No such file or directory" in events(tmp_path / "three")[-2]["reason"]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one.getsockname()[1]


def test_a_port_in_use_is_told_before_any_work(tmp_path: Path, monkeypatch, taken: int) -> None:
    monkeypatch.setenv("RUNNER_CORES", str(tmp_path / "cores"))
    store = tmp_path / "store"
    steps = [step(store, "convert", WRITE), step(store, "train", WRITE)]
    steps[1] |= {"ports": [taken], "cores": {"count": 2, "of": 4, "wait": True}}
    assert execute({"store": str(store), "steps": steps}, tmp_path / "run") == 2
    assert f"port {taken} is in use" in events(tmp_path / "run")[-2]["reason"]
    assert not store.exists()


def test_a_port_of_a_run_that_holds_cores_is_waited_for(tmp_path: Path, monkeypatch, taken: int) -> None:
    """The runs of one machine share it: the second finds its own port beside the first's."""
    monkeypatch.setenv("RUNNER_CORES", str(tmp_path / "cores"))
    one = step(tmp_path / "store", "train", "import os; print(os.environ['NEURON_RT_ROOT_COMM_ID'])")
    one |= {"ports": [taken], "cores": {"count": 2, "of": 4, "wait": True}}
    one["env"] = {"NEURON_RT_ROOT_COMM_ID": f"localhost:{taken}"}
    with cores.lease(2, 4, "the first", None):
        assert execute({"store": str(tmp_path / "store"), "steps": [one]}, tmp_path / "run") == 0
    assert (tmp_path / "run" / "logs" / "train.log").read_text() == f"localhost:{taken + 2}\n"
