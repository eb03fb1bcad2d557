"""Write docs/support.md: what fits together, as the checks of a plan say.

make golden

Nothing is known here: every cell is what `runner plan` accepts. The test compares the page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import yaml

from runner.compose.recipe import compose
from runner.compose.schema import Architecture, Recipe, Sdk
from runner.errors import RecipeError
from runner.paths import CONFIGS, ROOT
from runner.plan.checks import model_config, releases
from runner.plan.checks.row_formats import REQUIRED
from runner.plan.stages import server_options
from runner.plan.trainers import TRAINERS

_RELEASES = dict(releases.profiles())
PAGE = ROOT / "docs" / "support.md"
_HEAD = """# What fits together

This page is written by `make golden` from the checks of `runner plan`. A release is that of the Neuron SDK (`sdk=`).
`runner plan` also says whether a model fits into the memory of a core.

"""


def page() -> str:
    """The content of docs/support.md."""
    return _HEAD + "\n".join([_instances(), _models(), _data()])


def _instances() -> str:
    machines = {name: compose("quickstart", [f"hardware={name}"]).recipe for name in _options("hardware")}
    trainers = [f"`train={trainer.option}`" for trainer in TRAINERS.values()]
    rows = [
        [f"`{name}`", recipe.hardware.name, _number(recipe.hardware.cores), _number(recipe.hardware.core_memory_gb)]
        + [_releases(_training(recipe, backend)) for backend in TRAINERS]
        + ["yes" if any(_serving(recipe, "embedded")) else "no", _vllm(recipe)]
        for name, recipe in machines.items()
    ]
    head = [
        "`hardware=`",
        "instance",
        "cores",
        "GiB a core",
        *trainers,
        "`serve=embedded`",
        "`serve=vllm` (`sdk.vllm`)",
    ]
    return "## Instances, trainers and servers\n\nThe releases that train and serve on each instance.\n\n" + _table(
        head, rows
    )


def _models() -> str:
    options: dict[str, list[str]] = {name: [] for name in model_config.supported()["families"]}
    for name in _options("model"):
        values = yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
        options[values.get("architecture", {}).get("model_type", Architecture().model_type)].append(f"`{name}`")
    rows = [
        [f"`{family}`", *(_trains(family, backend) for backend in TRAINERS), ", ".join(names) or "a folder or hub id"]
        for family, names in options.items()
    ]
    head = ["`model_type`", *(f"`train={trainer.option}`" for trainer in TRAINERS.values()), "`model=`"]
    text = "The family is `model_type` in `config.json`. Every family is converted, exported, merged and evaluated.\n\n"
    padding = " and ".join(f"`train={trainer.option}`" for trainer in TRAINERS.values() if trainer.pads_vocabulary)
    text += f"{padding} pad a vocabulary that `parallel.tp_size` does not divide. What is exported has no padding.\n\n"
    return f"## Models and trainers\n\n{text}" + _table(head, rows)


def _data() -> str:
    rows = [[f"`{name}`", ", ".join(f"`{column}`" for column in columns)] for name, columns in REQUIRED.items()]
    text = "Every format fits every model, trainer and server. Other rows need `dataset.template`.\n\n"
    return f"## Data\n\n{text}" + _table(["`dataset.format=`", "columns"], rows)


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def _training(recipe: Recipe, backend: str) -> Iterator[Sdk]:
    """The releases with which this machine trains."""
    recipe = _with(_with(recipe, "train", backend=backend), "serve", engine="none")
    yield from (_RELEASES[name] for name in releases.fitting(recipe))


def _serving(recipe: Recipe, engine: str) -> Iterator[Sdk]:
    """The releases with which this machine serves."""
    recipe = _with(recipe, "serve", engine=engine)
    for sdk in _RELEASES.values():
        one = dataclasses.replace(recipe, sdk=sdk)
        try:
            server_options.check(one)
        except RecipeError:
            continue
        if not any(releases.not_served(one, sdk)):
            yield sdk


def _vllm(recipe: Recipe) -> str:
    """The generations of vLLM there, each with its releases."""
    found: dict[str, list[Sdk]] = {}
    for sdk in _serving(recipe, "vllm"):
        merged = "" if sdk.vllm_lora else ", merged model"
        found.setdefault(f"{sdk.vllm}{merged}", []).append(sdk)
    return "; ".join(f"{_releases(sdks)} ({kind})" for kind, sdks in found.items()) or "no"


def _trains(family: str, backend: str) -> str:
    return "no" if any(model_config.trainer_problems(family, backend)) else "yes"


def _releases(sdks: Iterable[Sdk]) -> str:
    return ", ".join(sdk.name for sdk in sdks) or "no"


def _with(recipe: Recipe, section: str, **values: object) -> Recipe:
    return dataclasses.replace(recipe, **{section: dataclasses.replace(getattr(recipe, section), **values)})


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
