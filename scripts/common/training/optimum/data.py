"""Packed sequences for optimum-neuron: complete steps in our order, with examples masked apart. Needs torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from common.data.packing import IGNORED
from common.data.token_dataset import TokenSet
from common.training.masks import masked_positions
from common.training.optimizer import Plan


class Stream(torch.utils.data.Dataset):
    """The sequences from an optimizer step on, in the order of training.

    All steps have the same size, because the device compiles for one shape: an epoch's last step is filled by
    repeating its own sequences. Data-parallel ranks take turns, so each gets batch_size sequences of a micro-batch.
    """

    def __init__(self, data: TokenSet, plan: Plan, first_step: int) -> None:
        self.data, self.plan, self.first_step = data, plan, first_step
        self.size = plan.batch_size * plan.accumulate  # sequences per optimizer step, over all ranks

    def __len__(self) -> int:
        return (self.plan.steps - self.first_step) * self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of one sequence, (seq_len,) each. Raises IndexError past the end."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        step, position = divmod(index, self.size)
        row = self.sequences(self.first_step + step)[position]
        return {name: getattr(self.data, name)[row] for name in ("input_ids", "labels", "segment_ids")}

    def sequences(self, step: int) -> np.ndarray:
        """The sequence numbers of a step."""
        return np.resize(np.concatenate(self.plan.batches(step)), self.size)

    def tokens(self, step: int) -> tuple[int, int]:
        """The number of tokens of a step without padding, and how many of them have a label."""
        rows = np.sort(self.sequences(step))
        return int((self.data.segment_ids[rows] > 0).sum()), int((self.data.labels[rows] != IGNORED).sum())


@dataclass(frozen=True)
class Collator:
    """Builds a rank's micro-batch: input_ids and labels (batch, seq_len); if `masked`, also positions and a mask."""

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
    """Positions (batch, seq_len) that start at 0 in each segment."""
    columns = torch.arange(segments.shape[1]).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return columns - torch.where(starts, columns, 0).cummax(dim=1).values


def block_mask(segments: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The additive attention mask (batch, 1, seq_len, seq_len): the lowest finite number where masked, else 0."""
    masked = masked_positions(segments)
    return torch.zeros(masked.shape, dtype=dtype).masked_fill_(masked, torch.finfo(dtype).min)[:, None]
