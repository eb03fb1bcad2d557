"""`runner generate`: the base model and the adapters of runs answer a file of prompts, without a server.

It is a run of one step on the machine of the runs that it uses: their artifacts are in the store there.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from runner import targets
from runner.commands.lifecycle import begin, watch
from runner.commands.serve import ask
from runner.commands.tables import terminal
from runner.compose.composed import Composed
from runner.compose.schema import Recipe, Tracker
from runner.errors import RecipeError
from runner.plan import build as plan
from runner.plan.command import OUTPUT, Argument, Artifacts, StageCommand, flags
from runner.plan.model import HERE, Plan
from runner.plan.stages import server_options
from runner.record.runs import Run, find


@dataclass(frozen=True)
class Questions:
    """The prompts, and how to sample. The answers stay in the record; with `output`, they are also copied there."""

    prompts: Path
    output: Path | None = None
    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None


def generate(runs: Sequence[Run], questions: Questions, folder: Path, console: Console) -> int:
    """Generate and show the answers. Returns the exit status. Raises RecipeError before any work.

    `folder` is the folder of run records.
    """
    composed, planned = plan_of(runs, questions, folder)
    target = targets.of(composed.recipe.target)
    record = begin(composed, planned, target)
    status = watch(record, target, console)
    answers = record.folder / "artifacts" / "generate" / "answers.jsonl"
    if status == 0 and not answers.is_file():  # detached
        console.print(
            Text(f"When it has finished, `runner fetch {record.name}` copies the answers to {answers}"), soft_wrap=True
        )
    elif status == 0:
        ask.show(_copied(record, answers, questions.output), console)
    return status


def _copied(record: Run, answers: Path, output: Path | None) -> Path:
    if output is None:
        return answers
    output.mkdir(parents=True, exist_ok=True)
    for file in (answers, record.folder / "results" / "generate" / "summary.json"):
        shutil.copyfile(file, output / file.name)
    return output / answers.name


def plan_of(runs: Sequence[Run], questions: Questions, folder: Path) -> tuple[Composed, Plan]:
    """The plan that has runs answer. Raises RecipeError for runs that one engine cannot load together."""
    if not questions.prompts.is_file():
        raise RecipeError(f"--prompts {questions.prompts}: no such file")
    first, recipe = runs[0], afterwards(runs[0], runs[0].typed_recipe(), "generate", folder)
    check_together(runs, recipe)
    target = targets.of(recipe.target)
    target.check(recipe)
    made = {name: artifacts_of(run, recipe) for name, run in _named(runs, recipe).items()}
    artifacts = next(iter(made.values()))
    title, args = f"answer {questions.prompts.name}", _args(recipe, made, questions)
    command = StageCommand(title, "generate.py", args, cached=False, cores=server_options.cores(recipe))
    place = dataclasses.replace(artifacts.place, python=_python(recipe, artifacts))
    step = plan.step("generate", command, place, recipe)
    composed = Composed(recipe, Path(first.manifest["recipe"]), tuple(made), first.manifest["choices"])
    answering = Plan(recipe.name, str(artifacts.place.store), (step,), artifacts.carried)
    return composed, target.assign(answering)


def _named(runs: Sequence[Run], recipe: Recipe) -> Mapping[str, Run]:
    """The run of each model name: for one run its recipe's adapter name, for several the names of the runs."""
    return {recipe.serve.adapter_name: runs[0]} if len(runs) == 1 else {run.name: run for run in runs}


def _args(recipe: Recipe, made: Mapping[str, Artifacts], questions: Questions) -> list[str | Argument]:
    artifacts, vllm = next(iter(made.values())), recipe.serve.engine == "vllm"
    image = None if artifacts.place.container or not vllm else recipe.serve.image
    return [
        *server_options.models(recipe, artifacts, [server_options.named(name, its) for name, its in made.items()]),
        *([] if server_options.asks_base(recipe) or server_options.merged(recipe) else ["--no-base"]),
        *flags(engine="vllm" if vllm else "embedded", dtype=server_options.dtype(recipe), image=image),
        *flags(max_tokens=questions.max_tokens or recipe.evaluate.max_new_tokens),
        *flags(temperature=questions.temperature, top_k=questions.top_k),
        *(server_options.vllm(recipe, artifacts.place) if vllm else []),
        "--template", artifacts.path("tokenize", "template.json"),
        "--prompts", artifacts.external(str(questions.prompts), "--prompts"), "--output", OUTPUT,
    ]  # fmt: skip


def _python(recipe: Recipe, artifacts: Artifacts) -> str:
    """The Python that has the engine, or that starts the container with it."""
    in_python = recipe.serve.engine == "vllm" and not recipe.serve.image
    return server_options.python(recipe, artifacts.place) if in_python else artifacts.place.python


def afterwards(run: Run, recipe: Recipe, command: str, folder: Path) -> Recipe:
    """Turn the recipe of a finished `run` into that of a new run in `folder` that uses its artifacts."""
    recipe.dataset.template, recipe.dataset.format = ask.template_of(run), None
    recipe.name, recipe.paths.runs = f"{command}-{recipe.name}", str(folder)
    recipe.tracker = Tracker()  # nothing is trained
    recipe.target = targets.of(recipe.target).settings_of_step(command, recipe.serve.engine == "vllm")
    return recipe


def check_together(runs: Sequence[Run], recipe: Recipe) -> None:
    """Raises RecipeError for runs whose adapters one engine cannot load together."""
    first = runs[0]
    if len(runs) > 1 and server_options.merged(recipe):
        raise RecipeError(f"{first.name}: its vLLM serves only merged models (sdk.vllm_lora), so one run at a time")
    for run in runs:
        if _key(run, "fetch") != _key(first, "fetch"):
            raise RecipeError(f"{run.name}: has a different base model than {first.name}; a server has only one")
        if run.recipe["target"] != first.recipe["target"]:
            raise RecipeError(f"{run.name}: is on a different machine than {first.name}; a server runs on only one")


def _key(run: Run, stage: str) -> str | None:
    return next((step["key"] for step in run.plan["steps"] if step["stage"] == stage), None)


def artifacts_of(run: Run, recipe: Recipe) -> Artifacts:
    """The artifacts of a run in their store. Raises RecipeError if those of a local run are gone."""
    target = targets.of(recipe.target)
    if target.local_store:
        artifact(run, "fetch")
        artifact(run, "export", "merged" if server_options.merged(recipe) else "adapter")
    artifacts = Artifacts(dataclasses.replace(target.place(recipe), store=Path(run.plan["store"])))
    artifacts.keys = {step["stage"]: step["key"] for step in run.plan["steps"]}
    return artifacts


def artifact(run: Run, stage: str, below: str = "") -> Path:
    """The local folder of a stage's artifact, or `below` it. Raises RecipeError if it does not exist."""
    path = (run.folder / "artifacts" / stage).resolve() / below
    if path.exists():
        return path
    if run.where != HERE:
        there = f"{run.plan['store']}/{_key(run, stage)}/{below}".rstrip("/")
        advice = f"copy {there} from there; `runner fetch {run.name}` copies only the adapter"
        raise RecipeError(f"{run.name}: the result of {stage} is on {run.where}, not on this machine; {advice}")
    raise RecipeError(f"{run.name}: {stage}/{below} does not exist (any more); run its recipe again")


def generate_command(args: argparse.Namespace) -> int:
    """Answer a file of prompts."""
    runs = [find(name, args.folder, having="export") for name in args.runs]
    questions = Questions(args.prompts, args.output, args.max_tokens, args.temperature, args.top_k)
    return generate(runs, questions, args.folder, terminal())
