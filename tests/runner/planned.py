"""The command of one stage, as a plan of the quickstart would have it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.compose.recipe import compose
from runner.compose.schema import Recipe
from runner.paths import ROOT
from runner.plan.build import build
from runner.plan.command import Artifacts, Place, StageCommand
from runner.plan.model import Step

PLACE = Place(ROOT, Path("/store"), "python")
# The quickstart's model and data, trained by neuronx-distributed.
NXD = ("hardware=trn2", "model=llama3_8b", "tp_size=8", "train=nxd_lora", "serve=none")


def recipe_of(*overrides: str) -> Recipe:
    """The quickstart with overrides."""
    return compose("quickstart", overrides).recipe


def artifacts(*stages: str) -> Artifacts:
    """What these earlier stages made: each has the key STAGE-1."""
    made = Artifacts(PLACE)
    made.keys = {stage: f"{stage}-1" for stage in stages}
    return made


def command(of: Callable[[Recipe, Artifacts], StageCommand | None], *overrides: str, after: str = "") -> StageCommand:
    """The command that a stage's function makes `after` the stages that are named."""
    made = of(recipe_of(*overrides), artifacts(*after.split()))
    assert made
    return made


def arguments(of: StageCommand) -> list[str]:
    """Its command line, with `OUT` for the output folder."""
    return [getattr(argument, "render", lambda _, text=argument: text)("OUT") for argument in of.arguments]


def steps(*overrides: str) -> dict[str, Step]:
    """The steps of the whole plan by stage."""
    return {step.stage: step for step in build(recipe_of(*overrides), PLACE).steps}


def value_of(args: list[str] | tuple[str, ...], flag: str) -> str:
    """The argument after a flag."""
    return args[args.index(flag) + 1]
