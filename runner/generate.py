"""`runner generate`: a file of questions for the base model and the adapters of runs, without a server."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from runner import ask, serving
from runner.draft import SCRIPTS, Place, options
from runner.errors import RecipeError
from runner.execute import end_with_parent
from runner.run import place_of, terminate_as_interrupt
from runner.runs import Run
from runner.schema import Recipe
from runner.validate import build


@dataclass(frozen=True)
class Questions:
    """What to ask. `output` None is a folder in the first run's, named for the file."""

    prompts: Path
    output: Path | None = None
    max_tokens: int | None = None
    temperature: float = 0.0


def generate(runs: Sequence[Run], questions: Questions, console: Console) -> int:
    """Answer in the Python that serves, until done or Ctrl-C. Returns the exit status. Raises RecipeError."""
    if not questions.prompts.is_file():
        raise RecipeError(f"--prompts {questions.prompts}: no such file")
    output = questions.output or runs[0].folder / "generated" / questions.prompts.stem
    argv = command(runs, questions, output)
    with terminate_as_interrupt():
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=end_with_parent)
        try:
            status = process.wait()
        finally:
            process.terminate()
            process.wait()
    if status == 0:
        ask.show(output / "answers.jsonl", console)
    return status


def command(runs: Sequence[Run], questions: Questions, output: Path) -> list[str]:
    """The command line of generate.py. Raises RecipeError for runs that cannot be asked together."""
    recipe = build(Recipe, runs[0].recipe)
    place = place_of(recipe)
    engine = "vllm" if recipe.serve.engine == "vllm" else "embedded"
    python = serving.python(recipe, place) if engine == "vllm" else place.python
    words = [
        *_models(runs, recipe),
        *options(engine=engine, dtype=serving.dtype(recipe), temperature=questions.temperature),
        *options(max_tokens=questions.max_tokens or recipe.evaluate.max_new_tokens),
        *(_texts(recipe, place) if engine == "vllm" else []),
        "--template", str(artifact(runs[0], "tokenize", "template.json")),
        "--prompts", str(questions.prompts), "--output", str(output),
    ]  # fmt: skip
    return [python, str(SCRIPTS / "generate.py"), *words]


def artifact(run: Run, stage: str, below: str = "") -> Path:
    """What a stage of the run made. Raises RecipeError when it is not in the store any more."""
    path = (run.folder / "artifacts" / stage).resolve() / below
    if not path.exists():
        raise RecipeError(f"{run.name}: {stage}/{below} is not there (any more); run its recipe again")
    return path


def adapters(runs: Sequence[Run]) -> dict[str, Path]:
    """Served name → PEFT folder: of one run the name that its recipe gives, of several the runs' own names.

    Raises RecipeError when the runs have not the same base model.
    """
    base = artifact(runs[0], "fetch")
    for run in runs[1:]:
        if artifact(run, "fetch") != base:
            raise RecipeError(f"{run.name}: has another base model than {runs[0].name}; one server has one")
    if len(runs) == 1:
        return {runs[0].recipe["serve"]["adapter_name"]: artifact(runs[0], "export", "adapter")}
    return {run.name: artifact(run, "export", "adapter") for run in runs}


def _models(runs: Sequence[Run], recipe: Recipe) -> list[str]:
    if serving.merged(recipe):
        if len(runs) > 1:
            raise RecipeError(f"{runs[0].name}: its vLLM serves merged models (sdk.vllm_lora), one run at a time")
        model = str(artifact(runs[0], "export", "merged"))
        return ["--model", model, *options(served_model_name=recipe.serve.adapter_name)]
    named = [word for name, folder in adapters(runs).items() for word in ("--adapter", f"{name}={folder}")]
    base = [] if serving.asks_base(recipe) else ["--no-base"]
    model = str(artifact(runs[0], "fetch"))
    return ["--model", model, *options(served_model_name=recipe.serve.base_name), *named, *base]


def _texts(recipe: Recipe, place: Place) -> list[str]:
    if recipe.serve.image:
        raise RecipeError("serve.image: generate.py runs in a Python, not in a container; start it inside by hand")
    return [str(getattr(word, "text", word)) for word in serving.vllm(recipe, place)]
