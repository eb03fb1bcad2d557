"""The training of train_torch.py --device neuron: native PyTorch on NeuronCores, one process per core. Needs torch.

Values are only read from the device when a metric or checkpoint is due, because reading waits for the device. Values
that change between steps or trainings of a sweep (the learning rate, LoRA's scale, the weights of labels) are passed as
tensors, because a changed constant would compile another program.
"""

from __future__ import annotations

import argparse
import importlib
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from common.data import padded_batch
from common.data.padded_batch import PaddedBatch
from common.formats.dtypes import DTYPES
from common.program import BadInput
from common.training.loop import Training, build_on_all_ranks
from common.training.neuron import llama
from common.training.neuron.llama import NEURON, NO_DROPOUT, Device, Dropout, NeuronLlama
from common.training.optimizer import adamw, clip_factor, step_values
from common.training.parallel import Ranks, use_fair_share_of_cores


def train(args: argparse.Namespace, device: Device = NEURON) -> None:
    """Train with the flags of train_torch.py. An error of one rank is raised on every rank."""
    use_fair_share_of_cores()
    if device is NEURON:
        _check_environment()
    with join(device) as ranks:
        build_on_all_ranks(ranks, lambda: NeuronTraining(args, ranks, device)).run()


def join(device: Device) -> Ranks:
    """Join the process groups: the device's for the model, and a gloo group of the hosts for messages."""
    ranks = Ranks.from_environment()
    if ranks.size == 1:
        return ranks
    dist.init_process_group(device.collectives, rank=ranks.rank, world_size=ranks.size)
    return Ranks(ranks.rank, ranks.size, dist.new_group(backend="gloo"))


class NeuronTraining(Training):
    """A training on one rank: weights and moments are flat tensors on the device, like `Adapter.weights`."""

    def __init__(self, args: argparse.Namespace, ranks: Ranks, device: Device) -> None:
        super().__init__(args, ranks, tp_rank=ranks.rank)
        self._device = device
        dtype = getattr(torch, DTYPES[args.dtype].torch)
        self.model = NeuronLlama(args.shards, dtype, self.adapter, ranks, args.gradient_checkpointing, device)
        self.write_adapter()
        self._moments = (torch.zeros_like(self._weights), torch.zeros_like(self._weights))
        self._update = device.compile(partial(update, shared=self.adapter.replicated, alone=ranks.size == 1))

    def step(self, step: int, read: bool) -> tuple[float, float] | None:
        batches = [padded_batch.batch(self.train_set, rows, self.args.batch_size) for rows in self.plan.batches(step)]
        labelled = max(1, sum(batch.labelled for batch in batches))
        leaf = self._weights.requires_grad_()
        losses = []
        for index, batch in enumerate(batches):
            loss = self._loss(leaf, batch, labelled, Dropout(self.args.dropout, (self.args.seed, step, index)))
            loss.backward()
            losses.append(loss.detach())
        assert leaf.grad is not None
        args, rate = self.args, self.schedule.learning_rate(step)
        values = step_values(rate, args.weight_decay, args.max_grad_norm, step + 1).to(self._device.name)
        self._weights, *moments, norm = self._update(leaf.detach(), leaf.grad, *self._moments, values)
        self._moments = (moments[0], moments[1])
        self.record.tokens += sum(batch.tokens for batch in batches)
        self.record.label_tokens += sum(batch.labelled for batch in batches)
        return (sum(loss.item() for loss in losses), norm.item()) if read else None

    def evaluate(self) -> float | None:
        if not len(self.eval_set):
            return None
        batches = [padded_batch.batch(self.eval_set, rows, self.args.batch_size) for rows in self.eval_sequences()]
        labelled = sum(batch.labelled for batch in batches)
        losses = []
        with torch.no_grad():
            for batch in batches:
                self.heed_interruption()
                losses.append(self._loss(self._weights.detach(), batch, labelled))
        return sum(loss.item() for loss in losses)

    def read_adapter(self) -> None:
        self.adapter.weights.copy_(self._weights.detach().cpu())

    def write_adapter(self) -> None:
        self._weights = self.adapter.weights.detach().clone().to(self._device.name)

    def optimizer_state(self) -> dict[str, Any]:
        first, second = (moment.cpu() for moment in self._moments)
        return {"first_moment": first, "second_moment": second}

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        first, second = (state[name].to(self._device.name) for name in ("first_moment", "second_moment"))
        self._moments = (first, second)

    def _loss(
        self, weights: torch.Tensor, batch: PaddedBatch, labelled: int, dropout: Dropout = NO_DROPOUT
    ) -> torch.Tensor:
        """This micro-batch's share of the mean loss over all `labelled` tokens."""
        shares = batch.tensors.weights / np.float32(labelled)
        return self.model.loss(weights, batch.tensors._replace(weights=shares), dropout)


def update(
    weights: torch.Tensor, gradient: torch.Tensor, first: torch.Tensor, second: torch.Tensor, values: torch.Tensor,
    shared: int, alone: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """A step of AdamW after summing the gradients of replicated parameters over the ranks, and clipping.

    All tensors are flat; the first `shared` elements are replicated. `values` are those of `step_values`. Returns new
    weights, first and second moments, and the norm of the gradient before clipping, counting each parameter once.
    """
    if not alone:
        gradient = torch.cat([llama.summed(gradient[:shared]), gradient[shared:]])
    own = gradient[shared:].square().sum()
    norm = (gradient[:shared].square().sum() + (own if alone else llama.summed(own))).sqrt()
    return *adamw(weights, gradient * clip_factor(norm, values), first, second, values), norm


def _check_environment() -> None:
    """Raise BadInput if torch does not support Neuron, or no NeuronCore is available."""
    try:
        importlib.import_module("torch_neuronx")
    except ImportError as error:
        raise BadInput(f"--device neuron: {error}; use the environment of Neuron 2.33 or later") from None
    neuron = getattr(torch, "neuron", None)
    if neuron is None:
        raise BadInput(
            "--device neuron: this torch-neuronx is based on XLA; use the native one of Neuron 2.33 or later"
        )
    if not neuron.is_available():
        raise BadInput("--device neuron: torch finds no NeuronCore; check neuron-ls, or use --device cpu")
