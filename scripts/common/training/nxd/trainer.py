"""The training of train_nxd.py: on NeuronCores through torch-xla, or on a CPU under NXD_CPU_MODE=1. Needs NxD.

torch-xla records operations and compiles them at each mark_step. To keep every step, and every training of a sweep, the
same programs, micro-batches have a constant shape, and values that change are tensors instead of constants
(`make test-xla`). Values are only read from the device when a metric or checkpoint is due, because reading waits for
the device.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import os
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch_xla.core.xla_model as xm
from neuronx_distributed.parallel_layers import grads, parallel_state
from neuronx_distributed.parallel_layers.loss_functions import parallel_cross_entropy
from neuronx_distributed.trainer.trainer import initialize_optimizer_from_class
from neuronx_distributed.utils import cpu_mode, get_device, hardware, mark_step
from torch_neuronx.utils import get_platform_target

from common import events
from common.data import padded_batch
from common.data.padded_batch import PaddedBatch
from common.program import BadInput
from common.shards.layout import ShardLayout, read_layout, shard_name
from common.training.llama import check_shard, padding_bias
from common.training.loop import Training, build_on_all_ranks
from common.training.masks import dropout_seed
from common.training.nxd import model
from common.training.nxd.optimizer import DeviceAdamW
from common.training.optimizer import clip_factor, step_values
from common.training.parallel import Ranks, use_fair_share_of_cores

_TRACED_STEPS = 2  # the second starts from what the first has left on the device


def train(args: argparse.Namespace) -> None:
    """Train with the flags of train_nxd.py. An error of one rank is raised on every rank."""
    use_fair_share_of_cores()
    with _join() as ranks:
        _check_generation(read_layout(args.shards))
        modelling = model.import_modelling(args.model_code)
        config = model.configure(args, modelling)
        training = build_on_all_ranks(ranks, lambda: NxdTraining(args, ranks, modelling, config))
        training.trace() if os.environ.get("NEURON_EXTRACT_GRAPHS_ONLY") else training.run()


class NxdTraining(Training):
    """A training on one rank."""

    def __init__(self, args: argparse.Namespace, ranks: Ranks, modelling: ModuleType, config: dict[str, Any]) -> None:
        tp_rank = parallel_state.get_tensor_model_parallel_rank()
        copies, copy = parallel_state.get_data_parallel_size(), parallel_state.get_data_parallel_rank()
        super().__init__(args, ranks, tp_rank, copies, copy)
        if self.initial and not self.initial.shares_lora_a:
            raise BadInput(
                f"--init-adapter {args.init_adapter}: NxD trains one lora_A for q, k and v, and one for gate and up, "
                "but this adapter has one for each; continue it with train_torch.py"
            )
        self.device, self.segments = get_device(), model.Segments()
        # Check on all ranks first: they wait for each other while NxD builds the model.
        path = args.shards / "model" / shard_name(tp_rank)
        shard = build_on_all_ranks(ranks, partial(check_shard, path, self.shape, self.layout))
        self.head_bias = padding_bias(self.shape, self.layout, tp_rank, self.device)
        self.model = model.build(args, modelling, config, shard, self.segments)
        self.trained = model.trained(self.model, self.adapter, self.layout, args.sequence_parallel)
        self.write_adapter()  # before the optimizer: with ZeRO-1 it copies its slices when it is created
        parameters = [trained.parameter for trained in self.trained]
        self.optimizer = initialize_optimizer_from_class(config, DeviceAdamW, parameters, values=None)

    def trace(self) -> None:
        """Run every program of a training, whatever its data, so that neuron_parallel_compile collects them."""
        self._log_plan()
        self._summed_loss([self._padding()])
        for step in range(_TRACED_STEPS):
            self._update([self._padding()] * (self.args.accumulate * self.copies), step, read=True)
            if self.ranks.rank == 0:
                events.progress(step + 1, _TRACED_STEPS)
        self._summed_loss([self._padding()])

    def step(self, step: int, read: bool) -> tuple[float, float] | None:
        batches = [padded_batch.batch(self.train_set, rows, self.args.batch_size) for rows in self.plan.batches(step)]
        return self._update(batches, step, read)

    def _update(self, batches: list[PaddedBatch], step: int, read: bool) -> tuple[float, float] | None:
        labelled = max(1, sum(batch.labelled for batch in batches))
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(1, device=self.device)
        for index, batch in enumerate(self._own(batches)):
            self._seed_dropout(step, index)
            # Gradients are averaged over the copies; the factor makes that the mean over all labels.
            loss = self._loss(batch, self.copies / labelled)
            loss.backward()
            total += loss.detach()
            mark_step()
        args, rate = self.args, self.schedule.learning_rate(step)
        values = step_values(rate, args.weight_decay, args.max_grad_norm, step + 1).to(self.device)
        norm = self._reduce_gradient(values)
        for group in self.optimizer.param_groups:
            group["values"] = values
        self.optimizer.step()
        measured = torch.cat([total, norm])  # so that one transfer reads both
        mark_step()
        self.record.tokens += sum(batch.tokens for batch in batches)
        self.record.label_tokens += sum(batch.labelled for batch in batches)
        if not read:
            return None
        loss, norm = measured.cpu()
        return self._sum(loss) / self.ranks.size, norm.item()

    def evaluate(self) -> float | None:
        if not len(self.eval_set):
            return None
        batches = [padded_batch.batch(self.eval_set, rows, self.args.batch_size) for rows in self.eval_sequences()]
        return self._summed_loss(batches) / sum(batch.labelled for batch in batches)

    def _summed_loss(self, batches: list[PaddedBatch]) -> float:
        """The sum of the losses of all labels, without dropout."""
        total = torch.zeros(1, device=self.device)
        self.model.eval()
        with torch.no_grad():
            for batch in self._own(batches):
                self.heed_interruption()
                total += self._loss(batch, 1.0)
                mark_step()
        self.model.train()
        return self._sum(total.cpu()) / self.layout.tp_size

    def read_adapter(self) -> None:
        self.adapter.load(model.read(self.trained))

    def write_adapter(self) -> None:
        model.write(self.trained, self.adapter.tensors())

    def optimizer_state(self) -> dict[str, Any]:
        return _on_cpu(self.optimizer.state_dict())

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)

    def _own(self, batches: list[PaddedBatch]) -> list[PaddedBatch]:
        """This copy's share of the micro-batches: all copies get the same number, the last may be only padding."""
        count = -(-len(batches) // self.copies)
        full = batches + [self._padding()] * (count * self.copies - len(batches))
        return full[self.copy :: self.copies]

    def _padding(self) -> PaddedBatch:
        """A micro-batch without sequences."""
        return padded_batch.batch(self.train_set, np.arange(0), self.args.batch_size)

    def _loss(self, batch: PaddedBatch, factor: float) -> torch.Tensor:
        """The weighted sum of the losses of the batch's labels, times `factor`."""
        weights = batch.tensors.weights * np.float32(factor)
        arrays = batch.tensors._replace(weights=weights)
        input_ids, positions, segments, targets, weights = (torch.from_numpy(a).to(self.device) for a in arrays)
        self.segments.set(segments)
        logits = self.model(input_ids=input_ids, position_ids=positions).logits.flatten(0, 1)
        # A new tensor, because NxD's function modifies its input.
        logits = logits.clone() if self.head_bias is None else logits + self.head_bias
        losses = parallel_cross_entropy(logits, targets.flatten())
        return (losses * weights.flatten()).sum()

    def _reduce_gradient(self, values: torch.Tensor) -> torch.Tensor:
        """Reduce the gradients over the ranks and clip; returns the norm before, counting each parameter once.

        NxD's own norm counts a K/V head once for each rank that has a copy of it.
        """
        if self.args.sequence_parallel:
            grads.allreduce_sequence_parallel_gradients(self.optimizer)
        gradients = [(t.share, t.parameter.grad.data) for t in self.trained if t.parameter.grad is not None]
        if self.copies > 1:
            grads.bucket_allreduce_gradients([gradient for _, gradient in gradients])
        squares = torch.zeros(1, device=self.device)
        for share, gradient in gradients:
            squares += share * gradient.square().sum()
        dist.all_reduce(squares, group=parallel_state.get_tensor_model_parallel_group())
        norm = squares.sqrt()
        for _, gradient in gradients:
            gradient.mul_(clip_factor(norm, values))
        return norm

    def _seed_dropout(self, step: int, index: int) -> None:
        """Make all ranks of a copy draw the same masks, as their shared inputs require, in each run of a step."""
        if self.args.dropout > 0:
            seed = dropout_seed((self.args.seed, step, index, self.copy))
            torch.manual_seed(seed)
            xm.set_rng_state(seed)

    def _sum(self, value: torch.Tensor) -> float:
        """A number, which has been read from the device, summed over all ranks."""
        return self.ranks.sum(value.double()).item()


def _join() -> Ranks:
    """Join the process groups: the device's for the model, and a gloo group of the hosts for messages and numbers."""
    ranks = Ranks.from_environment()
    alone: dict[str, Any] = {}
    if "MASTER_ADDR" not in os.environ:  # not under torchrun
        alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # pyright: ignore[reportPrivateImportUsage]
    if cpu_mode():
        dist.init_process_group("gloo", **alone)
        return ranks
    import torch_xla.distributed.xla_backend  # noqa: F401  registers the backend "xla"

    dist.init_process_group("xla", **alone)
    return Ranks(ranks.rank, ranks.size, dist.new_group(backend="gloo"))


def _check_generation(layout: ShardLayout) -> None:
    """Raise BadInput if copies of K/V heads are in another order than the one in which NxD sums gradients here."""
    machine = hardware(get_platform_target()).value
    if layout.kv_size_multiplier > 1 and machine != layout.layout:
        raise BadInput(
            f"--shards: their layout is {layout.layout}, but this machine is {machine}: "
            f"convert the checkpoint again with --layout {machine}"
        )


def _on_cpu(state: Any) -> Any:
    """Copy nested containers of tensors to the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().cpu()
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, (list, tuple)) else state
