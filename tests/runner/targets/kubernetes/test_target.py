"""Runs on Kubernetes: manifests against the API's schema, and every call of the client against a stand-in for it."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_cluster import FakeCluster, fake_cluster
from rich.console import Console

from runner import targets
from runner.commands.serve.server import detach_when_serving
from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.plan.model import Plan, Step
from runner.record import create
from runner.record.runs import Run
from runner.targets.kubernetes import access, manifests
from runner.targets.kubernetes.manifests import unique_name

pytest.importorskip("kubernetes", reason="no Kubernetes client; make setup installs it for developers")
DATA = Path(__file__).parents[3] / "data" / "kubernetes"
_SPEC = importlib.util.spec_from_file_location("make_manifests", DATA / "make.py")
assert _SPEC and _SPEC.loader
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)

STARTED = {"time": 1.0, "event": "run", "state": "started", "pid": 1}
LOSS = {"time": 2.0, "stage": "train", "event": "metric", "at": 1, "values": {"loss": 1.5}}
FINISHED = {"time": 3.0, "event": "run", "state": "finished", "status": 0}
PENDING = {"conditions": [{"type": "PodScheduled", "status": "False",
                           "message": "0/1 nodes are available: 1 Insufficient aws.amazon.com/neuron."}]}  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    import kubernetes.config.kube_config as kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with fake_cluster(tmp_path / "kubeconfig") as cluster:
        yield cluster


def a_run(folder: Path, *overrides: str, argv: tuple[str, ...] = ("python3", "-c", "pass")) -> Run:
    """A recorded run with one step."""
    composed = compose("quickstart", ["target=kubernetes", *make.CPU, f"paths.runs={folder}/runs", *overrides])
    step = Step("train", "train", "t-1", argv, {}, True, True)
    plan = targets.of(composed.recipe.target).assign(Plan("quickstart", "store", (step,)))
    return Run(create.create(composed, plan))


def pod(run: str, number: int, state: str, component: str = "run") -> dict[str, Any]:
    name = f"{run}-{number}"
    metadata = {"name": name, "uid": name, "labels": manifests.labels(run, component),
                "ownerReferences": [{"name": run}], "creationTimestamp": f"2026-11-24T19:00:{number:02}Z"}  # fmt: skip
    status = {"containerStatuses": [{"name": component, "restartCount": 0, "state": {state: {}}}]}
    return {"metadata": metadata, "spec": {}, "status": status}


def echo(*events: dict[str, Any]) -> bytes:
    """What an executor prints of its events."""
    lines, offset = [], 0
    for event in events:
        lines.append(f"{offset} {json.dumps(event)}\n")
        offset += len(json.dumps(event)) + 1
    return "".join(lines).encode()


def name_of(cluster: FakeCluster) -> str:
    [name] = cluster.objects["jobs"]
    return name


def end_job(cluster: FakeCluster, kind: str = "Complete", **words: str) -> None:
    cluster.objects["jobs"][name_of(cluster)]["status"] = {"conditions": [{"type": kind, "status": "True", **words}]}


def heard(lines: list[bytes]) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, lines) if event["event"] != "log"]


def notes(lines: list[bytes]) -> str:
    return " ".join(event["message"] for event in map(json.loads, lines) if event["event"] == "log")


# Manifests


@pytest.mark.parametrize("name", sorted(make.RECIPES))
def test_manifests_are_the_reviewed_ones(name: str) -> None:
    assert make.text(make.RECIPES[name]) == (DATA / f"{name}.yaml").read_text(), "`make golden` writes it again"


@pytest.mark.parametrize("name", sorted(make.RECIPES))
def test_manifests_fit_the_schema_of_the_api(name: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    made = list(yaml.safe_load_all(make.manifests(make.RECIPES[name])))
    assert {one["kind"] for one in made} >= {"Job", "ConfigMap"}
    for one in made:
        validator.validate(one, "1.34", strict=True)


def test_plan_prints_manifests(tmp_path: Path) -> None:
    words = ["plan", "llama3_8b_sql_trn1", *make.OPTIMUM, "target=kubernetes", "--manifests"]
    done = subprocess.run([sys.executable, "-m", "runner", *words], cwd=tmp_path, capture_output=True, text=True)
    assert [one["kind"] for one in yaml.safe_load_all(done.stdout)] == ["ConfigMap", "Job"]
    assert "--from-literal=HF_TOKEN" in done.stdout.partition("\n")[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", ["8B & more", "___", "a" * 200, "Ünï", "x-"])
def test_names_are_dns_labels(recipe: str) -> None:
    import re

    name = unique_name(recipe, "one")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(f"{name}-nodes") < 63
    assert name != unique_name(recipe, "two")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["target.kubernetes.image=null"], "target.kubernetes.image: not set; build recipes/images/cpu.Docker"),
        (["target.kubernetes.claim=null"], "target.kubernetes.claim: not set"),
        (["target.kubernetes.tolerations=[neuron]"], "tolerations: neuron: not a taint"),
    ],
)
def test_wrong_settings_are_one_line(overrides: list[str], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        make.manifests(["quickstart", *make.CPU, *overrides])


DOLLY = ["llama3_8b_dolly_trn2", "serve=none"]
OTHER_IMAGES = [
    (DOLLY, "target.kubernetes.image: not set; build recipes/images/nxd_2_29.Dockerfile"),
    ([*DOLLY, "target.kubernetes.image=mine"], "image_sdk: mine contains an unknown Neuron release"),
    ([*DOLLY, *make.OPTIMUM], "image_sdk: registry/trainium-recipes:optimum-2.26 contains neuron_2_26"),
    (["llama3_8b_sql_trn1", *make.image("a", "neuron_2_26", "nxd")], "image_trains: .* has nxd, not optimum"),
    ([*DOLLY, *make.NXD, "serve=vllm"], "serve_image: serve=vllm needs an image with vLLM; build"),
    ([*DOLLY, *make.NXD, "serve=vllm", "target.kubernetes.serve_image=b"], "serve.mode: the smoke test would run in"),
]


@pytest.mark.parametrize(("words", "expected"), OTHER_IMAGES)
def test_images_that_cannot_do_it_are_refused_with_the_file_that_makes_one(words: list[str], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        make.manifests(words)


def test_one_image_with_everything_runs_the_smoke_test_too() -> None:
    image = "target.kubernetes.serve_image=registry/trainium-recipes:nxd-2.29"
    made = list(yaml.safe_load_all(make.manifests([*DOLLY, *make.NXD, "serve=vllm", image])))
    assert [one["kind"] for one in made] == ["ConfigMap", "Job"]


def test_vllm_serves_in_its_own_image_and_the_embedded_server_in_that_of_the_stages() -> None:
    for name, tag in (("vllm", "vllm-2.29"), ("server", "cpu")):
        made = {one["kind"]: one for one in yaml.safe_load_all(make.manifests(make.RECIPES[name]))}
        [container] = made["Deployment"]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == f"registry/trainium-recipes:{tag}"


def test_without_devices_of_a_node_it_is_said() -> None:
    with pytest.raises(RecipeError, match="target.kubernetes.devices"):
        make.manifests(["llama3_8b_sql_trn1", *make.OPTIMUM, "target.kubernetes.devices=null"])


# Start


def test_the_job_is_made_first_and_owns_the_rest(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run = a_run(tmp_path, argv=("python3", "-c", "pass", "--hub", "a/b"))
    targets.of_run(run).start(run, attached=False)
    kinds, bodies = zip(*cluster.made(), strict=True)
    assert kinds == ("jobs", "secrets", "configmaps")
    owners = [body["metadata"]["ownerReferences"][0] for body in bodies[1:]]
    assert {(owner["kind"], owner["uid"]) for owner in owners} == {("Job", bodies[0]["metadata"]["uid"])}
    environment = bodies[0]["spec"]["template"]["spec"]["containers"][0]["env"]
    [reference] = [one["valueFrom"] for one in environment if "valueFrom" in one]
    assert reference == {"secretKeyRef": {"name": name_of(cluster), "key": "HF_TOKEN"}}  # without it no pod starts
    holding = [kind for kind, body in cluster.made() if "hf_secret" in json.dumps(body)]
    assert holding == ["secrets"]
    assert not [file for file in run.folder.rglob("*") if file.is_file() and b"hf_secret" in file.read_bytes()]


def test_when_something_cannot_be_made_the_job_goes_too(cluster: FakeCluster, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    cluster.on_made["jobs"] = lambda job: cluster.refuse.update(configmaps="configmaps is forbidden")
    with pytest.raises(RecipeError, match="configmaps is forbidden"):
        targets.of_run(run).start(run, attached=False)
    assert cluster.objects["jobs"] == {}


@pytest.mark.parametrize(
    ("change", "overrides", "expected"),
    [
        (lambda c: c.objects.pop("namespaces"), [], "there is no team; create it: kubectl create namespace team"),
        (lambda c: c.objects.pop("persistentvolumeclaims"), [], "no PersistentVolumeClaim fsx-static-pvc in team"),
        (lambda c: c.objects["persistentvolumeclaims"]["fsx-static-pvc"].update(status={"phase": "Lost"}), [], "Lost"),
        (lambda c: None, ["target.kubernetes.secret=hub"], "no Secret hub in team; create it: kubectl create secret"),
        (lambda c: c.put("secrets", "hub", data={"token": ""}), ["target.kubernetes.secret=hub"], "has token, not HF"),
        (lambda c: c.denied.add("pods"), [], "may not get pods/log in team"),
        (lambda c: c.refuse.update(pods="exceeded quota: neuron, requested: 16"), [], "pod: exceeded quota: neuron"),
        (lambda c: None, ["target.kubernetes.context=other"], "target.kubernetes.context: other"),
    ],
)
def test_what_is_missing_is_one_line_and_nothing_is_made(
    cluster: FakeCluster, tmp_path: Path, change: Any, overrides: list[str], expected: str
) -> None:
    change(cluster)
    run = a_run(tmp_path, *overrides, argv=("python3", "-c", "pass", "--hub", "a/b"))
    with pytest.raises(RecipeError) as refused:
        targets.of_run(run).start(run, attached=False)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)
    assert cluster.made() == []


def test_doctor_shows_the_cluster(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.objects["nodes"]["trn1"]["status"]["allocatable"]["aws.amazon.com/neuron"] = "8"
    words = ["doctor", "llama3_8b_sql_trn1", *make.OPTIMUM, "target=kubernetes"]
    env = {**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")}
    command = [sys.executable, "-m", "runner", *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "ok      volume      fsx-static-pvc: Bound" in done.stdout
    assert "error   image" in done.stdout  # the pod's Python is that of this machine, which has no neuronx-distributed
    assert "warning neuron      16 aws.amazon.com/neuron are requested, but a node has at most 8" in done.stdout
    refusing = subprocess.run([*command, "target.busy=refuse"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert refusing.returncode == 1
    assert {kind for kind, _ in cluster.made()} == {"pods"}
    assert cluster.objects["pods"] == {}


# Follow


def test_a_run_is_followed_from_pending_to_its_end(cluster: FakeCluster, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    target = targets.of_run(run)
    target.start(run, attached=False)
    name = name_of(cluster)
    waiting = pod(name, 1, "waiting")
    waiting["status"] = PENDING
    cluster.put("pods", f"{name}-1", **waiting)
    cluster.logs[f"{name}-1"] = [(echo(STARTED, LOSS, FINISHED), False)]
    assert target.state(run) == "waiting: 0/1 nodes are available: 1 Insufficient aws.amazon.com/neuron."
    lines = []
    for line in target.follow(run):
        if not lines:
            assert "Pending: 0/1 nodes are available: 1 Insufficient aws.amazon.com/neuron." in notes([line])
            cluster.put("pods", f"{name}-1", **pod(name, 1, "terminated"))
            end_job(cluster)
        lines.append(line)
    assert heard(lines) == [STARTED, LOSS, FINISHED]
    assert list(run.events()) == [STARTED, LOSS, FINISHED]
    assert target.state(run) == "finished"
    assert list(map(json.loads, target.follow(run))) == [STARTED, LOSS, FINISHED]


def test_a_job_that_a_queue_holds_back_is_said_to_be_suspended(cluster: FakeCluster, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    target = targets.of_run(run)
    target.start(run, attached=False)
    cluster.objects["jobs"][name_of(cluster)]["spec"]["suspend"] = True
    assert target.state(run) == "waiting: the Job is suspended, as a queue does until it has room"
    assert "Pending: the Job is suspended" in notes([next(iter(target.follow(run)))])


def test_a_cut_log_and_a_second_pod_lose_and_double_nothing(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.targets.mirrored._LONGEST_WAIT", 0.0)
    run = a_run(tmp_path)
    target = targets.of_run(run)
    target.start(run, attached=False)
    name, more = name_of(cluster), [{**LOSS, "values": {"loss": n}} for n in range(5)]
    cluster.put("pods", f"{name}-1", **pod(name, 1, "running"))
    cluster.logs[f"{name}-1"] = [(echo(STARTED, more[0])[:-20], True), (echo(STARTED, *more[:3]), False)]
    whole = [STARTED, *more[:3], STARTED, *more[3:], FINISHED]
    cluster.logs[f"{name}-2"] = [(echo(*whole), False)]
    lines = []
    for line in target.follow(run):
        lines.append(line)
        if b'"loss": 2' in line:  # its node dies; the Job makes another pod
            cluster.put("pods", f"{name}-1", **pod(name, 1, "terminated"))
            cluster.put("pods", f"{name}-2", **pod(name, 2, "terminated"))
            end_job(cluster)
    assert heard(lines) == whole
    assert "connection lost" in notes(lines)
    assert (run.folder / "events.jsonl").read_text() == "".join(json.dumps(event) + "\n" for event in whole)


def test_a_job_that_ends_without_a_word(cluster: FakeCluster, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    target = targets.of_run(run)
    target.start(run, attached=False)
    name = name_of(cluster)
    dead = pod(name, 1, "terminated")
    dead["status"]["containerStatuses"][0]["state"] = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    cluster.put("pods", f"{name}-1", **dead)
    cluster.logs[f"{name}-1"] = [(echo(STARTED) + b"Killed\n", False)]
    end_job(cluster, "Failed", reason="BackoffLimitExceeded", message="too often")
    said = notes(list(target.follow(run)))
    assert all(words in said for words in ("Killed", "container run: OOMKilled", "BackoffLimitExceeded: too often"))
    assert (target.state(run), run.state) == ("killed", "killed")


def test_an_image_that_cannot_be_had_is_said(cluster: FakeCluster, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    target = targets.of_run(run)
    target.start(run, attached=False)
    name = name_of(cluster)
    stuck = pod(name, 1, "waiting")
    status = {"name": "run", "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull", "message": "no such"}}}
    stuck["status"] = {"containerStatuses": [status]}
    cluster.put("pods", f"{name}-1", **stuck)
    assert "Pending: ErrImagePull: no such" in notes([next(target.follow(run))])


# End


def test_cancel_deletes_the_job_and_waits_for_its_pods(cluster: FakeCluster, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    target = targets.of_run(run)
    target.start(run, attached=False)
    assert target.cancel(run) == "stopped"
    [delete] = [query for method, path, query, _ in cluster.requests if method == "DELETE" and "/jobs/" in path]
    assert delete["propagationPolicy"] == "Foreground"
    left = {kind: list(things) for kind, things in cluster.objects.items() if kind in ("jobs", "configmaps", "pods")}
    assert not any(left.values())
    assert run.state == "stopped"
    assert target.cancel(run) == "stopped"
    assert heard(list(target.follow(run)))[-1]["state"] == "stopped"


def test_a_finished_run_that_nobody_followed_is_heard_before_its_job_goes(cluster: FakeCluster, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    target = targets.of_run(run)
    target.start(run, attached=False)
    name = name_of(cluster)
    cluster.put("pods", f"{name}-1", **pod(name, 1, "terminated"))
    cluster.logs[f"{name}-1"] = [(echo(STARTED, LOSS, FINISHED), False)]
    end_job(cluster)
    assert target.cancel(run) == "finished"
    assert list(run.events()) == [STARTED, LOSS, FINISHED]
    assert cluster.objects["jobs"] == {}


@pytest.mark.parametrize("left", ["the Job", "nothing"])
@pytest.mark.parametrize("ask", ["state", "cancel", "follow"])
def test_a_finished_run_is_finished_though_its_pod_is_gone(
    cluster: FakeCluster, tmp_path: Path, left: str, ask: str
) -> None:
    run = a_run(tmp_path, f"target.kubernetes.mount={tmp_path}/volume")
    target = targets.of_run(run)
    target.start(run, attached=False)
    on_volume = tmp_path / "volume" / manifests.FOLDER / "runs" / name_of(cluster) / "events.jsonl"
    on_volume.parent.mkdir(parents=True)
    events = [STARTED, {**STARTED, "state": "stopped"}, STARTED, LOSS, FINISHED]  # its first pod was drained
    on_volume.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    (run.folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events[:2]))
    if left == "nothing":
        cluster.objects["jobs"].clear()
    else:
        end_job(cluster)
    if ask == "follow":
        assert heard(list(target.follow(run))) == events
    else:
        assert getattr(target, ask)(run) == "finished"
    assert list(run.events()) == events
    assert not cluster.objects["pods"]


def test_a_volume_that_cannot_be_read_proves_nothing(cluster: FakeCluster, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    target = targets.of_run(run)
    target.start(run, attached=False)
    cluster.objects["jobs"].clear()
    cluster.refuse["pods"] = "exceeded quota"
    assert "cannot be read from its volume: target.kubernetes: exceeded quota" in notes(list(target.follow(run)))
    assert run.state == "away"


def test_without_the_client_it_is_said_how_to_get_it(tmp_path: Path) -> None:
    block = "import sys; sys.modules['kubernetes'] = None; from runner.cli import main; "
    words = f"sys.exit(main(['run', 'quickstart', 'target=kubernetes', *{make.CPU}, 'paths.runs={tmp_path}/runs']))"
    done = subprocess.run([sys.executable, "-c", block + words], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'trainium-recipes[kubernetes]'" in done.stderr


@pytest.mark.parametrize("stages", [("train", "serve"), ("serve",)])
def test_the_steps_of_a_server_come_in_two_parts(stages: tuple[str, ...]) -> None:
    """A server of a recorded run has no other step: its Job only unpacks."""
    recipe = compose("quickstart", ["target=kubernetes", *make.CPU]).recipe
    steps = tuple(Step(stage, stage, stage, ("python3", "--port", "8123"), {}, True, True) for stage in stages)
    made = list(yaml.safe_load_all(targets.of(recipe.target).manifests(Plan("quickstart", "store", steps))))
    commands = {one["kind"]: one["spec"]["template"]["spec"]["containers"][0]["command"] for one in made
                if "template" in one.get("spec", {})}  # fmt: skip
    asked = {kind: command[command.index("--steps") + 1] for kind, command in commands.items()}
    assert asked == {"Job": ",".join(stages[:-1]), "Deployment": "serve"}


def test_a_server_that_never_answers_is_not_said_to_serve(cluster: FakeCluster, tmp_path: Path) -> None:
    run, said = a_run(tmp_path), io.StringIO()
    target = targets.of_run(run)
    target.start(run, attached=False)
    name = name_of(cluster)
    cluster.put("pods", f"{name}-1", **pod(name, 1, "terminated"))
    cluster.logs[f"{name}-1"] = [(echo(STARTED), False)]
    end_job(cluster, "Failed", reason="BackoffLimitExceeded")
    assert detach_when_serving(run, target, Console(file=said, width=200)) == 1
    assert "BackoffLimitExceeded" in said.getvalue() and "Stop it with" not in said.getvalue()


def test_a_model_on_the_volume_is_read_by_a_small_pod(cluster: FakeCluster, tmp_path: Path, tiny_model: Path) -> None:
    words = [*make.CPU, "target=kubernetes", f"target.kubernetes.mount={tmp_path}/volume", "model.source=folder"]
    recipe = compose("quickstart", [*words, f"model.path=target:{tiny_model}"]).recipe
    plan = targets.of(recipe.target).plan(recipe)
    [fetch] = [step for step in plan.steps if step.stage == "fetch"]
    assert fetch.argv[fetch.argv.index("--folder") + 1] == str(tiny_model)
    assert not any(str(tiny_model) == local for local in plan.carried.values())
    assert [kind for kind, _ in cluster.made()] == ["pods"]
    assert cluster.objects["pods"] == {}


def test_a_credential_command_that_fails_is_said_to_have_failed(cluster: FakeCluster, tmp_path: Path) -> None:
    config = json.loads((tmp_path / "kubeconfig").read_text())
    command = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", "echo expired >&2; exit 3"],
    }
    config["users"][0]["user"] = {"exec": command}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    run = a_run(tmp_path)
    with pytest.raises(RecipeError, match="the credential command of its user failed: process returned 3. expired"):
        targets.of_run(run).start(run, attached=False)
    assert cluster.requests == []


def test_a_cluster_that_does_not_answer_is_said_not_to(cluster: FakeCluster, tmp_path: Path, closed: int) -> None:
    config = json.loads((tmp_path / "kubeconfig").read_text())
    config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{closed}"}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    run = a_run(tmp_path)
    for ask in (targets.of_run(run).state, targets.of_run(run).cancel):
        with pytest.raises(RecipeError, match="no answer from the cluster: .*; does `kubectl get pods` work"):
            ask(run)


def test_warnings_that_hold_no_pod_back_are_not_said_to(cluster: FakeCluster, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    target = targets.of_run(run)
    target.start(run, attached=False)
    name = name_of(cluster)
    cluster.put("pods", f"{name}-0", **{**pod(name, 0, "waiting"), "status": {}})
    messages = {
        "DNSConfigForming": "Nameserver limits were exceeded",
        "FailedMount": f'MountVolume.SetUp failed: configmap "{name}" not found',
        "FailedAttachVolume": "volume is attached elsewhere",
    }
    for reason, message in messages.items():
        cluster.put("events", reason, reason=reason, message=message)
    assert "Pending: volume is attached elsewhere" in notes([next(iter(target.follow(run)))])


def test_a_run_is_found_by_its_recipe_its_name_and_its_user(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "DOMAIN\\me & you")
    run = a_run(tmp_path, 'name="레시피 1"', "tp_size=2")
    targets.of_run(run).start(run, attached=False)
    [job] = cluster.objects["jobs"].values()
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert (labels["trainium-recipes/recipe"], labels["trainium-recipes/user"]) == ("quickstart", "DOMAIN-me-you")
        assert labels["trainium-recipes/run"] == manifests.label_value(run.name)
    assert job["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1"}


@pytest.mark.parametrize(
    ("text", "value"), [("레시피", ""), ("레시피 1", "1"), ("a_" * 40, ("a_" * 31) + "a"), ("-x.", "x")]
)
def test_any_name_makes_a_valid_label(text: str, value: str) -> None:
    assert manifests.label_value(text) == value


def test_a_small_pod_goes_with_the_job_of_its_run(cluster: FakeCluster, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    target = targets.of_run(run)
    target.start(run, attached=False)
    [job] = cluster.objects["jobs"].values()
    owners: list[Any] = []
    cluster.on_made["pods"] = lambda made: owners.append(made["metadata"]["ownerReferences"][0]["uid"])
    with access.access_pod(target._cluster, target._job_spec_of(run)):  # type: ignore[attr-defined]
        assert owners == [job["metadata"]["uid"]]


def test_doctor_looks_into_the_image(cluster: FakeCluster) -> None:
    recipe = compose("quickstart", [*make.CPU, "target=kubernetes"]).recipe
    target = targets.of(recipe.target)
    plan = target.plan(recipe)
    step = dataclasses.replace(plan.steps[0], packages={"python3": ["no-such-package>=1"]})
    found = target.findings(dataclasses.replace(plan, steps=(step,)))
    [image] = [finding for finding in found if finding.about == "image"]
    assert image.level == "error" and "no-such-package is missing" in image.says
    assert cluster.objects["pods"] == {}
