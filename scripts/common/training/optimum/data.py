"""Packed sequences as optimum-neuron is given them: whole steps in our order, and examples kept apart. Needs torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from common.data.packing import IGNORED
from common.data.token_dataset import TokenSet
from common.training.masks import masked_positions
from common.training.optimizer import Plan


class Stream(torch.utils.data.Dataset):
    """The sequences from one optimizer step on, in the order in which they are trained.

    Every step is whole, because the device compiles for one shape: the last of an epoch is filled up with its first
    sequences. Taken in turns by the data-parallel ranks, each of them gets batch_size of every micro-step.
    """

    def __init__(self, data: TokenSet, plan: Plan, first_step: int) -> None:
        self.data, self.plan, self.first_step = data, plan, first_step
        self.size = plan.batch_size * plan.accumulate  # sequences an optimizer step, of all ranks

    def __len__(self) -> int:
        return (self.plan.steps - self.first_step) * self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of one sequence, (seq_len,) each. IndexError beyond the last."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        step, position = divmod(index, self.size)
        row = self.sequences(self.first_step + step)[position]
        return {name: getattr(self.data, name)[row] for name in ("input_ids", "labels", "segment_ids")}

    def sequences(self, step: int) -> np.ndarray:
        """The numbers of the sequences of a step."""
        return np.resize(np.concatenate(self.plan.batches(step)), self.size)

    def tokens(self, step: int) -> tuple[int, int]:
        """How many real tokens a step has, and how many of them have a label."""
        rows = np.sort(self.sequences(step))
        return int((self.data.segment_ids[rows] > 0).sum()), int((self.data.labels[rows] != IGNORED).sum())


@dataclass(frozen=True)
class Collator:
    """A micro-batch of one rank: input_ids and labels (batch, seq_len); `masked` adds what keeps examples apart."""

    masked: bool
    dtype: torch.dtype

    def __call__(self, sequences: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        stacked = {
            name: torch.from_numpy(np.stack([sequence[name] for sequence in sequences]).astype(np.int64))
            for name in ("input_ids", "labels", "segment_ids")
        }
        segments = stacked.pop("segment_ids")
        if self.masked:
            stacked["position_ids"] = positions(segments)
            stacked["attention_mask"] = block_mask(segments, self.dtype)
        return stacked


def positions(segments: torch.Tensor) -> torch.Tensor:
    """Positions (batch, seq_len) that begin at 0 in each segment."""
    places = torch.arange(segments.shape[1]).expand_as(segments)
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return places - torch.where(begins, places, 0).cummax(dim=1).values


def block_mask(segments: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the attention scores, (batch, 1, seq_len, seq_len): the lowest number where masked, else 0."""
    masked = masked_positions(segments)
    return torch.zeros(masked.shape, dtype=dtype).masked_fill_(masked, torch.finfo(dtype).min)[:, None]
