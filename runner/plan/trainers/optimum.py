"""Model + tokens → a PEFT adapter, by optimum-neuron: tensor-parallel and data-parallel, without conversion."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.plan.command import Artifacts, StageCommand, compile_cache, flags
from runner.plan.trainers import options as train_settings

# --model-type lets the compiler fuse attention; MALLOC_ARENA_MAX keeps the host's memory from growing at checkpoints.
_ENVIRONMENT = {"NEURON_CC_FLAGS": "--model-type=transformer", "MALLOC_ARENA_MAX": "64"}


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand:
    train, tp_size, dp_size = recipe.train, recipe.parallel.tp_size, recipe.parallel.dp_size
    words = [
        "--model", artifacts.path("fetch"),
        "--data", artifacts.path("tokenize"),
        *flags(tp_size=tp_size, attention=train.attention),
        *train_settings.words(train),
    ]  # fmt: skip
    cores = tp_size * dp_size
    title = f"train LoRA of rank {train.lora.rank} on {cores} cores, {dp_size} x tp {tp_size}"
    env = {**_ENVIRONMENT, "NEURON_COMPILE_CACHE_URL": compile_cache(recipe, artifacts.place)}
    return StageCommand(
        title, "train_optimum.py", words, processes=cores, env=env, resumable=True, cores=cores,
        packages={artifacts.place.python: recipe.sdk.train_packages},
    )  # fmt: skip
