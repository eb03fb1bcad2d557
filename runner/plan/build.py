"""Recipe → Plan: the command lines that will run, each with its inputs, its output and its fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.compose.schema import Recipe
from runner.plan import allocation, fingerprint, packages
from runner.plan.checks import dataset, feasibility
from runner.plan.command import SCRIPTS, Artifacts, Draft, Place, Word, launcher
from runner.plan.model import Plan, Step
from runner.plan.stages import STAGES


def build(recipe: Recipe, place: Place) -> Plan:
    """The plan of a recipe for a place. Raises RecipeError for a missing file and shapes that do not fit."""
    feasibility.check(recipe)
    dataset.check(recipe)
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
    source = fingerprint.of_program(SCRIPTS / draft.program)
    processes = str(draft.processes) if draft.nodes == 1 else f"{draft.processes} on {draft.nodes}"
    key = f"{stage}-{fingerprint.of_text(stage, source, processes, *identities)[:16]}"
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
