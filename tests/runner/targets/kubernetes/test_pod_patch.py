import re
from typing import Any

import pytest

from runner.targets.kubernetes.pod_patch import patched, problems

pytest.importorskip("kubernetes", reason="no Kubernetes client; make setup installs it for developers")
OURS = ("run", "server")


def test_lists_of_named_elements_are_merged_and_other_lists_replaced() -> None:
    run = {"name": "run", "env": [{"name": "A", "value": "1"}], "command": ["python"]}
    pod = {"metadata": {"labels": {"ours": "yes"}}, "spec": {"containers": [run], "tolerations": [{"key": "neuron"}]}}
    patch = {
        "metadata": {"annotations": {"team": "a"}},
        "spec": {
            "priorityClassName": "batch",
            "tolerations": [{"key": "spot"}],
            "containers": [{"name": "run", "env": [{"name": "B", "value": "2"}]}, {"name": "server", "tty": True}],
        },
    }
    assert patched(pod, patch) == {
        "metadata": {"labels": {"ours": "yes"}, "annotations": {"team": "a"}},
        "spec": {
            "priorityClassName": "batch",
            "tolerations": [{"key": "spot"}],
            "containers": [{**run, "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}],
        },
    }
    assert pod["spec"]["containers"] == [run], "the pod itself is left as it is"


def test_the_labels_by_which_a_run_is_found_stay() -> None:
    pod = {"metadata": {"labels": {"ours": "yes"}}, "spec": {}}
    merged = patched(pod, {"metadata": {"labels": {"ours": "no", "team": "a"}}})
    assert merged["metadata"]["labels"] == {"ours": "yes", "team": "a"}


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"spec": {"priorityClasName": "x"}}, "pod.spec.priorityClasName: no such field; did you mean priorityClassN"),
        ({"metadata": {"labels": {"a": 1}}}, "pod.metadata.labels.a: must be a string; put it in quotes"),
        ({"spec": []}, "pod.spec: must be a mapping"),
        ({"spec": {"containers": {"name": "run"}}}, "pod.spec.containers: must be a list"),
        ({"spec": {"containers": [3]}}, r"pod.spec.containers\[0\]: must be a mapping"),
        ({"spec": {"hostNetwork": "yes"}}, "pod.spec.hostNetwork: must be true or false"),
        ({"spec": {"volumes": [{"emptyDir": {}}]}}, "pod.spec.volumes: each needs its name"),
        ({"spec": {"containers": [{"name": "sidecar"}]}}, "sidecar is no container of a run, which are run, server;"),
    ],
)
def test_a_mistake_is_named(patch: dict[str, Any], expected: str) -> None:
    first = next(problems(patch, OURS))
    assert re.search(expected, first), first


def test_a_patch_without_mistakes_is_accepted() -> None:
    csi = {"name": "data", "csi": {"driver": "s3.csi.aws.com", "volumeAttributes": {"bucketName": "b"}}}
    limits = {"name": "run", "resources": {"limits": {"memory": "64Gi"}}, "securityContext": {"runAsUser": 1000}}
    assert not list(problems({"spec": {"volumes": [csi], "containers": [limits]}}, OURS))
