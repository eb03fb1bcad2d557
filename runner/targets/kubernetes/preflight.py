"""What a Kubernetes cluster has beside what a run needs of it. Nothing is made: objects are only tried (dry run)."""

from __future__ import annotations

from collections.abc import Iterator

from runner.targets.finding import Finding
from runner.targets.kubernetes import manifests
from runner.targets.kubernetes.cluster import Cluster, Missing, Object, Refused
from runner.targets.kubernetes.manifests import NEURON, Load

# Verb, resource, subresource: what a dry run of the objects does not ask; of a server more.
_RIGHTS = (("get", "pods", "log"), ("create", "pods", "exec"), ("list", "pods", ""), ("delete", "jobs", ""))
_OF_SERVERS = (("patch", "deployments", "scale"), ("create", "pods", "portforward"))
_GROUPS = {"jobs": "batch", "deployments": "apps"}


def findings(cluster: Cluster, load: Load, waits: bool) -> Iterator[Finding]:
    """One for each thing that is, or is not, as it must be; one `waits` for nodes to come. Raises ClusterLost."""
    space = cluster.namespace
    try:
        cluster.ask("core.read_namespace", space)
        yield Finding("ok", "namespace", space)
    except Missing:
        yield Finding("error", "namespace", f"there is no {space}", f"make it: kubectl create namespace {space}")
        return
    except Refused:  # one may use a namespace without the right to look at it
        yield Finding("ok", "namespace", space)
    yield from _claim(cluster, load)
    yield from _secret(cluster, load)
    yield from _rights(cluster, load)
    yield from _objects(cluster, load)
    yield from _devices(cluster, load, waits)


def _claim(cluster: Cluster, load: Load) -> Iterator[Finding]:
    name, space = load.settings.claim, cluster.namespace
    try:
        claim = cluster.ask("core.read_namespaced_persistent_volume_claim", name, space)
    except Missing:
        yield Finding("error", "volume", f"there is no PersistentVolumeClaim {name} in {space}",
                      "make it (the guide's is an FSx for Lustre), or set target.kubernetes.claim")  # fmt: skip
        return
    phase, modes = claim["status"].get("phase"), claim["spec"].get("accessModes", [])
    if phase == "Bound" or (phase == "Pending" and _binds_late(cluster, claim)):
        yield Finding("ok", "volume", f"{name}: {phase}")
    else:
        yield Finding("error", "volume", f"{name}: {phase}", f"see kubectl describe pvc {name}")
    if "ReadWriteMany" not in modes:
        level = "error" if load.nodes > 1 else "warning"
        yield Finding(level, "volume", f"{name}: {', '.join(modes)}: pods of one node alone can use it",
                      "take a ReadWriteMany volume, such as FSx for Lustre or EFS")  # fmt: skip


def _binds_late(cluster: Cluster, claim: Object) -> bool:
    """Whether a claim is bound when the first pod wants it."""
    name = claim["spec"].get("storageClassName")
    try:
        return bool(name) and (
            cluster.ask("storage.read_storage_class", name).get("volumeBindingMode") == "WaitForFirstConsumer"
        )
    except (Missing, Refused):
        return False


def _secret(cluster: Cluster, load: Load) -> Iterator[Finding]:
    name, key = load.settings.secret, load.settings.secret_key
    if not (name and manifests.asks_hub(load.plan)):
        return
    try:
        keys = cluster.ask("core.read_namespaced_secret", name, cluster.namespace).get("data", {})
    except Missing:
        yield Finding("error", "secret", f"there is no Secret {name} in {cluster.namespace}",
                      f'make it: kubectl create secret generic {name} --from-literal={key}="$HF_TOKEN"')  # fmt: skip
        return
    except Refused:
        yield Finding("warning", "secret", f"{name}: may not be looked at")
        return
    if key in keys:
        yield Finding("ok", "secret", f"{name}: has {key}")
    else:
        yield Finding("error", "secret", f"{name}: has {', '.join(keys) or 'nothing'}, not {key}",
                      "set target.kubernetes.secret_key")  # fmt: skip


def _rights(cluster: Cluster, load: Load) -> Iterator[Finding]:
    for verb, resource, below in (*_RIGHTS, *(_OF_SERVERS if load.server else ())):
        asked = {"namespace": cluster.namespace, "verb": verb, "resource": resource, "subresource": below,
                 "group": _GROUPS.get(resource, "")}  # fmt: skip
        review = {"spec": {"resourceAttributes": asked}}
        if not cluster.ask("access.create_self_subject_access_review", review)["status"]["allowed"]:
            what = f"{resource}/{below}".rstrip("/")
            yield Finding("error", "rights", f"may not {verb} {what} in {cluster.namespace}", "ask for a Role that may")


def _objects(cluster: Cluster, load: Load) -> Iterator[Finding]:
    """Quota, rights and admission rules, as the API server applies them: to the objects, and to the pod of the Job."""
    job = manifests.job(load)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": load.run, **job["spec"]["template"]["metadata"]}}
    pod["spec"] = job["spec"]["template"]["spec"]
    for made in (job, pod, *manifests.owned(load, b"")):
        try:
            cluster.create(made, dry_run=True)
        except Refused as refused:
            yield Finding("error", made["kind"].lower(), str(refused).partition(": ")[2])


def _devices(cluster: Cluster, load: Load, waits: bool) -> Iterator[Finding]:
    """Whether a node has as many Neuron devices. An autoscaler may yet start one, so the Job may wait for it."""
    asked = manifests.devices(load, load.plan["steps"])
    if not asked:
        return
    try:
        nodes = cluster.ask("core.list_node")["items"]
    except Refused:
        return
    most = max((int(node["status"].get("allocatable", {}).get(NEURON, 0)) for node in nodes), default=0)
    says = f"{asked} {NEURON} are asked for, a node has {most}" if most else f"no node has {NEURON}"
    if most >= asked:
        yield Finding("ok", "neuron", says)
    else:
        then = "; the Job waits until an autoscaler starts one" if waits else ""
        yield Finding("warning" if waits else "error", "neuron", f"{says}{then}",
                      "is Neuron's device plugin installed, and target.kubernetes.instance_type right?")  # fmt: skip
