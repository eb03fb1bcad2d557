"""What a plan is: steps, each a command line with its artifact, in the order in which they run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HERE = "here"  # the name of this machine in `Plan.where`


@dataclass(frozen=True)
class Step:
    """One command line of a plan. `key` names the artifact in the store: stage and fingerprint.

    With `nodes` > 1 it is to be started on that many machines at once, each told its PET_NODE_RANK and PET_MASTER_ADDR.
    """

    stage: str
    title: str
    key: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cached: bool
    resumable: bool
    nodes: int = 1
    processes: int = 1  # on each of the nodes
    cores: Mapping[str, Any] | None = None  # how many, of how many, and whether to wait for them
    packages: Mapping[str, Sequence[str]] = field(default_factory=dict)  # requirements, by the Python that imports them
    ports: Sequence[int] = ()  # fixed ones that it listens on
    pushed: bool = True  # to the remote store
    memory: int | None = None  # bytes of host memory to ask a scheduler for, on each of the nodes


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they run, on the machine whose store is at `store`.

    `where` is what people call that machine or its cluster. `carried` are the files to copy to it first, remote path →
    local path. `remote_store` is the program that copies to and from it, with the packages that it needs. `job` is what
    a scheduler is asked for. `on_end` is a command of the user for the end of the run.
    """

    recipe: str
    store: str
    steps: tuple[Step, ...]
    carried: Mapping[str, str] = field(default_factory=dict)
    remote_store: Mapping[str, Any] | None = None
    job: Mapping[str, Any] | None = None
    where: str = HERE
    on_end: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {"version": 1, **dataclasses.asdict(self)}
