"""Recipe → Plan: the command lines that will run, each with its inputs, its output and its fingerprint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner import allocation, columns, feasibility, identity, packages
from runner.draft import SCRIPTS, Artifacts, Draft, Place, Word, launcher
from runner.schema import Recipe
from runner.stages import STAGES


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


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they run, on the machine whose store is at `store`.

    `carried` are the files that go to that machine first: path there, path here. `job` is what a scheduler is given.
    """

    recipe: str
    store: str
    steps: tuple[Step, ...]
    carried: Mapping[str, str] = field(default_factory=dict)
    job: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        return {"version": 1, **dataclasses.asdict(self)}


def build(recipe: Recipe, place: Place) -> Plan:
    """The plan of a recipe for a place. Raises RecipeError for a missing file and shapes that do not fit."""
    feasibility.check(recipe)
    columns.check(recipe)
    artifacts, steps = Artifacts(place), []
    for stage, draft_of in STAGES.items():
        draft = draft_of(recipe, artifacts)
        if draft:
            one = step(stage, draft, place, recipe)
            artifacts.keys[stage] = one.key
            steps.append(one)
    job = allocation.job(recipe, steps, place)
    return Plan(recipe.name, str(place.store), tuple(steps), artifacts.carried, job)


def step(stage: str, draft: Draft, place: Place, recipe: Recipe) -> Step:
    """The step of a plan that does what a stage wants done."""
    program = place.code / "scripts" / draft.program
    words = [word if isinstance(word, Word) else Word(word, word) for word in draft.options]
    env = {name: value if isinstance(value, Word) else Word(value, "") for name, value in draft.env.items()}
    identities = (word.identity for word in (*words, *env.values()) if word.identity)
    source = identity.of_program(SCRIPTS / draft.program)
    processes = str(draft.processes) if draft.nodes == 1 else f"{draft.processes} on {draft.nodes}"
    key = f"{stage}-{identity.of_text(stage, source, processes, *identities)[:16]}"
    output = str(place.store / "partial" / key)
    start = launcher(place.python, draft.processes, draft.nodes)
    argv = (*start, str(program), *(word.written(output) for word in words))
    texts = {name: word.text for name, word in env.items()}
    title = " ".join(draft.title.split())  # names in it may have line breaks, and a title becomes a comment in a script
    return Step(
        stage, title, key, argv, texts, draft.cached, draft.resumable,
        draft.nodes, draft.processes, _cores(draft, recipe),
        _packages(draft, place.python), tuple(draft.ports),
    )  # fmt: skip


def _packages(draft: Draft, python: str) -> dict[str, Sequence[str]]:
    """What the step's program imports, and what it has other programs import."""
    own = packages.needed(draft.program, draft.uses)
    return {**draft.packages, python: tuple(dict.fromkeys((*own, *draft.packages.get(python, ()))))}


def _cores(draft: Draft, recipe: Recipe) -> dict[str, Any] | None:
    total = recipe.hardware.cores
    if not (total and draft.cores):
        return None
    return {"count": draft.cores, "of": total, "wait": recipe.target.busy == "wait"}
