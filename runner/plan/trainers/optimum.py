"""Model + tokens → a PEFT adapter, by optimum-neuron: tensor-parallel and data-parallel, without conversion."""

from __future__ import annotations

from collections.abc import Iterator

from runner.compose.schema import Architecture, Recipe
from runner.plan.command import Artifacts, StageCommand, compile_cache, flags
from runner.plan.trainers.base import ActivationMemory, Trainer, common_flags, nxd_lnc_problems, recomputed_layer

# --model-type lets the compiler fuse attention; MALLOC_ARENA_MAX keeps the host's memory from growing at checkpoints.
_ENVIRONMENT = {"NEURON_CC_FLAGS": "--model-type=transformer", "MALLOC_ARENA_MAX": "64"}


class OptimumTrainer(Trainer):
    """train_optimum.py: optimum-neuron, which shards the Hugging Face model itself."""

    name, option = "optimum", "optimum_lora"
    reads_shards = False
    pads_vocabulary = False

    def command(self, recipe: Recipe, artifacts: Artifacts) -> StageCommand:
        train, tp_size, dp_size = recipe.train, recipe.parallel.tp_size, recipe.parallel.dp_size
        args = [
            "--model", artifacts.path("fetch"),
            "--data", artifacts.path("tokenize"),
            *flags(tp_size=tp_size, attention=train.attention),
            *common_flags(train),
        ]  # fmt: skip
        cores = tp_size * dp_size
        return StageCommand(
            f"train LoRA of rank {train.lora.rank} on {cores} cores, {dp_size} x tp {tp_size}",
            "train_optimum.py",
            args,
            processes=cores,
            env={**_ENVIRONMENT, "NEURON_COMPILE_CACHE_URL": compile_cache(recipe, artifacts.place)},
            resumable=True,
            cores=cores,
            packages={artifacts.place.python: recipe.sdk.train_packages},
        )

    def activation_memory(self, recipe: Recipe) -> ActivationMemory:
        scores = float(recipe.train.attention == "masked")  # flash attention never has the whole square
        return ActivationMemory(scores=scores, recomputes=recomputed_layer(recipe.train))

    def problems(self, recipe: Recipe) -> Iterator[str]:
        yield from nxd_lnc_problems(recipe)
        if recipe.train.eval_every:
            yield (
                "train.eval_every: optimum-neuron 0.4 cannot evaluate while it trains; set train.eval_every=0, or "
                "train=nxd_lora"
            )
        if recipe.parallel.nodes > 1:
            yield "parallel.nodes: train=optimum_lora trains on one machine; set parallel.nodes=1"
        if len({"gate_proj", "up_proj"} & set(recipe.train.lora.targets)) == 1:
            yield (
                "train.lora.targets: optimum-neuron fuses gate_proj and up_proj into one layer: name both, or neither; "
                "train=nxd_lora and train=torch_lora can train one of them"
            )

    def cannot_continue(self, shares_lora_a: bool | None) -> str | None:
        return "optimum-neuron only trains new adapters; continue it with train=torch_lora or train=nxd_lora"

    def model_problems(self, recipe: Recipe, architecture: Architecture) -> Iterator[str]:
        """It fuses q, k and v into one layer where K/V heads are copied."""
        heads, tp_size = architecture.num_key_value_heads, recipe.parallel.tp_size
        fused = {"q_proj", "k_proj", "v_proj"}
        if heads % tp_size and 0 < len(fused & set(recipe.train.lora.targets)) < len(fused):
            yield (
                f"train.lora.targets: with {heads} K/V heads on tp_size {tp_size} optimum-neuron fuses q_proj, k_proj "
                "and v_proj into one layer: name all of them, or none"
            )
