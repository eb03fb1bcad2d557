"""Whether the shapes of a recipe fit together, before any work. The rules of the shard format are NxD's."""

from __future__ import annotations

import json
from pathlib import Path

from runner import weights
from runner.errors import RecipeError
from runner.schema import Architecture, Recipe
from runner.validate import InvalidKey, build, keys


def check(recipe: Recipe) -> None:
    """Raises RecipeError with the reason for the first thing that cannot work."""
    _check_device(recipe)
    architecture = architecture_of(recipe)
    if recipe.model.source == "folder":
        weights.check(Path(recipe.model.path).expanduser(), "model.path")
    if architecture:
        _check_cut(recipe, architecture)
        _check_length(recipe, architecture)


def architecture_of(recipe: Recipe) -> Architecture | None:
    """Shapes of the model: what the recipe says, or config.json of a local folder; None if neither does."""
    if recipe.model.architecture or recipe.model.source != "folder":
        return recipe.model.architecture
    path = Path(recipe.model.path).expanduser() / "config.json"
    if not path.is_file():
        raise RecipeError(f"model.path: {path}: no such file; model.path names a Hugging Face folder")
    try:
        config = json.loads(path.read_text())
        return build(Architecture, {name: config[name] for name, _, _ in keys(Architecture)})
    except (json.JSONDecodeError, KeyError, InvalidKey) as error:
        raise RecipeError(f"model.path: {path}: not a Llama configuration: {error}") from error


def kv_size_multiplier(recipe: Recipe, architecture: Architecture) -> int:
    """Copies of each K/V head: as the recipe says, or so many that every rank holds a whole one.

    >>> kv_size_multiplier(Recipe(parallel=Parallel(tp_size=32)), llama3_8b)  # 8 K/V heads
    4
    """
    heads, tp_size = architecture.num_key_value_heads, recipe.parallel.tp_size
    return recipe.parallel.kv_size_multiplier or max(1, tp_size // heads)


def _check_device(recipe: Recipe) -> None:
    hardware, tp_size = recipe.hardware, recipe.parallel.tp_size
    if recipe.train.backend == "torch" and hardware.device != "cpu":
        raise RecipeError(
            f"hardware={hardware.name}: train=torch_lora trains on hardware=cpu; "
            f"hardware=cpu hardware.layout={hardware.layout} rehearses the same shards"
        )
    if recipe.train.backend == "nxd" and hardware.device != "neuron":
        raise RecipeError(
            f"hardware={hardware.name}: train=nxd_lora trains on Trainium; train=torch_lora rehearses it here "
            f"on the same shards (hardware.layout={hardware.layout})"
        )
    if hardware.cores and tp_size > hardware.cores:
        raise RecipeError(f"parallel.tp_size: {tp_size} is more than the {hardware.cores} cores of {hardware.name}")
    _check_copies(recipe)


def _check_copies(recipe: Recipe) -> None:
    hardware, parallel, train = recipe.hardware, recipe.parallel, recipe.train
    for name in ("dp_size", "nodes"):
        if getattr(parallel, name) > 1 and train.backend != "nxd":
            raise RecipeError(f"parallel.{name}: train=torch_lora trains one copy of the model on one machine; take 1")
    if hardware.cores and parallel.tp_size * parallel.dp_size > hardware.cores:
        raise RecipeError(
            f"parallel.dp_size: {parallel.dp_size} copies of {parallel.tp_size} cores are more than the "
            f"{hardware.cores} of {hardware.name}"
        )
    if parallel.nodes > 1 and recipe.target.kind == "local":
        raise RecipeError(f"parallel.nodes: target=local is one machine, not {parallel.nodes}")
    if train.backend == "nxd":
        _check_nxd(recipe)


def _check_nxd(recipe: Recipe) -> None:
    train, tp_size, seq_len = recipe.train, recipe.parallel.tp_size, recipe.dataset.seq_len
    if train.gradient_checkpointing and train.nxd.selective_checkpointing:
        raise RecipeError(
            "train.gradient_checkpointing: recomputes whole layers; set train.nxd.selective_checkpointing=false"
        )
    if train.nxd.sequence_parallel and seq_len % tp_size:
        raise RecipeError(
            f"dataset.seq_len: {seq_len} is no multiple of tp_size {tp_size}, as train.nxd.sequence_parallel needs"
        )


def _check_cut(recipe: Recipe, architecture: Architecture) -> None:
    tp_size, multiplier = recipe.parallel.tp_size, kv_size_multiplier(recipe, architecture)
    heads = architecture.num_key_value_heads * multiplier
    for name in ("num_attention_heads", "intermediate_size", "vocab_size"):
        size = getattr(architecture, name)
        if size % tp_size:
            raise RecipeError(
                f"parallel.tp_size: {tp_size} does not divide {name} {size} of {recipe.model.name}; "
                f"try {_divisors(architecture)}"
            )
    if heads != tp_size if multiplier > 1 else heads % tp_size:
        raise RecipeError(
            f"parallel.kv_size_multiplier: {architecture.num_key_value_heads} K/V heads x {multiplier} do not fit "
            f"tp_size {tp_size}: copies of heads must give every rank one; leave the key out to have it derived"
        )


def _divisors(architecture: Architecture) -> str:
    sizes = (architecture.num_attention_heads, architecture.intermediate_size, architecture.vocab_size)
    fitting = (n for n in range(1, sizes[0] + 1) if not any(size % n for size in sizes))
    return ", ".join(map(str, fitting))


def _check_length(recipe: Recipe, architecture: Architecture) -> None:
    longest = architecture.max_position_embeddings
    if recipe.dataset.seq_len > longest:
        raise RecipeError(
            f"dataset.seq_len: {recipe.dataset.seq_len} is more than the {longest} positions of {recipe.model.name}"
        )
