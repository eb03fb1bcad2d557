"""Recipe → Plan: the command lines that will run, each with its inputs, its output and its fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runner.compose.schema import Recipe
from runner.paths import SCRIPTS
from runner.plan import fingerprint, packages, remote_store
from runner.plan.checks import dataset, feasibility
from runner.plan.checks.memory import GIB
from runner.plan.command import Argument, Artifacts, Place, StageCommand, launcher
from runner.plan.model import Plan, Step
from runner.plan.stages import STAGES

_OF_A_HOST = 0.9  # of an instance's memory; the system has the rest
_LEAST, _MARGIN = 4 * GIB, 1.25  # of the estimate, which leaves out what the file system caches


def build(recipe: Recipe, place: Place) -> Plan:
    """The plan of a recipe for a place, without a scheduler's job: `runner.targets` adds it.

    Raises RecipeError for a missing file and shapes that do not fit.
    """
    feasibility.check(recipe)
    dataset.check(recipe)
    memory = _memory(recipe)
    artifacts, steps = Artifacts(place), []
    for stage, command_of in STAGES.items():
        command = command_of(recipe, artifacts)
        if command:
            one = step(stage, command, place, recipe, memory(stage, command))
            artifacts.keys[stage] = one.key
            steps.append(one)
    return Plan(recipe.name, str(place.store), tuple(steps), artifacts.carried, remote_store.settings(recipe, place))


def step(stage: str, command: StageCommand, place: Place, recipe: Recipe, memory: int | None = None) -> Step:
    """The step of a plan that runs a stage's command; `memory` is what to ask a scheduler for."""
    arguments = [_argument(argument) for argument in command.arguments]
    variables = {**command.env, **_logical_cores(command, recipe)}
    env = {name: value if isinstance(value, Argument) else Argument(value, "") for name, value in variables.items()}
    key = f"{stage}-{_fingerprint(stage, command, [*arguments, *env.values()])[:16]}"
    output = str(place.store / "partial" / key)
    start = launcher(place.python, command.processes, command.nodes)
    program = str(place.code / "scripts" / command.program)
    return Step(
        stage=stage,
        title=" ".join(command.title.split()),  # one line, even if a name has line breaks: it is a comment in a script
        key=key,
        argv=(*start, program, *(argument.render(output) for argument in arguments)),
        env={name: value.text for name, value in env.items()},
        cached=command.cached,
        resumable=command.resumable,
        nodes=command.nodes,
        processes=command.processes,
        cores=_cores(command, recipe),
        packages=_packages(command, place.python),
        ports=tuple(command.ports),
        pushed=command.pushed,
        memory=memory,
    )


def _memory(recipe: Recipe) -> Callable[[str, StageCommand], int | None]:
    """How many bytes of host memory a stage asks a scheduler for; None if the shapes of the model are not known.

    With NeuronCores it is their share of the host: the compiler's memory is not known. Conversion and export hold the
    largest tensor twice, in fp32.
    """
    hardware, shapes = recipe.hardware, feasibility.architecture_of(recipe)
    needs = feasibility.estimate(recipe, shapes).host if shapes else {}
    least = _LEAST + (2 * 4 * shapes.vocab_size * shapes.hidden_size if shapes else 0)

    def of_stage(stage: str, command: StageCommand) -> int | None:
        if command.cores and hardware.cores and hardware.host_memory_gb:
            return int(hardware.host_memory_gb * GIB * command.cores / hardware.cores * _OF_A_HOST)
        return max(least, int(needs.get(stage, 0) * _MARGIN)) if shapes else None

    return of_stage


def _argument(argument: str | Argument) -> Argument:
    return argument if isinstance(argument, Argument) else Argument(argument, argument)


def _fingerprint(stage: str, command: StageCommand, arguments: Sequence[Argument]) -> str:
    source = fingerprint.hash_program(SCRIPTS / command.program)
    processes = str(command.processes) if command.nodes == 1 else f"{command.processes} on {command.nodes}"
    counted = (argument.fingerprint for argument in arguments if argument.fingerprint)
    return fingerprint.hash_text(stage, source, processes, *counted)


def _packages(command: StageCommand, python: str) -> dict[str, Sequence[str]]:
    """Requirements by Python: those of the step's program, and those of programs that it starts."""
    own = packages.needed(command.program, command.uses)
    return {**command.packages, python: tuple(dict.fromkeys((*own, *command.packages.get(python, ()))))}


def _logical_cores(command: StageCommand, recipe: Recipe) -> dict[str, Argument]:
    """The variable of hardware.lnc, for steps on NeuronCores. A server's, which is not cached, may be serve.cores."""
    lnc = recipe.hardware.lnc
    if not lnc or (command.cached and not command.cores):
        return {}
    return {"NEURON_LOGICAL_NC_CONFIG": Argument(str(lnc), str(lnc))}


def _cores(command: StageCommand, recipe: Recipe) -> dict[str, Any] | None:
    total = recipe.hardware.cores
    if not (total and command.cores):
        return None
    return {"count": command.cores, "of": total, "wait": recipe.target.busy == "wait"}
