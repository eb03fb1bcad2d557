"""How long a training takes on Neuron hardware: a range, computed from its operations and published figures."""

from __future__ import annotations

from dataclasses import dataclass

from runner.compose.schema import Architecture, Recipe
from runner.plan.checks import memory
from runner.plan.trainers import trainer_of

# The share of the peak that a training reaches. AWS publishes pre-training on 32 trn1.32xlarge in sequences of 8192:
# 41.99 sequences a second of Llama 3.1 8B and 7.51 of 70B, which is 17 % and 27 % of 190 TFLOPS a chip, counted as
# 6 operations a parameter and token. (Neuron documentation, Trn1/Trn1n Training Performance of 2025-05-20.)
UTILIZATION = (0.1, 0.3)


@dataclass(frozen=True)
class Range:
    """A shortest and a longest time, in seconds."""

    shortest: float
    longest: float

    def cost(self, price_per_hour: float, machines: int) -> tuple[float, float]:
        """The price of `machines` for that time, US dollars."""
        rate = price_per_hour * machines / 3600
        return self.shortest * rate, self.longest * rate


def steps(recipe: Recipe, sequences: int) -> int:
    """Optimizer steps of a training on packed `sequences`."""
    return recipe.train.epochs * -(-sequences // sequences_per_step(recipe))


def sequences_per_step(recipe: Recipe) -> int:
    """Sequences that all copies of the model together train on in one optimizer step."""
    return recipe.train.batch_size * recipe.train.accumulate * copies(recipe)


def copies(recipe: Recipe) -> int:
    """Copies of the model that train on different sequences; one on all nodes without data parallelism."""
    return recipe.parallel.dp_size * recipe.parallel.nodes if trainer_of(recipe).data_parallel else 1


def operations_per_token(recipe: Recipe, a: Architecture) -> float:
    """Floating-point operations of forward and backward pass, for a token.

    Each parameter of the layers and the output layer takes 2 in the forward pass and 2 for the gradient of its input;
    being frozen, it has no gradient of its own. Attention takes 4 s a d a layer (s = seq_len, a = heads, d = head_dim;
    masked scores are computed, too) and twice that backward. What is recomputed takes its forward pass again. The
    embedding is a lookup, and LoRA's own few per cent are left out. (Kaplan et al. 2020, Scaling Laws for Neural
    Language Models, section 2.1.)
    """
    output = a.vocab_size * a.hidden_size
    layers = memory.parameters(a) - 2 * output
    attention = 4 * a.num_hidden_layers * recipe.dataset.seq_len * a.num_attention_heads * a.head_width
    recomputes = trainer_of(recipe).activation_memory(recipe).recomputes
    recomputed = {"": 0, "attention": attention, "layer": 2 * layers + attention}[recomputes]
    return 4 * (layers + output) + 3 * attention + recomputed


def training_time(recipe: Recipe, architecture: Architecture, steps: int) -> Range | None:
    """The time of a training in bf16 without its compilation; None where the peak of a core is not known."""
    if not recipe.hardware.core_tflops or recipe.train.dtype != "bf16":
        return None
    tokens = steps * sequences_per_step(recipe) * recipe.dataset.seq_len
    cores = recipe.parallel.tp_size * copies(recipe)
    at_peak = tokens * operations_per_token(recipe, architecture) / (cores * recipe.hardware.core_tflops * 1e12)
    low, high = UTILIZATION
    return Range(at_peak / high, at_peak / low)
