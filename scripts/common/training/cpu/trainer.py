"""The training of train_torch.py on CPU ranks over gloo. Needs torch."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from common.data.token_dataset import Batch
from common.formats.dtypes import DTYPES
from common.training.cpu.llama import Dropout, Llama
from common.training.loop import Training, build_on_all_ranks
from common.training.optimizer import AdamW
from common.training.parallel import Ranks, use_fair_share_of_cores


def train(args: argparse.Namespace) -> None:
    """Train with the flags of train_torch.py. An error of one rank is raised on every rank."""
    use_fair_share_of_cores()
    with Ranks.from_environment().join() as ranks:
        build_on_all_ranks(ranks, lambda: Trainer(args, ranks)).run()


class Trainer(Training):
    """A training on one rank."""

    def __init__(self, args: argparse.Namespace, ranks: Ranks) -> None:
        super().__init__(args, ranks, tp_rank=ranks.rank)
        dtype = getattr(torch, DTYPES[args.dtype].torch)
        self.model = Llama(args.shards, dtype, self.adapter, ranks, args.gradient_checkpointing)
        self.optimizer = AdamW(self.adapter.weights, args.weight_decay)

    def step(self, step: int, read: bool) -> tuple[float, float]:
        batches = [self.train_set.batch(sequences) for sequences in self.plan.batches(step)]
        loss = self.accumulate(batches, step)
        norm = self._reduce_gradient()
        self.optimizer.step(self.adapter.gradient, self.schedule.learning_rate(step), step + 1)
        self.record.tokens += sum(len(batch.input_ids) for batch in batches)
        self.record.label_tokens += sum(len(batch.rows) for batch in batches)
        return loss, norm

    def accumulate(self, batches: list[Batch], step: int) -> float:
        """Compute the gradient of the mean loss over the labelled tokens of all micro-batches; returns that loss."""
        labelled = max(1, sum(len(batch.rows) for batch in batches))
        self.adapter.gradient.zero_()
        total = 0.0
        for index, batch in enumerate(batches):
            dropout = Dropout(self.args.dropout, (self.args.seed, step, index))
            loss = self.model.loss(batch, dropout) / labelled
            loss.backward()
            total += loss.item()
        return total

    def evaluate(self) -> float | None:
        if not len(self.eval_set):
            return None
        total, labelled = 0.0, 0
        with torch.no_grad():
            for sequences in self.eval_sequences():
                self.heed_interruption()
                batch = self.eval_set.batch(sequences)
                total += self.model.loss(batch).item()
                labelled += len(batch.rows)
        return total / labelled

    def read_adapter(self) -> None:
        """Does nothing: the model uses the adapter's buffer directly."""

    def write_adapter(self) -> None:
        """Does nothing: the model uses the adapter's buffer directly."""

    def optimizer_state(self) -> dict[str, Any]:
        return {"first_moment": self.optimizer.first_moment, "second_moment": self.optimizer.second_moment}

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        self.optimizer.first_moment.copy_(state["first_moment"])
        self.optimizer.second_moment.copy_(state["second_moment"])

    def _reduce_gradient(self) -> float:
        """Sum the replicated part over the ranks and clip; returns the norm before, counting each parameter once."""
        gradient, shared = self.adapter.gradient, self.adapter.replicated
        self.ranks.sum(gradient[:shared])
        squares = self.ranks.sum(gradient[shared:].square().sum()) + gradient[:shared].square().sum()
        norm = squares.sqrt().item()
        if 0 < self.args.max_grad_norm < norm:
            gradient.mul_(self.args.max_grad_norm / norm)
        return norm
