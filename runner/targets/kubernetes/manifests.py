"""The Kubernetes objects of a run as plain values, for YAML or the API. Nothing here connects to a cluster.

Job NAME              runs the plan; with several nodes, their pods find each other through the Service NAME-nodes
ConfigMap NAME        a tar of our code, the record of the run and small files, and the program that unpacks it
Secret NAME           the hub token, unless target.kubernetes.secret names a Secret
Deployment NAME       a server in the foreground, with a Service; 0 replicas until the Job is complete
Pod NAME-SUFFIX       a small pod with the volume, for copying and reading files

The folder MOUNT/trainium-recipes on the volume contains code/, inputs/, runs/NAME and store/, as on a machine over SSH.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.compose.schema import Kubernetes
from runner.errors import RecipeError
from runner.execute import bootstrap
from runner.execute.rendezvous import NODE_NAME
from runner.targets.bundle import asks_hub, code_name
from runner.targets.kubernetes.pod_patch import patched

NEURON, EFA, HUGEPAGES = "aws.amazon.com/neuron", "vpc.amazonaws.com/efa", "hugepages-2Mi"
_SMALL = {"requests": {"cpu": "100m", "memory": "256Mi"}}  # of what copies files: a quota may ask for some
FOLDER = "trainium-recipes"  # on the volume
RUN, SERVER, ACCESS = "run", "server", "access"  # app.kubernetes.io/component of the pods, and their container
UNPACK = "unpack"  # init container of the Job
_ARCHIVE, _BOOTSTRAP = "bundle.tar.gz", "bootstrap.py"
_BUNDLE = "/bundle"  # where the ConfigMap is mounted
_GRACE = 60  # seconds for the executor to end its step
_LABEL = 63  # longest value of a label, in characters
_NAME = 53  # longest name of a run, in characters; suffixes are appended for pods and Services

Object = dict[str, Any]


@dataclass(frozen=True)
class JobSpec:
    """A plan (as in plan.json) to run under the name `run` with the image's `python`."""

    run: str
    plan: Mapping[str, Any]
    python: str
    settings: Kubernetes
    has_token: bool = False  # in a Secret that is created for the run
    about: Mapping[str, str] = field(default_factory=dict)  # for labels: recipe, run, user and sweep

    @property
    def server(self) -> Mapping[str, Any] | None:
        """The step of a server in the foreground, which runs in the Deployment; None if there is none."""
        steps = (step for step in self.plan["steps"] if step["stage"] == "serve")
        return next((step for step in steps if not any(arg.endswith("smoke_test.py") for arg in step["argv"])), None)

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        """The steps that run in the Job."""
        return [step for step in self.plan["steps"] if step is not self.server]

    @property
    def nodes(self) -> int:
        """The number of nodes, with one pod each."""
        return max((step["nodes"] for step in self.plan["steps"]), default=1)

    @property
    def port(self) -> int:
        """The port of the server in the foreground."""
        assert self.server
        args = self.server["argv"]
        return int(args[args.index("--port") + 1])

    @property
    def folder(self) -> str:
        """The folder of the run's record on the volume, relative to `root`."""
        return f"runs/{self.run}"

    @property
    def root(self) -> str:
        """The folder that plans run in."""
        return f"{self.settings.mount}/{FOLDER}"


def unique_name(recipe: str, *parts: str) -> str:
    """A DNS label for a run: the start of the recipe's name, and a digest of `parts`, which identify the run.

    >>> unique_name("My recipe", "2026-11-24T19:30:00")
    'my-recipe-49b3cc3f59f0'
    """
    digest = hashlib.sha256("\0".join((recipe, *parts)).encode()).hexdigest()[:12]
    slug = re.sub(r"[^a-z0-9]+", "-", recipe.lower()).strip("-")
    prefix = slug if slug[:1].isalpha() else f"run-{slug}".rstrip("-")  # a Service's name must begin with a letter
    return f"{prefix[: _NAME - len(digest) - 1].rstrip('-')}-{digest}"


def labels(run: str | None, component: str | None = None) -> dict[str, str]:
    """The labels of every object of a run, or of any; of pods, with their component."""
    common = {"app.kubernetes.io/name": "trainium-recipes", "app.kubernetes.io/managed-by": "trainium-recipes"}
    of_pod = {"app.kubernetes.io/component": component} if component else {}
    return common | ({"app.kubernetes.io/instance": run} if run else {}) | of_pod


def label_value(text: str) -> str:
    """A text as the value of a label: what Kubernetes does not allow in one becomes `-`.

    >>> label_value("8B & more (me@here)")
    '8B-more-me-here'
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text)[:_LABEL].strip("-_.")


def owner(job: Object) -> Object:
    """The reference with which an object is deleted together with a Job."""
    return {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}


def selector(run: str | None, component: str | None = None) -> str:
    """A label selector for the objects of a run, or of all runs."""
    return ",".join(f"{name}={value}" for name, value in labels(run, component).items())


def job(job_spec: JobSpec) -> Object:
    """The Job. An exit status of 1 or 2 is final; a pod that was killed is retried."""
    final = [1, 2] if job_spec.nodes == 1 else [2]  # with several nodes, the others exit with 1 when one is killed
    indexed = {"completions": job_spec.nodes, "parallelism": job_spec.nodes, "completionMode": "Indexed"}
    ttl = {"ttlSecondsAfterFinished": job_spec.settings.ttl_seconds} if job_spec.server is None else {}
    template = {"metadata": _metadata(job_spec, RUN), "spec": _job_pod(job_spec)}
    spec = {
        **(indexed if job_spec.nodes > 1 else {}),
        "backoffLimit": job_spec.settings.backoff_limit,
        **ttl,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": RUN, "operator": "In", "values": final}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": patched(template, job_spec.settings.pod),
    }
    return _workload("batch/v1", "Job", job_spec, spec)


def config_map(job_spec: JobSpec, archive: bytes) -> Object:
    """The archive that the pod unpacks to the volume, and the program that unpacks it."""
    binary = {_ARCHIVE: base64.b64encode(archive).decode()}
    text = {_BOOTSTRAP: Path(bootstrap.__file__).read_text(encoding="utf-8")}
    return _object("v1", "ConfigMap", job_spec.run, job_spec.run, binaryData=binary, data=text)


def secret(job_spec: JobSpec, token: str) -> Object:
    """The Secret with the hub token of a run."""
    return _object("v1", "Secret", job_spec.run, job_spec.run, stringData={job_spec.settings.secret_key: token})


def owned(job_spec: JobSpec, archive: bytes) -> Iterator[Object]:
    """The objects that the Job owns, except the Secret; they are deleted with the Job."""
    yield config_map(job_spec, archive)
    if job_spec.nodes > 1:
        spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": labels(job_spec.run, RUN)}
        yield _object("v1", "Service", _nodes(job_spec), job_spec.run, spec=spec)
    if job_spec.server:
        ports = [{"name": "http", "port": job_spec.port, "targetPort": job_spec.port}]
        spec = {"selector": labels(job_spec.run, SERVER), "ports": ports}
        yield _object("v1", "Service", job_spec.run, job_spec.run, spec=spec)
        yield _deployment(job_spec)


def access_pod(job_spec: JobSpec, name: str, seconds: int, image: str | None = None) -> Object:
    """A pod with the volume and no devices, which ends by itself after some `seconds`; `image` is one of the stages."""
    settings, run = job_spec.settings, job_spec.run
    container = {
        "name": ACCESS,
        "image": image or settings.access_image,
        "command": [job_spec.python if image else "python3", "-c", f"import time; time.sleep({seconds})"],
        "resources": _SMALL,
        "volumeMounts": [_mount(settings)],
    }
    spec = {
        **_common(settings),
        "restartPolicy": "Never",
        "activeDeadlineSeconds": seconds,
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [_shared(settings)],
    }
    pod = _object("v1", "Pod", name, run, spec=spec)
    pod["metadata"]["labels"] = labels(run, ACCESS)
    return patched(pod, settings.pod)


def devices(job_spec: JobSpec, steps: Sequence[Mapping[str, Any]]) -> int:
    """The most Neuron devices that a step needs. Raises RecipeError if the devices of a node are not known."""
    cores = [step["cores"] for step in steps if step["cores"]]
    if cores and not job_spec.settings.devices:
        raise RecipeError("target.kubernetes.devices: set it to the number of Neuron devices of a node, such as 16")
    return max((-(-needed["count"] * (job_spec.settings.devices or 0) // needed["of"]) for needed in cores), default=0)


def _object(version: str, kind: str, name: str, run: str, **content: Any) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels(run)}, **content}


def _workload(version: str, kind: str, job_spec: JobSpec, spec: Object) -> Object:
    made = _object(version, kind, job_spec.run, job_spec.run, spec=spec)
    made["metadata"]["labels"] = {**_described(job_spec), **made["metadata"]["labels"]}
    return made


def _metadata(job_spec: JobSpec, component: str) -> Object:
    """The metadata of a pod template. A user's labels do not replace those that the run is found by."""
    return {"labels": {**_described(job_spec), **labels(job_spec.run, component)}}


def _described(job_spec: JobSpec) -> dict[str, str]:
    """Labels that say what a run is, and the user's own. A text without a letter or digit of ASCII has none."""
    values = {f"{FOLDER}/{name}": label_value(text) for name, text in job_spec.about.items()}
    return {**{name: value for name, value in values.items() if value}, **job_spec.settings.labels}


def _nodes(job_spec: JobSpec) -> str:
    return f"{job_spec.run}-nodes"


def _job_pod(job_spec: JobSpec) -> Object:
    node = ["--node", "$(JOB_COMPLETION_INDEX)"] if job_spec.nodes > 1 else []
    unpack = {
        "name": UNPACK,
        "image": job_spec.settings.image,
        "command": [job_spec.python, f"{_BUNDLE}/{_BOOTSTRAP}", "receive", job_spec.root, f"{_BUNDLE}/{_ARCHIVE}"],
        "resources": _SMALL,
        "volumeMounts": [_mount(job_spec.settings), {"name": "bundle", "mountPath": _BUNDLE, "readOnly": True}],
    }
    pod = _pod(job_spec, RUN, job_spec.settings.image, job_spec.steps, node)
    pod["volumes"].append({"name": "bundle", "configMap": {"name": job_spec.run}})
    subdomain = {"subdomain": _nodes(job_spec)} if job_spec.nodes > 1 else {}
    return {**subdomain, "restartPolicy": "Never", "initContainers": [unpack], **pod}


def _deployment(job_spec: JobSpec) -> Object:
    assert job_spec.server
    image = image_of_step(job_spec, job_spec.server)
    pod = _pod(job_spec, SERVER, image, [job_spec.server])
    ready = {"httpGet": {"path": "/health", "port": job_spec.port}, "periodSeconds": 5}
    pod["containers"][0] |= {"ports": [{"name": "http", "containerPort": job_spec.port}], "readinessProbe": ready}
    spec = {
        "replicas": 0,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": labels(job_spec.run, SERVER)},
        "template": patched({"metadata": _metadata(job_spec, SERVER), "spec": pod}, job_spec.settings.pod),
    }
    return _workload("apps/v1", "Deployment", job_spec, spec)


def _with_vllm(server: Mapping[str, Any]) -> bool:
    return any(arg.endswith("serve_vllm.py") for arg in server["argv"])


def image_of_step(job_spec: JobSpec, step: Mapping[str, Any]) -> str:
    """The image that a step runs in."""
    with_vllm = step is job_spec.server and _with_vllm(step)
    return image_of(job_spec.settings, with_vllm) or ""


def image_of(settings: Kubernetes, with_vllm: bool) -> str | None:
    """The image of vLLM for what needs it, else that of the stages, in which the embedded server runs, too."""
    return settings.serve_image if with_vllm and settings.serve_image else settings.image


def _pod(
    job_spec: JobSpec, component: str, image: str | None, steps: Sequence[Mapping[str, Any]], args: Sequence[str] = ()
) -> Object:
    """The spec of a pod whose container executes `steps` of the plan on the volume."""
    plan = [f"{job_spec.folder}/plan.json", "--run", job_spec.folder]
    some = ["--steps", ",".join(step["stage"] for step in steps)] if job_spec.server else []
    command = [job_spec.python, "-m", "runner.execute", *plan, *some, "--echo", *args]
    count = devices(job_spec, steps)
    container = {
        "name": component,
        "image": image,
        "command": command,
        "workingDir": job_spec.root,
        "env": _environment(job_spec),
        "resources": _resources(job_spec, steps, count),
        "volumeMounts": [_mount(job_spec.settings), {"name": "shm", "mountPath": "/dev/shm"}],
    }
    size = {"sizeLimit": job_spec.settings.shm} if job_spec.settings.shm else {}
    return {
        **_common(job_spec.settings),
        **_node_selector(job_spec.settings, count),
        "terminationGracePeriodSeconds": _GRACE,
        "containers": [container],
        "volumes": [_shared(job_spec.settings), {"name": "shm", "emptyDir": {"medium": "Memory", **size}}],
    }


def _common(settings: Kubernetes) -> Object:
    """The fields of all pods. They do not use the API, so they get no token."""
    account = {"serviceAccountName": settings.service_account} if settings.service_account else {}
    tolerations = [_toleration(text) for text in settings.tolerations]
    return {**account, "automountServiceAccountToken": False, "enableServiceLinks": False, "tolerations": tolerations}


def _node_selector(settings: Kubernetes, count: int) -> Object:
    instance_type = count and settings.instance_type
    chosen = {
        **({"node.kubernetes.io/instance-type": instance_type} if instance_type else {}),
        **settings.node_selector,
    }
    return {"nodeSelector": chosen} if chosen else {}


def _toleration(text: str) -> Object:
    """The toleration of a taint that is written as in kubectl, KEY=VALUE:EFFECT or KEY:EFFECT."""
    match = re.fullmatch(r"([^=:]+)(?:=([^:]*))?:(NoSchedule|PreferNoSchedule|NoExecute)", text)
    if not match:
        raise RecipeError(
            f"target.kubernetes.tolerations: {text}: not a taint such as aws.amazon.com/neuron=true:NoSchedule"
        )
    name, value, effect = match.groups()
    how = {"operator": "Exists"} if value is None else {"operator": "Equal", "value": value}
    return {"key": name, **how, "effect": effect}


def _environment(job_spec: JobSpec) -> list[Object]:
    variables: list[Object] = [{"name": "PYTHONPATH", "value": code_name()}, {"name": "PYTHONUTF8", "value": "1"}]
    if job_spec.nodes > 1:
        variables.append({"name": NODE_NAME, "value": f"{job_spec.run}-0.{_nodes(job_spec)}"})
    if asks_hub(job_spec.plan):
        named, key = job_spec.settings.secret, job_spec.settings.secret_key
        reference = {
            "name": named or job_spec.run,
            "key": key,
            **({} if named or job_spec.has_token else {"optional": True}),
        }
        variables.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return variables


def _resources(job_spec: JobSpec, steps: Sequence[Mapping[str, Any]], count: int) -> Object:
    """Requests and limits. Devices must be in both, as for every extended resource.

    By default the memory of the step that needs most of it, and a CPU for each process on Neuron cores: a rehearsal
    takes what CPUs are free, but a node of two, of which the system's pods have one, must be able to take its pod.
    """
    settings, devices = job_spec.settings, {}
    if count:
        devices[NEURON] = str(count)
    if count and job_spec.nodes > 1 and settings.efa:
        devices[EFA] = str(settings.efa)
        devices |= {HUGEPAGES: settings.hugepages} if settings.hugepages else {}
    processes = max((step["processes"] for step in steps), default=1) if count else 1
    most = max((step.get("memory") or 0 for step in steps), default=0)
    memory = settings.memory or (f"{-(-most // 2**20)}Mi" if most else None)
    requests = {"cpu": settings.cpu or str(processes), **({"memory": memory} if memory else {})}
    return {"requests": {**requests, **devices}, "limits": devices}


def _shared(settings: Kubernetes) -> Object:
    return {"name": "shared", "persistentVolumeClaim": {"claimName": settings.claim}}


def _mount(settings: Kubernetes) -> Object:
    return {"name": "shared", "mountPath": settings.mount}
