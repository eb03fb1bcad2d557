"""Checks that a Kubernetes cluster has what a run needs. Objects are submitted as a dry run.

Only `image_findings`, for `runner doctor`, creates something: small pods, for as long as it looks into the images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from runner.errors import RecipeError
from runner.execute import probe, requirements
from runner.targets.finding import Finding
from runner.targets.kubernetes import manifests
from runner.targets.kubernetes.access import access_pod
from runner.targets.kubernetes.cluster import Cluster, Missing, Object, Refused
from runner.targets.kubernetes.manifests import ACCESS, NEURON, JobSpec
from runner.targets.transport.base import CommandFailed

# Verb, resource, subresource: rights that a dry run of the objects does not check; a server needs more.
_RIGHTS = (("get", "pods", "log"), ("create", "pods", "exec"), ("list", "pods", ""), ("delete", "jobs", ""))
_SERVER_RIGHTS = (("patch", "deployments", "scale"), ("create", "pods", "portforward"))
_START = 300.0  # seconds for a pod to start, with a large image to be pulled
_GROUPS = {"jobs": "batch", "deployments": "apps"}


def findings(cluster: Cluster, job_spec: JobSpec, waits: bool) -> Iterator[Finding]:
    """A finding for each check; with `waits`, a Job may wait for an autoscaler's node. Raises ClusterLost."""
    namespace = cluster.namespace
    try:
        cluster.ask("core.read_namespace", namespace)
        yield Finding("ok", "namespace", namespace)
    except Missing:
        yield Finding(
            "error", "namespace", f"there is no {namespace}", f"create it: kubectl create namespace {namespace}"
        )
        return
    except Refused:  # a user may lack the right to read the namespace
        yield Finding("ok", "namespace", namespace)
    yield from _claim(cluster, job_spec)
    yield from _secret(cluster, job_spec)
    yield from _rights(cluster, job_spec)
    yield from _objects(cluster, job_spec)
    yield from _devices(cluster, job_spec, waits)


def _claim(cluster: Cluster, job_spec: JobSpec) -> Iterator[Finding]:
    name, namespace = job_spec.settings.claim, cluster.namespace
    try:
        claim = cluster.ask("core.read_namespaced_persistent_volume_claim", name, namespace)
    except Missing:
        yield Finding("error", "volume", f"there is no PersistentVolumeClaim {name} in {namespace}",
                      "create it (the guide's is an FSx for Lustre), or set target.kubernetes.claim")  # fmt: skip
        return
    phase, modes = claim["status"].get("phase"), claim["spec"].get("accessModes", [])
    if phase == "Bound" or (phase == "Pending" and _binds_late(cluster, claim)):
        yield Finding("ok", "volume", f"{name}: {phase}")
    else:
        yield Finding("error", "volume", f"{name}: {phase}", f"see kubectl describe pvc {name}")
    if "ReadWriteMany" not in modes:
        level = "error" if job_spec.nodes > 1 else "warning"
        yield Finding(level, "volume", f"{name}: {', '.join(modes)}: only pods of one node can use it",
                      "use a ReadWriteMany volume, such as FSx for Lustre or EFS")  # fmt: skip


def _binds_late(cluster: Cluster, claim: Object) -> bool:
    """Whether a claim is bound only when the first pod uses it."""
    name = claim["spec"].get("storageClassName")
    try:
        return bool(name) and (
            cluster.ask("storage.read_storage_class", name).get("volumeBindingMode") == "WaitForFirstConsumer"
        )
    except (Missing, Refused):
        return False


def _secret(cluster: Cluster, job_spec: JobSpec) -> Iterator[Finding]:
    name, key = job_spec.settings.secret, job_spec.settings.secret_key
    if not (name and manifests.asks_hub(job_spec.plan)):
        return
    try:
        keys = cluster.ask("core.read_namespaced_secret", name, cluster.namespace).get("data", {})
    except Missing:
        yield Finding("error", "secret", f"there is no Secret {name} in {cluster.namespace}",
                      f'create it: kubectl create secret generic {name} --from-literal={key}="$HF_TOKEN"')  # fmt: skip
        return
    except Refused:
        yield Finding("warning", "secret", f"{name}: no permission to read it")
        return
    if key in keys:
        yield Finding("ok", "secret", f"{name}: has {key}")
    else:
        yield Finding("error", "secret", f"{name}: has {', '.join(keys) or 'nothing'}, not {key}",
                      "set target.kubernetes.secret_key")  # fmt: skip


def _rights(cluster: Cluster, job_spec: JobSpec) -> Iterator[Finding]:
    for verb, resource, below in (*_RIGHTS, *(_SERVER_RIGHTS if job_spec.server else ())):
        asked = {"namespace": cluster.namespace, "verb": verb, "resource": resource, "subresource": below,
                 "group": _GROUPS.get(resource, "")}  # fmt: skip
        review = {"spec": {"resourceAttributes": asked}}
        if not cluster.ask("access.create_self_subject_access_review", review)["status"]["allowed"]:
            what = f"{resource}/{below}".rstrip("/")
            yield Finding("error", "rights", f"may not {verb} {what} in {cluster.namespace}", "ask for a Role that may")


def _objects(cluster: Cluster, job_spec: JobSpec) -> Iterator[Finding]:
    """Quota, rights and admission rules: a dry run of the objects, and of the Job's pod."""
    job = manifests.job(job_spec)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": job_spec.run, **job["spec"]["template"]["metadata"]}}
    pod["spec"] = job["spec"]["template"]["spec"]
    for item in (job, pod, *manifests.owned(job_spec, b"")):
        try:
            cluster.create(item, dry_run=True)
        except Refused as refused:
            yield Finding("error", item["kind"].lower(), str(refused).partition(": ")[2])


def image_findings(cluster: Cluster, job_spec: JobSpec) -> Iterator[Finding]:
    """Whether each image has the packages of its steps, seen in a small pod without devices. Raises ClusterLost."""
    for image, needed in _needed(job_spec).items():
        try:
            with access_pod(cluster, job_spec, _START, image) as pod:
                found = json.loads(cluster.call(pod, ACCESS, [job_spec.python, "-c", probe.LIST_PACKAGES], None))
        except (RecipeError, CommandFailed) as error:
            yield Finding("warning", "image", f"{image}: could not be looked into: {error}")
            continue
        installed = {**found["packages"], requirements.PYTHON: found["version"]}
        problems = [problem for _, problem in requirements.unmet(needed, installed)]
        if problems:
            yield Finding("error", "image", f"{image}: {'; '.join(problems)}", "build it again: see recipes/images")
        else:
            yield Finding("ok", "image", f"{image}: has the packages of the stages")


def _needed(job_spec: JobSpec) -> dict[str, list[str]]:
    """The requirements of the steps, by the image that they run in."""
    needed: dict[str, list[str]] = {}
    for step in job_spec.plan["steps"]:
        image = manifests.image_of_step(job_spec, step)
        needed.setdefault(image, []).extend(text for texts in step["packages"].values() for text in texts)
    return needed


def _devices(cluster: Cluster, job_spec: JobSpec, waits: bool) -> Iterator[Finding]:
    """Whether a node has enough Neuron devices. An autoscaler may start one later, so the Job may wait for it."""
    asked = manifests.devices(job_spec, job_spec.plan["steps"])
    if not asked:
        return
    try:
        nodes = cluster.ask("core.list_node")["items"]
    except Refused:
        return
    most = max((int(node["status"].get("allocatable", {}).get(NEURON, 0)) for node in nodes), default=0)
    says = f"{asked} {NEURON} are requested, but a node has at most {most}" if most else f"no node has {NEURON}"
    if most >= asked:
        yield Finding("ok", "neuron", says)
    else:
        then = "; the Job waits until an autoscaler starts one" if waits else ""
        yield Finding("warning" if waits else "error", "neuron", f"{says}{then}",
                      "is Neuron's device plugin installed, and target.kubernetes.instance_type right?")  # fmt: skip
