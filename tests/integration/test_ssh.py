"""Runs on another machine: a real sshd on loopback, host keys checked, links cut, processes killed."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import served_runs
from far_runs import COUNT, a_far_run, command, done, start
from ssh_host import SSHD, Host, free_port, quoted, ssh_host

from runner import targets
from runner.errors import RecipeError
from runner.execute import files, run_folder
from runner.record.runs import Run, every

pytestmark = pytest.mark.skipif(not Path(SSHD).exists(), reason="no sshd")
PYTHON = f"sdk.train_python={sys.executable}"
# argv: the output folder.
ENDS = """
import pathlib, sys
pathlib.Path(sys.argv[1], "training.json").write_text('{"loss": 1.0}')
sys.stdout.buffer.write("done \\N{HORIZONTAL ELLIPSIS}\\n".encode())
"""
PYENV = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
SHORT = ["evaluate=none", "serve=none", "train.max_steps=3", "dataset.train_rows=60"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def host(tmp_path: Path, home: Path) -> Iterator[Host]:
    with ssh_host(tmp_path / "a host", home) as host:
        yield host


SHELLS = {
    "bash": 'echo "Welcome to trn-a"; echo careful >&2; printf "no end of line"; exec bash -c "$SSH_ORIGINAL_COMMAND"',
    "dash": 'exec dash -c "$SSH_ORIGINAL_COMMAND"',
    "tcsh": 'HOME="{home}" exec tcsh -c "$SSH_ORIGINAL_COMMAND"',
    "fish": 'echo Welcome; exec fish -c "$SSH_ORIGINAL_COMMAND"',
}


@pytest.mark.parametrize("shell", SHELLS)
def test_any_login_shell_will_do_and_may_print(tmp_path: Path, home: Path, work: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    (home / ".tcshrc").write_text('echo Welcome\necho -n "no end of line"\n')
    with ssh_host(tmp_path / "a host", home, shell=SHELLS[shell].format(home=home)) as host:
        run = a_far_run(work, host, ENDS, 'name="it\'s 50% !x `a` $b"')
        target = start(run)
        lines = list(target.follow(run))
        assert json.loads(lines[-1])["state"] == "finished" == target.state(run)
        assert list(target.log(run, "train", live=False))[-1] == b"done \xe2\x80\xa6"
        target.fetch(run, adapter=False)
        assert run.metrics() == {"train.loss": 1.0}
        assert target.run_names() == [run.name]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_host_is_an_address_with_a_port(tmp_path: Path, home: Path, work: Path, address: str) -> None:
    with ssh_host(tmp_path / "a host", home, name=address, address=address) as host:
        host.name = f"[{address}]:{host.port}" if ":" in address else f"{address}:{host.port}"
        run = a_far_run(work, host, ENDS)
        target = start(run)
        assert json.loads(list(target.follow(run))[-1])["state"] == "finished"
        machine = targets.on_host(f"{host.name}:{host.root}")
        assert machine.run_names() == [run.name]


def test_an_account_that_runs_no_commands_is_said_to_be_one(tmp_path: Path, home: Path, work: Path) -> None:
    with ssh_host(tmp_path / "a host", home, shell="echo This account is currently not available.") as host:
        run = a_far_run(work, host, ENDS)
        with pytest.raises(RecipeError, match="the login shell did not run the command: This account is currently"):
            start(run)


def test_generate_answers_where_the_run_is(host: Host, work: Path, tiny_model: Path, tiny_adapter: Path) -> None:
    run = served_runs.a_run(work, tiny_model, tiny_adapter, *host.target, PYTHON)
    host.root.mkdir()
    (work / "store").rename(host.root / "store")
    (run.folder / "plan.json").write_text(json.dumps({**run.plan, "store": "store", "where": "trn-a"}))
    (work / "my rows.jsonl").write_text('{"question": "CREATE TABLE"}\n')
    words = ["generate", run.name, "--prompts", "my rows.jsonl", "--max-tokens", "4", "--output", "out"]
    assert "base" in done(command(host, work, *words))
    [line] = (work / "out" / "answers.jsonl").read_text().splitlines()
    assert list(json.loads(line)["answers"]) == ["base", "adapter"]
    refused = done(command(host, work, "export", run.name, "x", "--format", "merged"), 2)
    assert "the result of fetch is on trn-a, not on this machine; copy store/fetch-a from there" in refused


def there(host: Host, run: Run) -> Path:
    return host.root / "runs" / run.name


def counted(lines: list[bytes]) -> list[int]:
    events = map(json.loads, lines)
    return [event["at"] for event in events if event["event"] == "metric"]


def end(host: Host) -> None:
    (host.root / "end").touch()


def processes_of(host: Host) -> list[str]:
    """Command lines of living processes that work in the host's folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if place.readlink() == host.root:
                found.append((place.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_a_recipe_runs_whole_and_the_second_time_all_is_there(host: Host, work: Path) -> None:
    far_words = [*host.target, PYTHON, *SHORT]
    first = done(command(host, work, "run", "quickstart", *far_words))
    assert "[5/5] gather the adapter" in first
    local = done(command(host, work, "run", "quickstart", *SHORT))
    assert "eval loss" in local
    one, other = every(work / "runs")
    timeless = {name: value for name, value in other.metrics().items() if "seconds" not in name}
    assert {name: one.metrics()[name] for name in timeless} == timeless
    assert (one.folder / "events.jsonl").read_bytes() == (there(host, one) / "events.jsonl").read_bytes()
    again = done(command(host, work, "run", "quickstart", *far_words))
    assert again.count("cached") == 5
    assert not (work / "store" / "partial").exists() or not list((work / "store" / "partial").iterdir())
    done(command(host, work, "fetch", one.name))
    assert (one.folder / "artifacts" / "export" / "adapter" / "adapter_model.safetensors").is_file()


def test_what_a_detached_run_made_is_fetched_when_a_command_needs_it(host: Host, work: Path) -> None:
    done(command(host, work, "run", "quickstart", "--detach", *host.target, PYTHON, *SHORT))
    early = done(command(host, work, "export", "last", "early"), status=2)
    assert "has no adapter yet" in early and not (work / "early").exists()
    [run] = every(work / "runs")
    files.wait_until_unlocked(there(host, run) / run_folder.LOCK)
    assert "finished" in done(command(host, work, "show", "last"))
    assert run.result("train", "training.json")
    done(command(host, work, "export", "last", "shared"))
    assert (work / "shared" / "adapter_model.safetensors").is_file()
    merged = done(command(host, work, "export", "last", "merged", "--format", "merged"), status=2)
    assert f"{run.name}: the result of fetch is on" in merged and f"copy {run.plan['store']}/fetch-" in merged


def test_a_detached_run_is_followed_from_another_computer(host: Host, work: Path, tmp_path: Path) -> None:
    run = a_far_run(work, host, COUNT)
    start(run)
    other = tmp_path / "another computer"
    other.mkdir()
    where = f"{host.name}:{host.root}"
    assert "running" in done(command(host, other, "status", "--host", where))
    log = command(host, other, "logs", "-f", run.name, "--host", where)
    followers = [command(host, work, "attach", run.name), command(host, other, "attach", "last", "--host", where)]
    assert log.stdout
    assert [next(log.stdout) for _ in range(50)] == [f"line {n + 1}\n" for n in range(50)]
    end(host)
    for follower in followers:
        assert "[1/1] do train" in done(follower)
    last = [50, *(int(line.split()[1]) for line in log.stdout)][-1]  # the rest may have been read ahead
    done(log)
    whole = (there(host, run) / "events.jsonl").read_bytes()
    for record in (run.folder, other / "runs" / run.name):
        assert (record / "events.jsonl").read_bytes() == whole
    assert run.metrics()["train.count"] == last
    assert "finished" in done(command(host, work, "status", run.name))


def test_a_checkout_of_other_code_follows_and_ends_a_run(host: Host, work: Path) -> None:
    run = a_far_run(work, host, COUNT)
    start(run)
    (host.root / "code").rename(host.root / "code of another version")
    assert "running" in done(command(host, work, "status", run.name))
    (host.root / "code").rename(host.root / "code of yet another")
    follower = command(host, work, "attach", run.name)
    while b'"at": 10' not in (run.folder / "events.jsonl").read_bytes():
        assert follower.poll() is None
    end(host)
    assert "[1/1] do train" in done(follower)


def test_two_followers_of_one_record_write_it_once(host: Host, work: Path) -> None:
    run = a_far_run(work, host, COUNT)
    streams = [start(run).follow(run), targets.of_run(run).follow(run)]
    heard: list[list[bytes]] = [[], []]
    for _ in range(60):
        for mine, stream in zip(heard, streams, strict=True):
            mine.append(next(stream))
    end(host)
    for mine, stream in zip(heard, streams, strict=True):
        mine += stream
    numbers = counted(heard[0])
    assert numbers == list(range(1, numbers[-1] + 1)) == counted(heard[1])
    assert (run.folder / "events.jsonl").read_bytes() == (there(host, run) / "events.jsonl").read_bytes()


def test_every_link_is_cut_and_no_line_is_lost_or_doubled(host: Host, work: Path) -> None:
    run = a_far_run(work, host, COUNT)
    heard, cuts, losses = [], 0, 0
    for line in start(run).follow(run):
        heard.append(line)
        losses += b"trn-a: connection lost" in line
        # Cut each connection once: lines of the last one may still arrive until its loss is noticed.
        if counted([line]) and losses == cuts < 3 and len(counted(heard)) >= 25 * (cuts + 1):
            host.cut()
            cuts += 1
        if len(counted(heard)) > 150 and losses == 3:
            end(host)
    numbers = counted(heard)
    assert numbers == list(range(1, numbers[-1] + 1))
    assert [b"trn-a: connection lost" in line for line in heard].count(True) >= 3
    mirrored = (run.folder / "events.jsonl").read_bytes()
    assert mirrored == (there(host, run) / "events.jsonl").read_bytes()
    assert run.state == "finished"


def test_a_silent_link_is_found_lost(host: Host, work: Path) -> None:
    run = a_far_run(work, host, COUNT)
    stopped: list[int] = []
    stream = start(run).follow(run)
    for line in stream:
        if len(counted([line])) and not stopped:
            [executor] = [event["pid"] for event in run.events("run")]
            stopped = [pid for session in host.sessions() for pid in family(session, but=executor)]
            for pid in stopped:  # as a cut cable: the connection stays, nothing comes
                os.kill(pid, signal.SIGSTOP)
        if b"connection lost" in line:
            break
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)
    end(host)
    assert counted(list(stream))
    assert run.state == "finished"


def family(pid: int, but: int) -> list[int]:
    """A process and its descendants, except for one and its own."""
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *(member for child in children if child != but for member in family(child, but))]


def test_the_follower_is_killed_and_the_run_goes_on(host: Host, work: Path) -> None:
    run = a_far_run(work, host, COUNT)
    start(run)
    follower = command(host, work, "attach", run.name)
    while b'"at": 30' not in (run.folder / "events.jsonl").read_bytes():
        assert follower.poll() is None
    follower.kill()
    follower.communicate()
    host.cut()
    assert run.state == "away"
    end(host)
    done(command(host, work, "attach", run.name))
    assert (run.folder / "events.jsonl").read_bytes() == (there(host, run) / "events.jsonl").read_bytes()


def test_ctrl_c_without_a_terminal_leaves_the_run_alone(host: Host, work: Path) -> None:
    run = a_far_run(work, host, COUNT)
    start(run)
    follower = command(host, work, "attach", run.name)
    while b'"at": 10' not in (run.folder / "events.jsonl").read_bytes():
        assert follower.poll() is None
    follower.send_signal(signal.SIGINT)
    assert "continues in the background; use runner attach" in done(follower)
    assert "running" in done(command(host, work, "status", run.name))
    assert "stopped" in done(command(host, work, "cancel", run.name))


def test_cancel_leaves_no_process(host: Host, work: Path) -> None:
    grandchild = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    run = a_far_run(work, host, grandchild)
    target = start(run)
    assert target.state(run) == "running"
    [executor] = [event["pid"] for event in run_folder.read_events(there(host, run)) if event["event"] == "run"]
    ended = os.pidfd_open(executor)
    assert target.cancel(run) == "stopped"
    assert select.select([ended], [], [], 10)[0]
    connection = [os.pidfd_open(pid) for session in host.sessions() for pid in family(session, but=executor)]
    target.detach()
    assert all(select.select([process], [], [], 10)[0] for process in connection)
    assert processes_of(host) == []
    assert (target.cancel(run), target.state(run)) == ("stopped", "stopped")


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ("exit('it is no good')", 1, "it is no good (exit status 1"),
        ("import sys; print('bad flag'); sys.exit(2)", 2, "bad flag (exit status 2"),
        ("import os; os.kill(os.getpid(), 9)", 1, "killed by SIGKILL"),
        ("import sys; sys.exit(255)", 1, "exit status 255"),
    ],
)
def test_a_command_that_fails_is_told_with_its_reason(
    host: Host, work: Path, program: str, status: int, reason: str
) -> None:
    run = a_far_run(work, host, program)
    start(run)
    assert reason in done(command(host, work, "attach", run.name), status).replace("\n", " ")
    assert run.state == "failed"


def test_a_host_that_reboots(host: Host, work: Path) -> None:
    run = a_far_run(work, host, COUNT)
    target = start(run)
    stream = target.follow(run)
    lines = [next(stream) for _ in range(20)]
    executor = json.loads(lines[0])["pid"]
    os.kill(executor, signal.SIGKILL)
    host.cut()
    said = done(command(host, work, "attach", run.name), 1)
    assert "the executor was killed" in said
    assert "killed" in done(command(host, work, "status", run.name))


def test_keys_are_checked(host: Host, work: Path) -> None:
    known = host.folder / "known_hosts"
    right = known.read_text()
    shutil.copy(host.folder / "id_ed25519.pub", known)
    algorithm, key = known.read_text().split()[:2]
    words = ["run", "quickstart", *host.target, PYTHON, *SHORT]
    for content, expected in (
        ("", f"ssh-keyscan -p {host.port} 127.0.0.1 >> ~/.ssh/known_hosts"),
        (f"[127.0.0.1]:{host.port} {algorithm} {key}\n", f"ssh-keygen -R '[127.0.0.1]:{host.port}'"),
    ):
        known.write_text(content)
        said = done(command(host, work, *words), 2)
        assert expected in said
        assert said.count("\n") == 1
    assert not host.root.exists()
    assert every(work / "runs") == []
    known.write_text(right)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["target.host=nowhere.invalid"], "cannot be reached"),
        (["target.python=python9"], "trn-a has no python9"),
        (["target.host=null"], "target.host: missing; name a machine"),
        (["target.folder=/proc/nowhere"], "/proc/nowhere"),
        (["target.folder=/etc/hostname"], "target.folder: /etc/hostname on trn-a is a file; name a folder"),
        (["sdk.train_python=null"], "sdk.train_python: missing: the Python on trn-a"),
    ],
)
def test_what_is_missing_there_is_one_line(host: Host, work: Path, overrides: list[str], expected: str) -> None:
    words = ["run", "quickstart", *host.target, PYTHON, *SHORT, *overrides]
    said = done(command(host, work, *words), 2)
    assert expected in said
    assert said.count("\n") == 1
    assert every(work / "runs") == []


@pytest.mark.parametrize("version", ["2.7", "3.6"])
def test_a_python_that_is_too_old_is_told(host: Host, work: Path, version: str) -> None:
    python = next(PYENV.glob(f"versions/{version}.*/bin/python"), None)
    if python is None:
        pytest.skip(f"pyenv has no Python {version} here")
    words = ["run", "quickstart", *host.target, PYTHON, f"target.python={python}", *SHORT]
    said = done(command(host, work, *words), 2)
    assert f"target.python: {python} on trn-a is Python {version[:1]}" in said
    assert said.endswith("name one of 3.9 or newer\n")
    assert said.count("\n") == 1


def test_nobody_listens(host: Host, work: Path, home: Path) -> None:
    config = home / ".ssh" / "config"
    config.write_text(config.read_text().replace(str(host.port), str(free_port())))
    words = ["run", "quickstart", *host.target, PYTHON, *SHORT]
    assert "does `ssh trn-a` work?" in done(command(host, work, *words), 2)


def test_a_full_disk_is_said(host: Host, work: Path) -> None:
    host.root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", host.root], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        fill = "open(__import__('sys').argv[1] + '/big', 'wb').write(bytes(2**24))"
        run = a_far_run(work, host, fill)
        start(run)
        said = done(command(host, work, "attach", run.name), 1)
        assert "the disk is full" in said
        assert run.state == "failed"
        big = work / "big.bin"
        big.write_bytes(bytes(2**23))
        with pytest.raises(RecipeError, match="GB free, the files to copy have"):
            start(a_far_run(work, host, fill, big=str(big)))
    finally:
        subprocess.run(["umount", "-l", host.root], check=True)


def test_a_model_and_data_that_lie_there_are_not_copied(
    host: Host, work: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shared = host.folder / "fsx's [models]"
    shutil.copytree(tiny_model, shared / "llama")
    rows = [json.dumps({"question": f"q {n}", "answer": f"a {n}"}) for n in range(60)]
    (shared / "rows.jsonl").write_text("\n".join(rows))
    there = ["model.source=folder", f"model.path={quoted(f'target:{shared}/llama')}", "dataset=files"]
    there += [f"dataset.path={quoted(f'target:{shared}/rows.jsonl')}", "dataset.eval_rows=10", "dataset.seq_len=64"]
    words = [*host.target, PYTHON, *SHORT, *there]
    assert "2 layers of 64" in done(command(host, work, "plan", "quickstart", *words))
    plan = json.loads(done(command(host, work, "plan", "quickstart", *words, "--json")))
    copied = [word.replace("target:", "") for word in words]
    assert plan["carried"] == {}
    assert [step["key"] for step in plan["steps"]] == [
        step["key"] for step in json.loads(done(command(host, work, "plan", "quickstart", *copied, "--json")))["steps"]
    ]
    done(command(host, work, "run", "quickstart", *words))
    assert not (host.root / "inputs").exists()
    [run] = every(work / "runs")
    assert run.state == "finished"
    here = json.loads(done(command(host, work, "plan", "quickstart", PYTHON, *SHORT, *there, "--json")))
    assert [step["key"] for step in here["steps"]] == [step["key"] for step in plan["steps"]]
    for broken, expected in (
        (f"model.path={quoted(f'target:{shared}/none')}", f"target:{shared}/none: no such file or folder on trn-a"),
        ("model.path=target:llama", "model.path: target:llama: must be absolute"),
        ('dataset.template.response="{reply}"', f"target:{shared}/rows.jsonl:1"),
    ):
        said = done(command(host, work, "run", "quickstart", *words, broken), 2)
        assert expected in said
        assert "/tmp/runner-" not in said
        assert said.count("\n") == 1
    (shared / "llama" / "model.safetensors").write_bytes((shared / "llama" / "model.safetensors").read_bytes()[:-5])
    said = done(command(host, work, "doctor", "quickstart", *words), 1)
    assert f"target:{shared}/llama/model.safetensors: 5 bytes are missing" in " ".join(said.split())


def test_two_thousand_files_with_odd_names_travel_once(host: Host, work: Path) -> None:
    folder = work / "a 'folder' \"of\" $(files)"
    folder.mkdir()
    for number in range(2000):
        (folder / f"{number} it's; ä&.txt").write_text(str(number))
    look = "import pathlib, sys; sys.exit(len(list(pathlib.Path('inputs/odd').rglob('*.txt'))) != 2000)"
    for _ in range(2):
        run = a_far_run(work, host, look, odd=str(folder))
        target = start(run)
        assert json.loads(list(target.follow(run))[-1])["state"] == "finished"
        arrived = (host.root / "inputs" / "odd").stat().st_ino
        shutil.rmtree(host.root / "store")
    assert (host.root / "inputs" / "odd").stat().st_ino == arrived


def test_the_token_travels_in_a_file_of_its_own(host: Host, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    look = "import os, sys; sys.exit(len(os.environ['HF_TOKEN']) != 9)"
    run = a_far_run(work, host, look)
    plan = json.loads((run.folder / "plan.json").read_text())
    plan["steps"][0]["argv"] += ["--hub", "a/b"]
    (run.folder / "plan.json").write_text(json.dumps(plan))
    target = start(run)
    assert json.loads(list(target.follow(run))[-1])["state"] == "finished"
    left = [path for root in (host.root, work) for path in root.rglob("*") if path.is_file()]
    assert [path for path in left if b"hf_secret" in path.read_bytes()] == []


def test_the_store_there_is_freed_and_checked_from_here(host: Host, work: Path) -> None:
    there = f"{host.name}:{host.root}"
    assert "store: no such store" in done(command(host, work, "gc", "--unreachable", "--host", there), 2)
    run = a_far_run(work, host, COUNT)
    target = start(run)
    next(target.log(run, "train", live=True))
    store = host.root / "store"
    for name in ("objects/old-1", "partial/old-2"):
        (store / name).mkdir(parents=True)
        (store / name / "weights").write_bytes(bytes(10**6))
    free = ("gc", "--host", there, "--gb", "0")
    said = done(command(host, work, *free, "--dry-run")).splitlines()
    assert sorted(said) == ["2.0 MB could be freed", "would remove old-1  1.0 MB", "would remove old-2  1.0 MB"]
    assert "2.0 MB freed" in done(command(host, work, *free))
    assert [path.name for kind in ("objects", "partial") for path in (store / kind).iterdir()] == ["train-1"]
    (host.root / "end").touch()
    assert list(target.follow(run)) and run.state == "finished"
    assert "0.0 MB freed" in done(command(host, work, "gc", "--host", there, "--unreachable"))
    assert "1 artifacts: 0 damaged" in done(command(host, work, "gc", "--host", there, "--verify"))
    (store / "objects" / "train-1" / "training.json").write_text("{}")
    assert "train-1: training.json has 2 bytes" in done(command(host, work, "gc", "--host", there, "--verify"), 1)


def test_values_with_blanks_and_quotes_arrive_as_they_are(host: Host, work: Path) -> None:
    words = [f"name={quoted('it is a name')}", f"dataset.template.separator={quoted('; $(touch x) `y` é')}"]
    out = done(command(host, work, "run", "quickstart", *host.target, PYTHON, *SHORT, *words))
    assert "[5/5]" in out
    [template] = (host.root / "store" / "objects").glob("tokenize-*/template.json")
    assert json.loads(template.read_text())["separator"] == "; $(touch x) `y` é"


def test_doctor_looks_at_the_far_machine(host: Host, work: Path) -> None:
    out = done(command(host, work, "doctor", "quickstart", *host.target, PYTHON))
    assert f"{sys.executable}: Python" in out
    missing = [*host.target, "sdk.train_python=/nowhere/python"]
    assert "/nowhere/python: No such file" in done(command(host, work, "doctor", "quickstart", *missing), 1)
    assert not host.root.exists()


def test_a_far_server_is_reached_from_here_and_stopped(host: Host, work: Path) -> None:
    there, here = free_port(), free_port()
    serve = ["serve=embedded", "serve.mode=foreground", f"serve.port={there}", f"target.forward={here}"]
    run = command(host, work, "run", "quickstart", *host.target, PYTHON, *SHORT, *serve)
    assert run.stdout
    assert any(f"reached from here at http://127.0.0.1:{here}" in line for line in run.stdout)
    models = httpx.get(f"http://127.0.0.1:{here}/v1/models", timeout=30).json()
    assert {model["id"] for model in models["data"]} == {"base", "adapter"}
    assert "stopped" in done(command(host, work, "stop", "last"))
    run.communicate(timeout=60)
    assert run.returncode == 130
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{there}/v1/models")


def test_far_state_without_a_run_is_an_error(host: Host, work: Path) -> None:
    run = a_far_run(work, host, COUNT)
    target = start(run)
    target.cancel(run)
    shutil.rmtree(there(host, run))
    with pytest.raises(RecipeError, match="trn-a"):
        target.state(run)
    assert files.HEARTBEAT < 5
