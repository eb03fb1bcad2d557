"""Which positions attention must not see in a micro-batch of packed examples, and seeds for dropout. Needs torch."""

from __future__ import annotations

import numpy as np
import torch

MASKED_SCORE = -10000.0  # softmax makes it 0, in bfloat16 too; accelerators do not compute with infinities


def masked_positions(segments: torch.Tensor) -> torch.Tensor:
    """True where a query must not attend to a key: a later position, or one of another example.

    `segments` (rows, seq_len) numbers the example of each token; returns (rows, queries, keys) of bool.
    """
    length = segments.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=segments.device).triu(1)
    return (segments[:, :, None] != segments[:, None, :]) | later


def dropout_seed(place: tuple[int, ...]) -> int:
    """A seed for the device's generator that depends on `place` alone, so that a repeated step drops the same."""
    return int(np.random.SeedSequence(place).generate_state(1)[0])
