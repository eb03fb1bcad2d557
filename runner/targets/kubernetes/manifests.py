"""What a run is on Kubernetes: its objects as plain values, ready for YAML or the API. Nothing is connected to.

Job NAME              runs the plan; on several nodes one pod each, which find each other through the Service NAME-nodes
ConfigMap NAME        our code, the record of the run and small files, as one tar, and the program that unpacks it
Secret NAME           the hub token, where no Secret is named
Deployment NAME       the server that stays, with a Service: at no pod until the Job is complete
Pod NAME-access       a shell's worth of Python beside the volume, while files are brought or looked at

On the volume, below MOUNT/trainium-recipes, lie code/, inputs/, runs/NAME and store/, as on a machine over SSH.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.compose.schema import Kubernetes
from runner.errors import RecipeError
from runner.execute import bootstrap
from runner.execute.rendezvous import NODE_NAME
from runner.targets.bundle import asks_hub, code_name

NEURON, EFA, HUGEPAGES = "aws.amazon.com/neuron", "vpc.amazonaws.com/efa", "hugepages-2Mi"
_BESIDE_HUGEPAGES = "8000Mi"  # Kubernetes refuses huge pages to a pod that asks for neither memory nor processors
FOLDER = "trainium-recipes"  # on the volume
JOB_PLAN, SERVER_PLAN = "job.json", "server.json"  # a plan whose server stays, in two parts
RUN, SERVER, ACCESS = "run", "server", "access"  # app.kubernetes.io/component of the pods, and their container
_ARCHIVE, _LANDING = "delivery.tar.gz", "landing.py"
_DELIVERY = "/delivery"  # where the ConfigMap is mounted
_GRACE = 60  # seconds that the executor has to end its step
_NAME = 53  # characters of a run's name: room is left for what is appended to name pods and Services

Object = dict[str, Any]


@dataclass(frozen=True)
class Load:
    """A plan (as in plan.json) that is to run under the name `run`, with `python` of the image."""

    run: str
    plan: Mapping[str, Any]
    python: str
    settings: Kubernetes
    has_token: bool = False  # a Secret of its own

    @property
    def server(self) -> Mapping[str, Any] | None:
        """The step that serves until it is stopped."""
        steps = (step for step in self.plan["steps"] if step["stage"] == "serve")
        return next((step for step in steps if not any(word.endswith("smoke_test.py") for word in step["argv"])), None)

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        """Those of the Job."""
        return [step for step in self.plan["steps"] if step is not self.server]

    @property
    def nodes(self) -> int:
        return max((step["nodes"] for step in self.plan["steps"]), default=1)

    @property
    def port(self) -> int:
        """Of the server that stays."""
        assert self.server
        words = self.server["argv"]
        return int(words[words.index("--port") + 1])

    @property
    def folder(self) -> str:
        """That records the run, on the volume."""
        return f"runs/{self.run}"

    @property
    def root(self) -> str:
        """The folder that plans run in."""
        return f"{self.settings.mount}/{FOLDER}"

    def parts(self) -> Iterator[tuple[str, bytes]]:
        """The plan in two, where a server stays: file name and content."""
        if self.server:
            for name, steps in ((JOB_PLAN, self.steps), (SERVER_PLAN, [self.server])):
                yield name, json.dumps({**self.plan, "steps": steps}).encode()


def unique_name(recipe: str, *parts: str) -> str:
    """A DNS label for a run of a recipe: a part of the recipe's name, and the digest of all that tells it from others.

    >>> unique_name("My recipe", "2026-11-24T19:30:00")
    'my-recipe-49b3cc3f59f0'
    """
    digest = hashlib.sha256("\0".join((recipe, *parts)).encode()).hexdigest()[:12]
    words = re.sub(r"[^a-z0-9]+", "-", recipe.lower()).strip("-")
    starts = words if words[:1].isalpha() else f"run-{words}".rstrip("-")  # a Service's name begins with a letter
    return f"{starts[: _NAME - len(digest) - 1].rstrip('-')}-{digest}"


def labels(run: str, component: str | None = None) -> dict[str, str]:
    """What marks every object of a run; its pods by their component too."""
    ours = {"app.kubernetes.io/name": "trainium-recipes", "app.kubernetes.io/managed-by": "trainium-recipes"}
    of_pods = {"app.kubernetes.io/component": component} if component else {}
    return ours | {"app.kubernetes.io/instance": run} | of_pods


def selector(run: str, component: str | None = None) -> str:
    """The labels as the API and kubectl take them to find objects."""
    return ",".join(f"{name}={value}" for name, value in labels(run, component).items())


def job(load: Load) -> Object:
    """The Job. What a step said of itself (exit status 1 or 2) is final; a pod that was killed is tried again."""
    said = [1, 2] if load.nodes == 1 else [2]  # of several nodes the rest fail with 1 when one is killed
    several = {"completions": load.nodes, "parallelism": load.nodes, "completionMode": "Indexed"}
    ends_by_itself = {"ttlSecondsAfterFinished": load.settings.ttl_seconds} if load.server is None else {}
    spec = {
        **(several if load.nodes > 1 else {}),
        "backoffLimit": load.settings.backoff_limit,
        **ends_by_itself,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": RUN, "operator": "In", "values": said}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {"metadata": {"labels": labels(load.run, RUN)}, "spec": _job_pod(load)},
    }
    return _object("batch/v1", "Job", load.run, load.run, spec=spec)


def config_map(load: Load, archive: bytes) -> Object:
    """What the pod unpacks onto the volume, and the program that does."""
    binary = {_ARCHIVE: base64.b64encode(archive).decode()}
    text = {_LANDING: Path(bootstrap.__file__).read_text(encoding="utf-8")}
    return _object("v1", "ConfigMap", load.run, load.run, binaryData=binary, data=text)


def secret(load: Load, token: str) -> Object:
    """The hub token of one run."""
    return _object("v1", "Secret", load.run, load.run, stringData={load.settings.secret_key: token})


def owned(load: Load, archive: bytes) -> Iterator[Object]:
    """What a Job needs besides the Secret; all of it goes with the Job."""
    yield config_map(load, archive)
    if load.nodes > 1:
        spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": labels(load.run, RUN)}
        yield _object("v1", "Service", _nodes(load), load.run, spec=spec)
    if load.server:
        ports = [{"name": "http", "port": load.port, "targetPort": load.port}]
        spec = {"selector": labels(load.run, SERVER), "ports": ports}
        yield _object("v1", "Service", load.run, load.run, spec=spec)
        yield _deployment(load)


def access_pod(settings: Kubernetes, run: str, name: str, seconds: int) -> Object:
    """A pod beside the volume, without devices; it ends by itself after some time."""
    container = {
        "name": ACCESS,
        "image": settings.access_image,
        "command": ["python3", "-c", f"import time; time.sleep({seconds})"],
        "volumeMounts": [_mount(settings)],
    }
    spec = {
        **_everywhere(settings),
        "restartPolicy": "Never",
        "activeDeadlineSeconds": seconds,
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [_shared(settings)],
    }
    pod = _object("v1", "Pod", name, run, spec=spec)
    pod["metadata"]["labels"] = labels(run, ACCESS)
    return pod


def devices(load: Load, steps: Sequence[Mapping[str, Any]]) -> int:
    """Neuron devices that the most demanding of some steps needs. Raises RecipeError where a node's are not known."""
    cores = [step["cores"] for step in steps if step["cores"]]
    if cores and not load.settings.devices:
        raise RecipeError("target.kubernetes.devices: says how many Neuron devices a node has, such as 16")
    return max((-(-one["count"] * (load.settings.devices or 0) // one["of"]) for one in cores), default=0)


def _object(version: str, kind: str, name: str, run: str, **content: Any) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels(run)}, **content}


def _nodes(load: Load) -> str:
    return f"{load.run}-nodes"


def _job_pod(load: Load) -> Object:
    plan = JOB_PLAN if load.server else "plan.json"
    node = ["--node", "$(JOB_COMPLETION_INDEX)"] if load.nodes > 1 else []
    land = {
        "name": "land",
        "image": load.settings.image,
        "command": [load.python, f"{_DELIVERY}/{_LANDING}", "receive", load.root, f"{_DELIVERY}/{_ARCHIVE}"],
        "volumeMounts": [_mount(load.settings), {"name": "delivery", "mountPath": _DELIVERY, "readOnly": True}],
    }
    pod = _pod(load, RUN, load.settings.image, plan, node, load.steps)
    pod["volumes"].append({"name": "delivery", "configMap": {"name": load.run}})
    several = {"subdomain": _nodes(load)} if load.nodes > 1 else {}
    return {**several, "restartPolicy": "Never", "initContainers": [land], **pod}


def _deployment(load: Load) -> Object:
    assert load.server
    pod = _pod(load, SERVER, _server_image(load.settings, load.server), SERVER_PLAN, [], [load.server])
    ready = {"httpGet": {"path": "/health", "port": load.port}, "periodSeconds": 5}
    pod["containers"][0] |= {"ports": [{"name": "http", "containerPort": load.port}], "readinessProbe": ready}
    spec = {
        "replicas": 0,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": labels(load.run, SERVER)},
        "template": {"metadata": {"labels": labels(load.run, SERVER)}, "spec": pod},
    }
    return _object("apps/v1", "Deployment", load.run, load.run, spec=spec)


def _server_image(settings: Kubernetes, server: Mapping[str, Any]) -> str | None:
    """vLLM's own image; the embedded server runs where the stages do."""
    with_vllm = any(word.endswith("serve_vllm.py") for word in server["argv"])
    return settings.serve_image if with_vllm and settings.serve_image else settings.image


def _pod(
    load: Load, component: str, image: str | None, plan: str, words: list[str], steps: Sequence[Mapping[str, Any]]
) -> Object:
    """A pod whose container executes some steps of the plan on the volume."""
    command = [load.python, "-m", "runner.execute", f"{load.folder}/{plan}", "--run", load.folder, "--echo", *words]
    asked = devices(load, steps)
    container = {
        "name": component,
        "image": image,
        "command": command,
        "workingDir": load.root,
        "env": _environment(load),
        "resources": _resources(load, asked),
        "volumeMounts": [_mount(load.settings), {"name": "shm", "mountPath": "/dev/shm"}],
    }
    size = {"sizeLimit": load.settings.shm} if load.settings.shm else {}
    return {
        **_everywhere(load.settings),
        **_where(load.settings, asked),
        "terminationGracePeriodSeconds": _GRACE,
        "containers": [container],
        "volumes": [_shared(load.settings), {"name": "shm", "emptyDir": {"medium": "Memory", **size}}],
    }


def _everywhere(settings: Kubernetes) -> Object:
    """What all pods have: none of them talks to the API."""
    account = {"serviceAccountName": settings.service_account} if settings.service_account else {}
    tolerations = [_toleration(text) for text in settings.tolerations]
    return {**account, "automountServiceAccountToken": False, "enableServiceLinks": False, "tolerations": tolerations}


def _where(settings: Kubernetes, asked: int) -> Object:
    by_type = asked and settings.instance_type
    chosen = {**({"node.kubernetes.io/instance-type": by_type} if by_type else {}), **settings.node_selector}
    return {"nodeSelector": chosen} if chosen else {}


def _toleration(text: str) -> Object:
    """A taint as kubectl writes it, KEY=VALUE:EFFECT or KEY:EFFECT, as what tolerates it."""
    found = re.fullmatch(r"([^=:]+)(?:=([^:]*))?:(NoSchedule|PreferNoSchedule|NoExecute)", text)
    if not found:
        raise RecipeError(
            f"target.kubernetes.tolerations: {text}: not a taint such as aws.amazon.com/neuron=true:NoSchedule"
        )
    name, value, effect = found.groups()
    how = {"operator": "Exists"} if value is None else {"operator": "Equal", "value": value}
    return {"key": name, **how, "effect": effect}


def _environment(load: Load) -> list[Object]:
    found: list[Object] = [{"name": "PYTHONPATH", "value": code_name()}, {"name": "PYTHONUTF8", "value": "1"}]
    if load.nodes > 1:
        found.append({"name": NODE_NAME, "value": f"{load.run}-0.{_nodes(load)}"})
    if asks_hub(load.plan):
        named, key = load.settings.secret, load.settings.secret_key
        reference = {"name": named or load.run, "key": key, **({} if named or load.has_token else {"optional": True})}
        found.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return found


def _resources(load: Load, asked: int) -> Object:
    """Devices are limits and requests, as the device plugin wants them."""
    settings, devices = load.settings, {}
    if asked:
        devices[NEURON] = str(asked)
    if asked and load.nodes > 1 and settings.efa:
        devices[EFA] = str(settings.efa)
        devices |= {HUGEPAGES: settings.hugepages} if settings.hugepages else {}
    asks = {name: value for name, value in (("cpu", settings.cpu), ("memory", settings.memory)) if value}
    if HUGEPAGES in devices and not asks:
        asks = {"memory": _BESIDE_HUGEPAGES}
    return {"requests": {**asks, **devices}, "limits": devices}


def _shared(settings: Kubernetes) -> Object:
    return {"name": "shared", "persistentVolumeClaim": {"claimName": settings.claim}}


def _mount(settings: Kubernetes) -> Object:
    return {"name": "shared", "mountPath": settings.mount}
