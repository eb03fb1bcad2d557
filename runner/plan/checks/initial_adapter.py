"""Checks that a training can continue the adapter that `train.init_adapter` names, before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from runner.compose.schema import Architecture, Recipe
from runner.plan import elsewhere, initial_adapter
from runner.plan.initial_adapter import CONFIG, KEY, WEIGHTS, Tensor
from runner.plan.trainers import trainer_of


def problems(recipe: Recipe) -> Iterator[str]:
    """Why the recipe cannot continue the adapter, whatever the model. Raises RecipeError for a damaged folder."""
    if not recipe.train.init_adapter:
        return
    folder = initial_adapter.folder(recipe)
    yield from _settings(recipe, folder)
    reason = trainer_of(recipe).cannot_continue(initial_adapter.shares_lora_a(folder / WEIGHTS))
    if reason:
        yield f"{KEY}: {folder}: {reason}"


def unknown(recipe: Recipe) -> str | None:
    """What the plan of a recipe cannot tell about the adapter, because it is large and elsewhere."""
    here = recipe.train.init_adapter and elsewhere.path_here(recipe.train.init_adapter, recipe.target)
    if not here or trainer_of(recipe).cannot_continue(shares_lora_a=False) is None:
        return None
    located = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, init_adapter=str(here)))
    if initial_adapter.shares_lora_a(initial_adapter.folder(located) / WEIGHTS) is not None:
        return None
    return "not known here: whether q, k and v share one lora_A, as this trainer needs; the training checks it"


def model_problems(recipe: Recipe, architecture: Architecture) -> Iterator[str]:
    """Why the adapter does not belong to a model of these shapes; the training checks every tensor."""
    if not recipe.train.init_adapter:
        return
    path = initial_adapter.folder(recipe) / WEIGHTS
    tensors = initial_adapter.tensors(path)
    wanted = {"layers": architecture.num_hidden_layers, "hidden_size": architecture.hidden_size}
    for name, found in {"layers": _layers(tensors), "hidden_size": _hidden_size(tensors)}.items():
        if found not in (None, wanted[name]):
            yield (
                f"{KEY}: {path}: is for a model with {name} {found}, {recipe.model.name} has {wanted[name]}; name the "
                "model that it was trained on"
            )


def _settings(recipe: Recipe, folder: Path) -> Iterator[str]:
    """What cannot change while training continues: dropout can."""
    lora, adapter = recipe.train.lora, initial_adapter.settings(folder / CONFIG)
    targets = adapter.get("target_modules")
    pairs = {
        "rank": (lora.rank, adapter.get("r")),
        "alpha": (lora.alpha, adapter.get("lora_alpha")),
        "rslora": (lora.rslora, bool(adapter.get("use_rslora"))),
        "targets": (sorted(lora.targets), sorted(targets) if isinstance(targets, list) else targets),
    }
    for key, (given, wanted) in pairs.items():
        if given != wanted:
            yield (
                f"train.lora.{key}: {_text(given)}, but the adapter to continue has {_text(wanted)} "
                f"({folder / CONFIG}); set train.lora.{key}={_text(wanted)}"
            )


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _layers(tensors: dict[str, Tensor]) -> int | None:
    numbers = {name.partition(".layers.")[2].partition(".")[0] for name in tensors}
    return max((int(number) + 1 for number in numbers if number.isdecimal()), default=None)


def _hidden_size(tensors: dict[str, Tensor]) -> int | None:
    inputs = (tensor.shape[-1] for name, tensor in tensors.items() if name.endswith("q_proj.lora_A.weight"))
    outputs = (tensor.shape[0] for name, tensor in tensors.items() if name.endswith("down_proj.lora_B.weight"))
    return next(iter([*inputs, *outputs]), None)
