"""Whether installed packages are those that are needed. Standard library alone: the executor asks before it starts.

A requirement is a name with version clauses, as pip takes it: `transformers==4.48.*`, `torch>=2.8,<3`. Versions are
compared by their numbers; a pre-release, and what the builder of a package appends (`+cpu`), count as the release.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

PYTHON = "python"  # as the name in a requirement, the version of Python itself

_REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[[^]]*])?(.*)")
_CLAUSE = re.compile(r"\s*(===|==|!=|~=|>=|<=|>|<)\s*([^\s,]+)\s*")
_COMPARE: dict[str, Callable[[list[int], list[int]], bool]] = {
    ">=": lambda one, other: one >= other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    "<": lambda one, other: one < other,
    "==": lambda one, other: one == other,
    "===": lambda one, other: one == other,
    "!=": lambda one, other: one != other,
}


def unmet(needed: Iterable[str], packages: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each requirement that the `packages` (name → version) do not meet, with what is wrong.

    >>> list(unmet(["torch>=2.8", "peft==0.17.*"], {"torch": "2.9.1+cpu"}))
    [('peft==0.17.*', 'peft is missing')]
    """
    there = {canonical(name): version for name, version in packages.items()}
    for text in dict.fromkeys(needed):
        name, clauses = parsed(text)
        version = there.get(canonical(name))
        if version is None:
            yield text, f"{name} is missing"
        elif not all(_holds(version, *clause) for clause in clauses):
            yield text, f"{name} is {version}, not {','.join(''.join(clause) for clause in clauses)}"


def parsed(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The name in a requirement, and its clauses: operator and version."""
    found = _REQUIREMENT.match(text.strip())
    if not found:
        raise ValueError(f"{text}: not a requirement")
    return found[1], _CLAUSE.findall(found[2].partition(";")[0])


def canonical(name: str) -> str:
    """A package's name as pip compares it: `Jinja2` and `jinja2`, `neuronx_cc` and `neuronx-cc` are the same."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _holds(version: str, operator: str, wanted: str) -> bool:
    want = _numbers(wanted)
    have = _padded(_numbers(version), len(want))  # 2 is 2.0
    if wanted.endswith(".*"):
        return (have[: len(want)] == want) == (operator != "!=")
    if operator == "~=":
        return have >= want and have[: len(want) - 1] == want[:-1]
    return _COMPARE[operator](have, _padded(want, len(have)))


def _padded(numbers: list[int], length: int) -> list[int]:
    return numbers + [0] * (length - len(numbers))


def _numbers(version: str) -> list[int]:
    """The numbers of a release: [2, 9, 1] of 2.9.1+cpu and of 2.9.1rc1."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return [int(number) for number in found[1].split(".")] if found else []
