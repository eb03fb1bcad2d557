"""Checks that a recipe can work, before any work. The rules of the shard format are NxD's.

A rule yields problems: each names the key, the value that is needed, the value that is given, and what to try.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runner.compose.schema import Architecture, Recipe
from runner.errors import RecipeError
from runner.execute import files
from runner.plan import elsewhere
from runner.plan.checks import initial_adapter, memory, model_config, releases, weights
from runner.plan.trainers import trainer_of


def check(recipe: Recipe) -> None:
    """Raises RecipeError with the first problem."""
    for problem in problems(recipe):
        raise RecipeError(problem)


def problems(recipe: Recipe) -> Iterator[str]:
    """All problems of a recipe, a line each. Raises RecipeError for a model that cannot be read."""
    for rule in _RULES:
        yield from rule(recipe)
    if recipe.model.source == "folder":
        yield from _folder(recipe)
    architecture = architecture_of(recipe)
    if architecture:
        for rule in _MODEL_RULES:
            yield from rule(recipe, architecture)


def _folder(recipe: Recipe) -> Iterator[str]:
    """Problems of a model in a local folder. Raises RecipeError for a model that cannot be read."""
    model, folder = recipe.model, Path(recipe.model.path).expanduser()
    weights.check_kind(folder, "model.path")
    config = model_config.read(folder, "model.path")
    for problem in model_config.problems(config, recipe.train.backend):
        yield f"model.path: {folder / 'config.json'}: {problem}; choose another model"
    window = model_config.attention_window(config)
    if window is not None and recipe.dataset.seq_len > window:
        yield (
            f"dataset.seq_len: {recipe.dataset.seq_len} is more than the sliding_window {window} of {model.name}, "
            f"which is trained with attention to all earlier tokens; set at most {window}"
        )
    weights.check(folder, "model.path")
    if not model.tokenizer:
        weights.check_tokenizer(folder, "model.path")
    elif files.is_folder(Path(model.tokenizer).expanduser()):
        weights.check_tokenizer(Path(model.tokenizer).expanduser(), "model.tokenizer")


def architecture_of(recipe: Recipe) -> Architecture | None:
    """Shapes of the model, from the recipe or from the config.json of its folder; None if neither tells.

    Raises RecipeError for shapes that are incomplete, or cannot be read.
    """
    architecture = recipe.model.architecture
    if architecture:
        for field in dataclasses.fields(architecture):
            if getattr(architecture, field.name) == 0:  # the default of shapes that have none
                raise RecipeError(f"model.architecture.{field.name}: not set; config.json of the model has its value")
    if architecture or recipe.model.source != "folder":
        return architecture
    folder = elsewhere.path_here(recipe.model.path, recipe.target)
    return model_config.architecture(folder, "model.path") if folder else None


def kv_size_multiplier(recipe: Recipe, architecture: Architecture) -> int:
    """Copies of each K/V head: the recipe's value, or the number with which every rank has a whole head.

    >>> kv_size_multiplier(Recipe(parallel=Parallel(tp_size=32)), llama3_8b)  # 8 K/V heads
    4
    """
    heads, tp_size = architecture.num_key_value_heads, recipe.parallel.tp_size
    return recipe.parallel.kv_size_multiplier or max(1, tp_size // heads)


def estimate(recipe: Recipe, architecture: Architecture) -> memory.Estimate:
    """Bytes of memory and disk that the recipe needs; the formulas are in `runner.plan.checks.memory`."""
    return memory.estimate(recipe, architecture, kv_size_multiplier(recipe, architecture))


def _lnc(recipe: Recipe) -> Iterator[str]:
    hardware = recipe.hardware
    if hardware.lnc and hardware.lnc not in hardware.lnc_supported:
        supported = " or ".join(map(str, hardware.lnc_supported)) or "null"
        yield f"hardware.lnc: {hardware.name} does not support LNC={hardware.lnc}; set hardware.lnc={supported}"


def _cores(recipe: Recipe) -> Iterator[str]:
    hardware, tp_size, dp_size = recipe.hardware, recipe.parallel.tp_size, recipe.parallel.dp_size
    processes = tp_size * dp_size
    product = f"{tp_size} x dp_size {dp_size}" if dp_size > 1 else f"{tp_size}"
    if hardware.cores and processes > hardware.cores:
        yield (
            f"parallel.tp_size: {product} is more than the {hardware.cores} cores of {hardware.name}; "
            f"tp_size times dp_size can be at most {hardware.cores}"
        )
    elif hardware.processes and processes not in hardware.processes:
        yield (
            f"parallel.tp_size: {product} makes {processes} processes; the Neuron runtime of {hardware.name} starts "
            f"{', '.join(map(str, hardware.processes))}: {_copies(tp_size, hardware.processes)}"
        )


def _copies(tp_size: int, allowed: list[int]) -> str:
    fitting = [str(count // tp_size) for count in allowed if count % tp_size == 0]
    return f"set parallel.dp_size={' or '.join(fitting)}" if fitting else "try another tp_size"


def _training(recipe: Recipe) -> Iterator[str]:
    train = recipe.train
    if not train.lora.targets:
        yield "train.lora.targets: no layer gets an adapter; try [q_proj,v_proj]"
    elif len(set(train.lora.targets)) < len(train.lora.targets):
        yield f"train.lora.targets: [{','.join(train.lora.targets)}] lists a layer twice; list each once"
    for key, is_set in (("keep", train.keep == "best"), ("early_stopping_patience", train.early_stopping_patience > 0)):
        if is_set and not train.eval_every:
            yield f"train.{key}: it is decided by evaluations while training; set train.eval_every, such as 50"
    if train.learning_rate == 0:
        yield "train.learning_rate: with 0, nothing is learned; try 2e-4"
    if train.warmup_ratio >= 1 or 0 < train.max_steps <= math.ceil(train.warmup_ratio * train.max_steps):
        steps = train.max_steps or "all"
        yield f"train.warmup_ratio: {train.warmup_ratio:g} of {steps} steps leaves none after warm-up; try 0"
    if recipe.dataset.train_rows and not recipe.dataset.pack and recipe.dataset.train_rows < recipe.parallel.dp_size:
        yield (
            f"parallel.dp_size: {recipe.parallel.dp_size} copies of the model share {recipe.dataset.train_rows} rows "
            "of dataset.train_rows; each copy needs at least one"
        )


def _trainer(recipe: Recipe) -> Iterator[str]:
    yield from trainer_of(recipe).problems(recipe)


def _family(recipe: Recipe, architecture: Architecture) -> Iterator[str]:
    """Problems of a model whose config.json is not here yet; `_folder` has those of a local one."""
    if recipe.model.source == "folder":
        return
    if not model_config.family(architecture.model_type):
        known = ", ".join(model_config.supported()["families"])
        yield f"model.architecture.model_type: {architecture.model_type} is not supported, only {known}"
        return
    for problem in model_config.trainer_problems(architecture.model_type, recipe.train.backend):
        yield f"model.architecture.model_type: {recipe.model.name}: {problem}; set train to one of these"


def _trainer_of_model(recipe: Recipe, architecture: Architecture) -> Iterator[str]:
    yield from trainer_of(recipe).model_problems(recipe, architecture)


def _requirements(recipe: Recipe) -> Iterator[str]:
    keys = ("train_packages", "train_packages_expected", "serve_packages")
    given = [(key, text) for key in keys for text in getattr(recipe.sdk, key)]
    if given:  # the import takes 13 ms, and few recipes name packages
        from packaging.requirements import InvalidRequirement, Requirement

        for key, text in given:
            try:
                Requirement(text)
            except InvalidRequirement as error:
                reason = str(error).splitlines()[0]
                yield f"sdk.{key}: {text}: not a pip requirement such as transformers==4.48.*: {reason}"


def _tensor_parallel(recipe: Recipe, architecture: Architecture) -> Iterator[str]:
    tp_size, multiplier = recipe.parallel.tp_size, kv_size_multiplier(recipe, architecture)
    heads = architecture.num_key_value_heads * multiplier
    for name, size in _divided(recipe, architecture).items():
        if size % tp_size:
            yield (
                f"parallel.tp_size: {tp_size} does not divide {name} {size} of {recipe.model.name}; "
                f"try {', '.join(map(str, _divisors(recipe, architecture)))}"
            )
    if heads != tp_size if multiplier > 1 else heads % tp_size:
        yield (
            f"parallel.kv_size_multiplier: {architecture.num_key_value_heads} K/V heads x {multiplier} do not fit "
            f"tp_size {tp_size}: every rank needs a whole head; remove the key to derive it"
        )


def _divided(recipe: Recipe, architecture: Architecture) -> dict[str, int]:
    """The sizes that tp_size has to divide, by key."""
    names = ["num_attention_heads", "intermediate_size"]
    if not trainer_of(recipe).pads_vocabulary:
        names.append("vocab_size")
    return {name: getattr(architecture, name) for name in names}


def _divisors(recipe: Recipe, architecture: Architecture) -> list[int]:
    sizes = _divided(recipe, architecture).values()
    return [n for n in range(1, architecture.num_attention_heads + 1) if not any(size % n for size in sizes)]


def _length(recipe: Recipe, architecture: Architecture) -> Iterator[str]:
    longest, asked = architecture.max_position_embeddings, recipe.dataset.seq_len
    if asked > longest:
        yield f"dataset.seq_len: {asked} is more than the {longest} positions of {recipe.model.name}"
    if recipe.evaluate.enabled and recipe.evaluate.max_new_tokens >= longest:
        yield (
            f"evaluate.max_new_tokens: {recipe.evaluate.max_new_tokens} leaves no room for the prompt in the {longest} "
            f"positions of {recipe.model.name}"
        )


def _rank(recipe: Recipe, architecture: Architecture) -> Iterator[str]:
    if recipe.train.lora.rank >= architecture.hidden_size:
        yield (
            f"train.lora.rank: {recipe.train.lora.rank} is not less than the width {architecture.hidden_size} of "
            f"{recipe.model.name}: the update would be of full rank; try 16"
        )


def _memory(recipe: Recipe, architecture: Architecture) -> Iterator[str]:
    if any(_tensor_parallel(recipe, architecture)):
        return  # the shapes on a core are not known
    hardware, needs = recipe.hardware, estimate(recipe, architecture)
    if not _fits_core(recipe, architecture):
        yield (
            f"hardware={hardware.name}: training needs {gib(needs.core)} of memory per core (weights "
            f"{gib(needs.weights)}, LoRA and optimizer {gib(needs.adapter)}, activations {gib(needs.activations)}), "
            f"but a core has {hardware.core_memory_gb:g} GiB; {_smaller(recipe, architecture)}"
        )
    stage, host = needs.peak_stage, needs.host[needs.peak_stage]
    if hardware.host_memory_gb and host > hardware.host_memory_gb * memory.GIB:
        yield (
            f"hardware={hardware.name}: {stage} needs {gib(host)} of host memory, but the host has "
            f"{hardware.host_memory_gb:g} GiB; {memory.HOST_ADVICE[stage]}"
        )
    disk = sum(needs.disk.values())
    if hardware.disk_gb and disk > hardware.disk_gb * 10**9:
        yield (
            f"hardware={hardware.name}: the artifacts need {gib(disk)} of disk, but it has "
            f"{gib(hardware.disk_gb * 10**9)}; put paths.store on a larger disk and set hardware.disk_gb"
        )


def gib(size: float) -> str:
    """A number of bytes as text.

    >>> gib(3 * 2**30)
    '3.0 GiB'
    """
    return f"{size / memory.GIB:.1f} GiB" if size >= memory.GIB / 2 else f"{size / 2**20:.0f} MiB"


def _smaller(recipe: Recipe, architecture: Architecture) -> str:
    """Overrides with which the training fits a core: first those that keep the result, then a larger tp_size."""
    for overrides in _changes(recipe, architecture):
        smaller = _with(recipe, overrides)
        rules = (_cores(smaller), _tensor_parallel(smaller, architecture), _trainer_of_model(smaller, architecture))
        if not any(map(any, rules)) and _fits_core(smaller, architecture):
            differing = {key: value for key, value in overrides.items() if value != _value(recipe, key)}
            return "try " + " ".join(f"{key}={str(value).lower()}" for key, value in differing.items())
    return "no smaller batch fits: try a smaller dataset.seq_len, or hardware with more memory"


def _fits_core(recipe: Recipe, architecture: Architecture) -> bool:
    limit = recipe.hardware.core_memory_gb
    return not limit or estimate(recipe, architecture).core <= limit * memory.GIB


def _changes(recipe: Recipe, architecture: Architecture) -> Iterator[dict[str, Any]]:
    savers = trainer_of(recipe).memory_savers(recipe)
    yield from savers
    recompute = savers[-1]
    sequences = recipe.train.batch_size * recipe.train.accumulate  # per optimizer step and copy of the model
    accumulate = {"train.batch_size": 1, "train.accumulate": sequences}
    yield from (accumulate, recompute | accumulate, recompute | accumulate | {"train.dtype": "bf16"})
    for tp_size in _divisors(recipe, architecture):
        if tp_size > recipe.parallel.tp_size:
            one_copy = {"train.accumulate": sequences * recipe.parallel.dp_size}
            yield recompute | accumulate | one_copy | {"parallel.tp_size": tp_size, "parallel.dp_size": 1}


def _with(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """The recipe with overrides by dotted key. A new tp_size resets kv_size_multiplier, which depends on it."""
    if "parallel.tp_size" in overrides:
        overrides = overrides | {"parallel.kv_size_multiplier": None}
    for key, value in overrides.items():
        recipe = _replaced(recipe, key, value)
    return recipe


def _replaced(section: Any, key: str, value: Any) -> Any:
    name, _, below = key.partition(".")
    return dataclasses.replace(section, **{name: _replaced(getattr(section, name), below, value) if below else value})


def _value(recipe: Recipe, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), recipe)


_RULES: tuple[Callable[[Recipe], Iterator[str]], ...] = (
    releases.problems, _requirements, _lnc, _cores, _training, _trainer, initial_adapter.problems,
)  # fmt: skip
_MODEL_RULES: tuple[Callable[[Recipe, Architecture], Iterator[str]], ...] = (
    _family, _tensor_parallel, _length, _trainer_of_model, _rank, initial_adapter.model_problems, _memory,
)  # fmt: skip
