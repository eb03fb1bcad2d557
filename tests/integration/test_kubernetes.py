"""Runs on a real Kubernetes cluster: the one that `make setup-kubernetes` builds, or another one, in the namespace of
its context.

    export KUBE_CONTEXT=trn-test KUBE_CLAIM=fsx-static-pvc KUBE_IMAGE=registry/image:tag
    pytest tests/integration/test_kubernetes.py

The image has the environment of the stages for a CPU; KUBE_PYTHON names its Python where that is not `python3`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from kubernetes_cluster import CLAIM, CONTEXT, IMAGE, NODE, Cluster, kubernetes_cluster, missing
from ssh_host import free_port

from runner import targets
from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.paths import ROOT
from runner.plan.model import Plan, Step
from runner.record import create
from runner.record.runs import Run, every
from runner.targets.kubernetes import manifests
from runner.targets.kubernetes.access import call, inside
from runner.targets.kubernetes.target import KubernetesTarget

OTHER = "KUBE_CONTEXT" in os.environ
kube_config = pytest.importorskip("kubernetes.config.kube_config")
pytestmark = pytest.mark.skipif(not OTHER and bool(missing()), reason=missing())
TELL = """target.on_end='echo "$RUNNER_STATE $RUNNER_REASON" >>told'"""
SHORT = ["evaluate=none", "train.max_steps=3", "dataset.train_rows=60"]

# argv: the output folder, the file that ends it. Fifty times a second an event and a line; it goes on from its count.
COUNT = """
import json, os, pathlib, sys, time
output, stop = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
reached = output / "count"
n = int(reached.read_text()) if reached.exists() else 0
while not stop.exists():
    n += 1
    event = {"time": 1.0, "stage": "train", "event": "metric", "at": n, "values": {"loss": n}}
    with open(os.environ["RUNNER_EVENTS"], "a") as stream:
        stream.write(json.dumps(event) + "\\n")
    print("line", n, flush=True)
    (output / "aside").write_text(str(n))
    (output / "aside").rename(reached)
    time.sleep(0.02)
(output / "training.json").write_text(json.dumps({"loss": n, "count": n}))
"""


def words() -> list[str]:
    """Overrides that choose the cluster."""
    images = [f"target.kubernetes.{key}={os.environ['KUBE_IMAGE']}" for key in ("image", "access_image")]
    where = [f"target.kubernetes.{key}={os.environ[f'KUBE_{key.upper()}']}" for key in ("context", "claim")]
    return ["target=kubernetes", *images, *where, f"target.python={os.environ.get('KUBE_PYTHON', 'python3')}"]


def a_run(work: Path, *overrides: str, program: str = COUNT, cores: dict | None = None, **carried: str) -> Run:
    """A recorded run in work/runs with one step, which ends when the file that its last word names is there."""
    composed = compose("quickstart", [*words(), f"paths.runs={work}/runs", *overrides])
    key = f"train-{uuid.uuid4().hex[:16]}"
    argv = (os.environ.get("KUBE_PYTHON", "python3"), "-c", program, f"store/partial/{key}", f"store/end-{key}")
    there = {f"inputs/{name}/{Path(path).name}": path for name, path in carried.items()}
    step = Step("train", "count", key, argv, {}, True, True, cores=cores)
    plan = targets.of(composed.recipe.target).assign(Plan("quickstart", "store", (step,), there))
    return Run(create.create(composed, plan))


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster | None]:
    """Ours; None if the environment names another one."""
    if OTHER:
        yield None
        return
    with kubernetes_cluster(tmp_path_factory.mktemp("kubernetes")) as ours, pytest.MonkeyPatch.context() as patch:
        its = {"KUBECONFIG": ours.config, "KUBE_CONTEXT": CONTEXT, "KUBE_CLAIM": CLAIM, "KUBE_IMAGE": IMAGE}
        for name, value in its.items():
            patch.setenv(name, str(value))
        patch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(ours.config))  # read when it is imported
        yield ours


@pytest.fixture
def own(cluster: Cluster | None) -> Cluster:
    """A cluster that a test may disturb."""
    if cluster is None:
        pytest.skip("disturbs the cluster, which may have other users")
    return cluster


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """Those that are cancelled when the test has ended."""
    made: list[Run] = []
    yield made
    for run in made:
        target_of(run).cancel(run)


def target_of(run: Run) -> KubernetesTarget:
    target: Any = targets.of_run(run)
    return target


def started(runs: list[Run], run: Run) -> KubernetesTarget:
    target = target_of(run)
    target.start(run, attached=False)
    runs.append(run)
    return target


def there(run: Run, *command: str) -> bytes:
    """What a command prints on the volume."""
    target = target_of(run)
    job_spec = target._job_spec_of(run)
    return call(target._cluster, job_spec, lambda access: inside(job_spec, *command))


def end(run: Run) -> None:
    there(run, "touch", run.plan["steps"][0]["argv"][-1])


def pods_of(run: Run) -> list[dict[str, Any]]:
    target = target_of(run)
    name = target._job_spec_of(run).run
    found = {"label_selector": manifests.selector(name, "run")}
    return target._cluster.ask("core.list_namespaced_pod", target._cluster.namespace, **found)["items"]


def kubectl(*command: str, **options: Any) -> str:
    context = ["kubectl", "--context", os.environ["KUBE_CONTEXT"]]
    return subprocess.run([*context, *command], check=True, capture_output=True, text=True, **options).stdout


def objects_of(name: str) -> str:
    kinds = "jobs,pods,configmaps,secrets,services,deployments,replicasets"
    return kubectl("get", kinds, "-l", f"app.kubernetes.io/instance={name}", "-o", "name")


def counted(lines: list[bytes]) -> list[int]:
    return [event["at"] for event in map(json.loads, lines) if event["event"] == "metric"]


def notes(lines: list[bytes]) -> str:
    return " ".join(event["message"] for event in map(json.loads, lines) if event["event"] == "log")


def until_counted(stream: Iterator[bytes], number: int) -> list[int]:
    """The numbers of the events up to this one."""
    numbers: list[int] = []
    while number not in numbers:
        numbers += counted([next(stream)])
    return numbers


def until_state(run: Run, text: str) -> None:
    """Wait until the cluster says it of a run."""
    while text not in (state := target_of(run).state(run)):
        assert state.startswith(("running", "waiting")), state
        time.sleep(0.2)


def goes_on(run: Run, stream: Iterator[bytes], numbers: list[int]) -> None:
    """The run counts on from where it was interrupted, and finishes; no event is lost."""
    numbers += until_counted(stream, numbers[-1] + 50)
    end(run)
    numbers += counted(list(stream))
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, numbers[-1] + 1))
    assert run.state == "finished"


def command(work: Path, *words: str) -> subprocess.Popen[str]:
    """`runner` as a process, in `work`."""
    argv = [sys.executable, "-u", "-m", "runner", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, cwd=work, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def done(process: subprocess.Popen[str], status: int = 0) -> str:
    out, err = process.communicate(timeout=1800)
    assert process.returncode == status, out + err
    return out + err


def test_the_quickstart_runs_whole_in_a_job(tmp_path: Path) -> None:
    said = done(command(tmp_path, "run", "quickstart", *words()))
    assert "8 of 8 answers equal the evaluation's" in said
    [run] = every(tmp_path / "runs")
    assert run.metrics()["adapter.execution_accuracy"] >= 0.60
    again = done(command(tmp_path, "run", "quickstart", *words()))
    assert again.count("cached") == 6
    done(command(tmp_path, "fetch", run.name))
    assert (run.folder / "artifacts" / "export" / "adapter" / "adapter_model.safetensors").is_file()
    for one in every(tmp_path / "runs"):
        done(command(tmp_path, "cancel", one.name))


def test_a_pod_that_is_killed_is_replaced_and_the_run_goes_on(tmp_path: Path, runs: list[Run]) -> None:
    run = a_run(tmp_path)
    lines, killed = [], 0
    for line in started(runs, run).follow(run):
        lines.append(line)
        count = counted([line])
        if count and count[0] == 50 * (killed + 1):
            if killed < 2:
                [pod] = [one for one in pods_of(run) if "deletionTimestamp" not in one["metadata"]]
                kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")
                killed += 1
            else:
                end(run)
    numbers = counted(lines)
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, numbers[-1] + 1))
    starts = [event for event in run.events() if event["event"] == "run" and event["state"] == "started"]
    assert len(starts) >= 3
    assert run.state == "finished"
    assert there(run, "cat", f"runs/{target_of(run)._job_spec_of(run).run}/events.jsonl") == (
        run.folder / "events.jsonl").read_bytes()  # fmt: skip


def test_cancel_leaves_nothing(tmp_path: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run = a_run(tmp_path, program=f"import os; assert os.environ['HF_TOKEN'] == 'hf_secret'\n{COUNT}")
    plan = json.loads((run.folder / "plan.json").read_text())
    plan["steps"][0]["argv"] += ["--hub", "a/b"]
    (run.folder / "plan.json").write_text(json.dumps(plan))
    run = Run(run.folder)
    target = started(runs, run)
    stream = target.follow(run)
    while not counted([next(stream)]):
        pass
    name = target._job_spec_of(run).run
    assert {one.partition("/")[0] for one in objects_of(name).split()} == {"job.batch", "pod", "configmap", "secret"}
    assert target.state(run) == "running"
    assert target.cancel(run) == "stopped"
    assert objects_of(name) == ""
    assert json.loads(list(stream)[-1])["state"] == "stopped"


def test_a_job_without_a_node_is_shown_as_pending(tmp_path: Path, runs: list[Run]) -> None:
    many = ["target.kubernetes.devices=1024", "target.kubernetes.instance_type=null"]
    run = a_run(tmp_path, *many, cores={"count": 1024, "of": 1024, "wait": True})
    target = started(runs, run)
    said = next(line for line in target.follow(run) if b"Pending" in line and b"aws.amazon.com/neuron" in line)
    assert "Insufficient aws.amazon.com/neuron" in notes([said])
    assert target.state(run) == "waiting: 0/1 nodes are available: 1 Insufficient aws.amazon.com/neuron."


def test_logs_and_a_follower_from_the_start_while_it_runs(tmp_path: Path, runs: list[Run]) -> None:
    run = a_run(tmp_path)
    started(runs, run)
    first = command(tmp_path, "attach", run.name)
    while b'"at": 10' not in (run.folder / "events.jsonl").read_bytes():
        assert first.poll() is None
    log = command(tmp_path, "logs", "-f", run.name)
    assert log.stdout
    assert [next(log.stdout) for _ in range(50)] == [f"line {n + 1}\n" for n in range(50)]
    first.kill()
    first.communicate()
    second = command(tmp_path, "attach", run.name)
    end(run)
    assert "[1/1] count" in done(second)
    assert int(log.stdout.read().split()[-1]) == run.metrics()["train.count"]
    done(log)
    assert run.state == "finished"
    assert "finished" in done(command(tmp_path, "status", run.name))


def test_a_large_file_travels_over_the_access_pod(tmp_path: Path, runs: list[Run]) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(os.urandom(40_000_000))
    kind = uuid.uuid4().hex
    check = f"import pathlib; assert pathlib.Path('inputs/{kind}/big.bin').stat().st_size == 40_000_000"
    for _ in range(2):
        run = a_run(tmp_path, program=check, **{kind: str(big)})
        lines = list(started(runs, run).follow(run))
        assert json.loads(lines[-1])["state"] == "finished", lines
    assert there(run, "cat", f"inputs/{kind}/big.bin") == big.read_bytes()
    there(run, "rm", "-r", f"inputs/{kind}")


def test_what_was_rotated_out_of_the_log_is_read_from_the_volume(tmp_path: Path, runs: list[Run]) -> None:
    much = """
import json, os
with open(os.environ["RUNNER_EVENTS"], "a") as stream:
    for n in range(1, 30_001):
        event = {"time": 1.0, "stage": "train", "event": "metric", "at": n, "values": {"loss": n}, "more": "x" * 900}
        stream.write(json.dumps(event) + "\\n")
"""
    run = a_run(tmp_path, program=much + COUNT)
    target = started(runs, run)
    while not (pods := pods_of(run)) or pods[0]["status"]["phase"] != "Running":
        pass
    name = pods[0]["metadata"]["name"]
    while int(kubectl("logs", name, "--limit-bytes=20").partition(" ")[0] or 0) == 0:
        pass  # 10 MiB, and the kubelet looks every 10 s
    end(run)
    lines = list(target.follow(run))
    numbers = counted(lines)
    assert numbers[:30_000] == list(range(1, 30_001))
    assert numbers[30_000:] == list(range(1, numbers[-1] + 1))
    assert run.state == "finished"


def test_a_failing_step_is_told_and_not_tried_again(tmp_path: Path, runs: list[Run]) -> None:
    run = a_run(tmp_path, "target.kubernetes.backoff_limit=0", program="import sys; sys.exit('no: bad input')")
    started(runs, run)
    assert "no: bad input" in done(command(tmp_path, "attach", run.name), 1).replace("\n", " ")
    assert run.state == "failed"


def test_a_server_is_reached_from_here_and_stopped(tmp_path: Path) -> None:
    port, here = free_port(), free_port()
    serve = ["serve=embedded", "serve.mode=foreground", f"serve.port={port}", f"target.forward={here}"]
    run = command(tmp_path, "run", "quickstart", *words(), *SHORT, *serve)
    assert run.stdout
    assert any("serving at" in line for line in run.stdout)
    models = httpx.get(f"http://127.0.0.1:{here}/v1/models", timeout=30).json()
    assert {model["id"] for model in models["data"]} == {"base", "adapter"}
    [one] = every(tmp_path / "runs")
    name = target_of(one)._job_spec_of(one).run
    kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s")  # it is ready, asked by the kubelet
    assert "stopped" in done(command(tmp_path, "stop", "last"))
    run.communicate(timeout=120)
    assert run.returncode == 130
    assert objects_of(name) == ""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{here}/v1/models")


def test_a_shell_beside_the_files_of_a_run(tmp_path: Path, runs: list[Run]) -> None:
    run = a_run(tmp_path, program="print('hello')")
    assert list(started(runs, run).follow(run))
    terminal, inner = os.openpty()
    shell = subprocess.Popen(
        [sys.executable, "-m", "runner", "shell", run.name], cwd=tmp_path, stdin=inner, stdout=inner, stderr=inner,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    os.close(inner)
    os.write(terminal, b"cat logs/train.log; exit\n")
    seen = b""
    with suppress(OSError):  # the end of a terminal
        while piece := os.read(terminal, 4096):
            seen += piece
    assert shell.wait() == 0, seen
    assert b"hello\r\n" in seen
    assert objects_of(target_of(run)._job_spec_of(run).run).count("pod/") == 1  # that of the Job


def test_cancel_while_it_waits_leaves_nothing(tmp_path: Path, runs: list[Run]) -> None:
    """No pod can start, not even one that would read the volume."""
    run = a_run(tmp_path, "target.kubernetes.pod.spec.nodeSelector.zone=nowhere")
    target = started(runs, run)
    until_state(run, "didn't match")
    assert target.cancel(run) == "stopped"
    assert objects_of(target._job_spec_of(run).run) == ""
    assert "stopped" in done(command(tmp_path, "status", run.name))


def test_a_run_leaves_a_drained_node_and_goes_on(tmp_path: Path, runs: list[Run], own: Cluster) -> None:
    run = a_run(tmp_path)
    stream = started(runs, run).follow(run)
    numbers = until_counted(stream, 20)
    own.kubectl("drain", NODE, "--force", "--delete-emptydir-data")
    until_state(run, "waiting: 0/1 nodes are available: 1 node(s) were unschedulable")
    own.kubectl("uncordon", NODE)
    goes_on(run, stream, numbers)


def test_a_run_whose_node_dies_goes_on(tmp_path: Path, runs: list[Run], own: Cluster) -> None:
    run = a_run(tmp_path)
    stream = started(runs, run).follow(run)
    numbers = until_counted(stream, 20)
    own.kill_node()
    own.kubectl("delete", "node", NODE)  # as the cloud's controller does
    until_state(run, "waiting: no nodes available")
    own.start_kubelet()
    goes_on(run, stream, numbers)


def test_a_full_quota_of_the_namespace(tmp_path: Path, runs: list[Run], own: Cluster) -> None:
    """A run is refused; one whose pod is lost waits, and says why."""
    run = a_run(tmp_path)
    target = started(runs, run)
    stream = target.follow(run)
    until_counted(stream, 20)
    own.kubectl("create", "quota", "full", "--hard=pods=1")
    try:
        said = done(command(tmp_path, "run", "quickstart", *words()), 2)
        assert "exceeded quota: full, requested: pods=1, used: pods=1, limited: pods=1" in said
        own.kubectl("patch", "quota", "full", "--patch", '{"spec": {"hard": {"pods": "0"}}}')
        own.kubectl("delete", "pod", pods_of(run)[0]["metadata"]["name"])
        assert any(b"Pending: " in line and b"exceeded quota: full" in line for line in stream)
    finally:
        own.kubectl("delete", "quota", "full")
    assert target.cancel(run) == "stopped"


def test_an_image_that_is_not_there(tmp_path: Path, runs: list[Run], own: Cluster) -> None:
    run = a_run(tmp_path, "target.kubernetes.image=127.0.0.1:1/none:1")
    target = started(runs, run)
    until_state(run, "waiting: ErrImagePull: ")
    assert "127.0.0.1:1: connect: connection refused" in target.state(run)
    assert target.cancel(run) == "stopped"


def test_an_expired_credential(tmp_path: Path, runs: list[Run], own: Cluster) -> None:
    own.kubectl("config", "set-credentials", "expired", "--token=expired")
    own.kubectl("config", "set-context", "expired", "--cluster=test", "--user=expired")
    run = a_run(tmp_path, "target.kubernetes.context=expired")
    with pytest.raises(RecipeError, match="Unauthorized"):
        target_of(run).start(run, attached=False)
    assert "cannot be asked: target.kubernetes: " in done(command(tmp_path, "status", run.name))


def test_a_full_volume(tmp_path: Path, runs: list[Run], own: Cluster) -> None:
    folder = own.folder / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], check=True)
    own.create_claim("small", folder)
    fills = "open(__import__('sys').argv[1] + '/big', 'wb').write(bytes(2**25))"
    run = a_run(tmp_path, "target.kubernetes.claim=small", TELL, program=fills)
    started(runs, run)
    assert "the disk is full" in done(command(tmp_path, "attach", run.name), 1)
    assert run.state == "failed"
    assert there(run, "cat", "told").startswith(b"failed train: the disk is full")


def test_a_command_at_the_end(tmp_path: Path, runs: list[Run]) -> None:
    run = a_run(tmp_path, TELL, program="print('hello')")
    assert list(started(runs, run).follow(run))
    assert there(run, "cat", "told").splitlines()[-1] == b"finished "


def test_the_volume_is_freed_and_checked_from_here(tmp_path: Path, runs: list[Run], own: Cluster) -> None:
    """A run in progress keeps what it needs; while one waits, whose record is not there yet, all copies stay."""
    root = own.volume / manifests.FOLDER
    for name in ("store/objects/old-1", "inputs/aaaaaaaaaaaaaaaa"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_bytes(bytes(10**6))
        os.utime(root / name, (1, 1))
    run, waiting = a_run(tmp_path), a_run(tmp_path, "target.kubernetes.pod.spec.nodeSelector.zone=nowhere")
    until_counted(started(runs, run).follow(run), 1)
    target = started(runs, waiting)
    free = ("gc", "--of", run.name, "--gb", "0")
    assert "would remove old-1  1.0 MB" in done(command(tmp_path, *free, "--dry-run"))
    said = done(command(tmp_path, *free))
    assert "removed old-1  1.0 MB" in said and "inputs/" not in said
    target.cancel(waiting)
    assert "removed inputs/aaaaaaaaaaaaaaaa  1.0 MB" in done(command(tmp_path, *free))
    key = run.plan["steps"][0]["key"]
    assert (root / "store" / "partial" / key).is_dir()
    end(run)
    assert list(target_of(run).follow(run)) and run.state == "finished"
    assert "artifacts: 0 damaged" in done(command(tmp_path, "gc", "--of", run.name, "--verify"))
    (root / "store" / "objects" / key / "training.json").write_text("{}")
    assert f"{key}: training.json has 2 bytes" in done(command(tmp_path, "gc", "--of", run.name, "--verify"), 1)
