"""Attention masks for micro-batches of packed examples, and seeds for dropout. Needs torch."""

from __future__ import annotations

import numpy as np
import torch

MASKED_SCORE = -10000.0  # 0 after softmax, also in bfloat16; accelerators do not support infinities


def masked_positions(segments: torch.Tensor) -> torch.Tensor:
    """True where a query must not attend to a key: at later positions and in other examples.

    `segments` (rows, seq_len) is the number of each token's example; returns bool (rows, queries, keys).
    """
    length = segments.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=segments.device).triu(1)
    return (segments[:, :, None] != segments[:, None, :]) | later


def dropout_seed(key: tuple[int, ...]) -> int:
    """A seed for the device's generator that only depends on `key`, so that a repeated step drops the same elements."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])
