"""What a scheduler is asked for: the steps of a plan in parts that want the same machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from runner.compose.schema import Recipe
from runner.errors import RecipeError, did_you_mean
from runner.plan.command import Place
from runner.plan.model import Step


def job(recipe: Recipe, steps: Sequence[Step], place: Place) -> dict[str, Any] | None:
    """The job of a plan, for the scheduler of its target; None where the machine itself starts it."""
    asked = {"slurm": _slurm, "ray": _ray}.get(recipe.target.kind)
    if asked is None:
        return None
    common = {"scheduler": recipe.target.kind, "python": recipe.target.python, "code": str(place.code)}
    return {**common, **asked(recipe, steps)}


def _slurm(recipe: Recipe, steps: Sequence[Step]) -> dict[str, Any]:
    """Neighbouring steps that are asked for alike are one part, and so one batch job."""
    settings = recipe.target.slurm
    stages = [step.stage for step in steps]
    for name in settings.stages:
        if name not in stages:
            raise RecipeError(f"target.slurm.stages: {name}: no step of this plan; {did_you_mean(name, stages)}")

    def own(step: Step) -> dict[str, str]:
        nodes = {"nodes": str(step.nodes)} if step.nodes > 1 else {}
        return {**nodes, **settings.stages.get(step.stage, {})}

    groups = ((options, list(group)) for options, group in groupby(steps, own))
    parts = [
        {"steps": [step.stage for step in group], "options": {**_base(recipe, group), **options}}
        for options, group in groups
    ]
    return {"parts": parts, "at_once": settings.at_once}


def _base(recipe: Recipe, steps: Sequence[Step]) -> Mapping[str, str]:
    """The options of sbatch for steps that share an allocation."""
    settings = recipe.target.slurm
    named = {name: getattr(settings, name) for name in ("partition", "account", "time")}
    return {
        **{name: value for name, value in named.items() if value},
        **dict(_cores(settings.gres, _most_cores(steps))),
        **settings.options,
    }


def _cores(gres: str | None, cores: int) -> Iterator[tuple[str, str]]:
    """NeuronCores by the name that the cluster has for them; whole nodes where it has none."""
    if cores:
        yield ("gres", f"{gres}:{cores}") if gres else ("exclusive", "true")


def _ray(recipe: Recipe, steps: Sequence[Step]) -> dict[str, Any]:
    settings, cores = recipe.target.ray, _most_cores(steps)
    resources = {**({"neuron_cores": cores} if cores else {}), **_numbers(settings.resources)}
    return {"address": settings.address, "cpus": settings.cpus, "resources": resources}


def _numbers(resources: Mapping[str, str]) -> dict[str, float]:
    try:
        return {name: float(amount) for name, amount in resources.items()}
    except ValueError as error:
        raise RecipeError(f"target.ray.resources: {error}; it says how many of each, such as disk: 1") from None


def _most_cores(steps: Sequence[Step]) -> int:
    """NeuronCores of the step that wants most of them."""
    return max((step.cores["count"] for step in steps if step.cores), default=0)
