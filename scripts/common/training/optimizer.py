"""The steps of a training, its learning rate, and AdamW: over one flat parameter, or as a function for compilers.

torch.optim's AdamW would work, but its first step imports the compiler, which takes longer than a short training, and
a compiled program would contain its settings: another learning rate or weight decay would be another program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from common.program import BadInput

SCHEDULES = ("linear", "cosine", "constant")
_NO_CLIPPING = 1e30  # a norm that no gradient has; finite, because not every device computes with infinity


@dataclass(frozen=True)
class Plan:
    """The sequences of each optimizer step: a seeded permutation per epoch, whose last step may be shorter.

    >>> plan = Plan(sequences=10, batch_size=2, accumulate=2, epochs=3, max_steps=0, seed=0)
    >>> plan.steps_per_epoch, plan.steps, [len(batch) for batch in plan.batches(2)]
    (3, 9, [2])
    """

    sequences: int
    batch_size: int
    accumulate: int
    epochs: int
    max_steps: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """The optimizer steps of one pass over the data."""
        return math.ceil(self.sequences / (self.batch_size * self.accumulate))

    @property
    def steps(self) -> int:
        """All optimizer steps: max_steps if set, else those of the epochs, as in Hugging Face's Trainer."""
        return self.max_steps or self.steps_per_epoch * self.epochs

    def batches(self, step: int) -> list[np.ndarray]:
        """The sequence numbers of each micro-batch of `step` (from 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.sequences)
        start = position * self.batch_size * self.accumulate
        batch = order[start : start + self.batch_size * self.accumulate]
        return [batch[i : i + self.batch_size] for i in range(0, len(batch), self.batch_size)]


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0 to `peak`, then `kind` to 0 at the end of `steps`: transformers.optimization's formulas."""

    kind: str
    peak: float
    warmup_ratio: float
    steps: int

    def __post_init__(self) -> None:
        if 0 < self.steps <= self.warmup_steps:
            raise BadInput(
                f"--warmup-ratio {self.warmup_ratio:g}: warm-up would take all of the {self.steps} step(s); try 0"
            )

    @property
    def warmup_steps(self) -> int:
        """The steps of warm-up."""
        return math.ceil(self.warmup_ratio * self.steps)

    def learning_rate(self, step: int) -> float:
        """The learning rate of `step` (from 0)."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        factor = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[self.kind]
        return self.peak * factor


class AdamW:
    """Decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2) with torch.optim's defaults, in place."""

    BETAS, EPS = (0.9, 0.999), 1e-8

    def __init__(self, weights: torch.Tensor, weight_decay: float) -> None:
        self.weights, self.weight_decay = weights, weight_decay
        self.first_moment, self.second_moment = torch.zeros_like(weights), torch.zeros_like(weights)

    @classmethod
    def rates(cls, learning_rate: float, weight_decay: float, number: int) -> tuple[float, float, float]:
        """The weights' decay, bias-corrected step size and second moment's correction of step `number` (from 1)."""
        first, second = cls.BETAS
        return 1 - learning_rate * weight_decay, learning_rate / (1 - first**number), math.sqrt(1 - second**number)

    def step(self, gradient: torch.Tensor, learning_rate: float, number: int) -> None:
        """Update the weights in step `number` (from 1)."""
        first, second = self.BETAS
        decay, size, correction = self.rates(learning_rate, self.weight_decay, number)
        self.weights.mul_(decay)
        self.first_moment.lerp_(gradient, 1 - first)
        self.second_moment.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = self.second_moment.sqrt().div_(correction).add_(self.EPS)
        self.weights.addcdiv_(self.first_moment, scale, value=-size)


def step_values(learning_rate: float, weight_decay: float, max_grad_norm: float, number: int) -> torch.Tensor:
    """The numbers of step `number` (from 1) for `clip` and `adamw`: float32 (4,).

    They are one tensor of one dimension because torch-xla compiles numbers, and tensors without dimensions, into the
    program if they are 0 or 1 or equal each other.
    """
    return torch.tensor([*AdamW.rates(learning_rate, weight_decay, number), max_grad_norm or _NO_CLIPPING])


def clip_factor(norm: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The factor that clips a gradient of this norm as `values` of `step_values` say; 1 for a shorter one."""
    limit = values[3:]
    return limit / torch.maximum(norm, limit)


def adamw(
    weights: torch.Tensor, gradient: torch.Tensor, first: torch.Tensor, second: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """New weights, first and second moments after the step of AdamW that `values` of `step_values` describe."""
    decay, size, correction, _ = values.unbind()
    (beta, beta_second), eps = AdamW.BETAS, AdamW.EPS
    first = torch.lerp(first, gradient, 1 - beta)
    second = second * beta_second + gradient * gradient * (1 - beta_second)
    return weights * decay - size * first / (second.sqrt() / correction + eps), first, second
