"""The user's patch of pods, `target.kubernetes.pod`: merged into a pod as `kubectl patch` merges it.

Mappings are merged and lists replaced, except lists whose elements have a name of their own, which are merged element
by element (fields with a "patch merge key" in https://kubernetes.io/docs/reference/kubernetes-api/).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.errors import did_you_mean
from runner.targets.kubernetes.cluster import check_client

_MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
}  # fmt: skip
_CONTAINERS = {"containers", "initContainers"}
_TYPES = {"str": (str, "a string; put it in quotes"), "int": (int, "an integer"), "bool": (bool, "true or false")}


def patched(pod: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A pod, or the template of one, with a patch merged in. What it says of containers of other pods is left out.

    The name and the labels of the pod stay as they are: the run is found by them.
    """
    spec = dict(patch.get("spec", {}))
    for kind in _CONTAINERS & spec.keys():
        present = [container["name"] for container in pod["spec"].get(kind, [])]
        spec[kind] = [container for container in spec[kind] if container["name"] in present]
    return _merged(_merged(pod, {**patch, "spec": spec}), {"metadata": pod["metadata"]})


def _merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in patch.items():
        if isinstance(value, Mapping):
            result[name] = _merged(result.get(name, {}), value)
        elif name in _MERGE_KEYS:
            result[name] = _merged_lists(result.get(name, []), value, _MERGE_KEYS[name])
        else:
            result[name] = value
    return result


def _merged_lists(base: Sequence[Any], patch: Sequence[Any], key: str) -> list[Any]:
    elements = {element[key]: element for element in base}
    for element in patch:
        elements[element[key]] = _merged(elements.get(element[key], {}), element)
    return list(elements.values())


def problems(patch: Mapping[str, Any], containers: Sequence[str]) -> Iterator[str]:
    """Fields that pods do not have and values of another type, by dotted name, and containers other than ours.

    The classes of the package kubernetes list the fields of the API. Raises RecipeError where it is missing.
    """
    if not patch:
        return
    check_client()
    mistakes = list(_mistakes(patch, "V1PodTemplateSpec", "pod"))
    yield from mistakes
    for kind in () if mistakes else sorted(_CONTAINERS):
        for container in patch.get("spec", {}).get(kind, []):
            if container["name"] not in containers:
                yield (
                    f"pod.spec.{kind}: {container['name']} is no container of a run, which are "
                    f"{', '.join(containers)}; a Job ends only when all of its containers have ended"
                )


def _mistakes(value: Any, kind: str, where: str) -> Iterator[str]:
    """Mistakes in a value of a type as the client writes it, such as `list[V1Volume]`, `dict[str, str]` or `int`."""
    outer, _, inner = kind.replace("(", "[").rstrip("])").partition("[")
    if kind in _TYPES:
        expected, name = _TYPES[kind]
        if type(value) is not expected:
            yield f"{where}: must be {name}"
    elif outer == "list" and isinstance(value, list):
        for index, element in enumerate(value):
            yield from _mistakes(element, inner, f"{where}[{index}]")
    elif outer == "list":
        yield f"{where}: must be a list"
    elif kind not in ("object", "datetime", "float") and not isinstance(value, Mapping):
        yield f"{where}: must be a mapping"
    elif outer == "dict":
        for name, element in value.items():
            yield from _mistakes(element, inner.partition(", ")[2], f"{where}.{name}")
    elif kind.startswith("V1"):
        yield from _mistakes_of_fields(value, kind, where)


def _mistakes_of_fields(value: Mapping[str, Any], kind: str, where: str) -> Iterator[str]:
    from kubernetes.client import models  # 0.5 s

    model = getattr(models, kind)
    fields = {in_json: model.openapi_types[name] for name, in_json in model.attribute_map.items()}
    for name, element in value.items():
        if name not in fields:
            yield f"{where}.{name}: no such field; {did_you_mean(str(name), fields)}"
            continue
        yield from _mistakes(element, fields[name], f"{where}.{name}")
        key = _MERGE_KEYS.get(name)
        if key and isinstance(element, list) and not all(isinstance(item, Mapping) and key in item for item in element):
            yield f"{where}.{name}: each needs its {key}"
