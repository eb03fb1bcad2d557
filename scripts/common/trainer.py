"""The training loop of train_torch.py: steps, metrics, evaluation, checkpoints and the result. Needs torch."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from common import events
from common.checkpoint import Checkpoints
from common.layout import read_layout, read_shape, shard_name, write_layout
from common.llama import Dropout, Llama
from common.lora import Adapter, LoraConfig
from common.optimizer import AdamW, Plan, Schedule
from common.packed import Batch, TokenSet
from common.parallel import Ranks, use_fair_share_of_cores
from common.program import BadInput, StageFailed

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_NOT_OF_THE_RESULT = ("shards", "data", "output", "checkpoint_every", "log_every")  # paths: their content counts


@dataclass
class Record:
    """What has been done so far; it goes into every checkpoint and in the end into training.json."""

    steps: int = 0
    loss: float = math.nan
    eval_loss_start: float | None = None
    tokens: int = 0
    label_tokens: int = 0
    seconds: float = 0.0


def train(args: argparse.Namespace) -> None:
    """Train by the flags of train_torch.py. A fault of one rank is raised on every rank."""
    ranks = Ranks.from_environment()
    use_fair_share_of_cores()
    ranks.join()
    try:
        _prepare(args, ranks).run()
    except (BadInput, StageFailed):  # raised on every rank: none is left waiting
        ranks.leave()
        raise
    ranks.leave()


def _prepare(args: argparse.Namespace, ranks: Ranks) -> Trainer:
    """The trainer of this rank; what is wrong on one rank is raised on all of them."""
    trainer, fault = None, None
    try:
        trainer = Trainer(args, ranks)
    except BadInput as error:
        fault = str(error)
    fault = ranks.first_message(fault)
    if trainer is None or fault is not None:
        raise BadInput(str(fault))
    return trainer


class Trainer:
    """One rank of one training."""

    def __init__(self, args: argparse.Namespace, ranks: Ranks) -> None:
        self.args, self.ranks = args, ranks
        self.shape, self.layout = read_shape(args.shards), read_layout(args.shards)
        self.train_set, self.eval_set = TokenSet(args.data, "train"), TokenSet(args.data, "eval")
        self.train_set.check(self.shape.vocab_size)
        if len(self.eval_set):
            self.eval_set.check(self.shape.vocab_size)
        targets = tuple(args.targets)
        lora = LoraConfig(args.rank, args.alpha, args.dropout, args.rslora, targets)
        self.adapter = Adapter(self.shape, self.layout, ranks.rank, lora, args.seed)
        self.model = Llama(args.shards, _DTYPES[args.dtype], self.adapter, ranks, args.gradient_checkpointing)
        self.plan = Plan(len(self.train_set), args.batch_size, args.accumulate, args.epochs, args.max_steps, args.seed)
        self.schedule = Schedule(args.schedule, args.learning_rate, args.warmup_ratio, self.plan.steps)
        self.optimizer = AdamW(self.adapter.weights, args.weight_decay)
        self.checkpoints = Checkpoints(args.output, ranks, self._settings())
        self.record = Record()

    def run(self) -> None:
        """Train to the last step and write the adapter."""
        self._log_plan()
        self._resume()
        if self.record.eval_loss_start is None:
            self.record.eval_loss_start = self.evaluate()
        started = (time.perf_counter(), self.record.tokens)
        for step in range(self.record.steps, self.plan.steps):
            norm = self.step(step)
            if self.record.steps % self.args.log_every == 0 or self.record.steps == self.plan.steps:
                started = self._report(norm, started)
            if self.args.checkpoint_every and self.record.steps % self.args.checkpoint_every == 0:
                self.checkpoints.save(self.record.steps, self._state())
        self._write(self.evaluate())

    def step(self, step: int) -> float:
        """One optimizer step, `step` counting from 0; returns the norm of the gradient before clipping."""
        started = time.perf_counter()
        batches = [self.train_set.batch(sequences) for sequences in self.plan.batches(step)]
        loss = self.accumulate(batches, step)
        norm = self._reduce_gradient()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise StageFailed(
                f"step {step + 1}: the loss is {loss} and the gradient norm {norm}: "
                "try a lower --learning-rate, or --dtype fp32"
            )
        self.optimizer.step(self.adapter.gradient, self.schedule.learning_rate(step), step + 1)
        self.record.steps, self.record.loss = step + 1, loss
        self.record.tokens += sum(len(batch.input_ids) for batch in batches)
        self.record.label_tokens += sum(len(batch.rows) for batch in batches)
        self.record.seconds += time.perf_counter() - started
        return norm

    def accumulate(self, batches: list[Batch], step: int) -> float:
        """Fill the gradient; returns the mean loss over the labelled tokens of all micro-batches together."""
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
        """The mean loss over the labelled tokens of the evaluation split, None when there is none."""
        if not len(self.eval_set):
            return None
        plan = Plan(len(self.eval_set), self.args.batch_size, 1, 1, 0, seed=0)
        total, labelled = 0.0, 0
        with torch.no_grad():
            for step in range(plan.steps):
                batch = self.eval_set.batch(plan.batches(step)[0])
                total += self.model.loss(batch).item()
                labelled += len(batch.rows)
        return total / labelled

    def _reduce_gradient(self) -> float:
        """Sum the replicated part over the ranks and clip the whole; returns its norm, each parameter counted once."""
        gradient, shared = self.adapter.gradient, self.adapter.replicated
        self.ranks.sum(gradient[:shared])
        squares = self.ranks.sum(gradient[shared:].square().sum()) + gradient[:shared].square().sum()
        norm = squares.sqrt().item()
        if 0 < self.args.max_grad_norm < norm:
            gradient.mul_(self.args.max_grad_norm / norm)
        return norm

    def _resume(self) -> None:
        state = self.checkpoints.latest()
        if state is None:
            return
        self.record = Record(**state["record"])
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])
        self._log(f"continuing from step {self.record.steps}")

    def _state(self) -> dict[str, Any]:
        return {"record": asdict(self.record), **self._tensors()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        optimizer = self.optimizer
        moments = {"first_moment": optimizer.first_moment, "second_moment": optimizer.second_moment}
        return {"weights": self.adapter.weights, **moments}

    def _settings(self) -> str:
        """A digest of all that decides the result: a checkpoint is continued only where it is the same."""
        shards = [(self.args.shards / "model" / shard_name(rank)).stat() for rank in range(self.ranks.size)]
        content = {
            "flags": {name: value for name, value in vars(self.args).items() if name not in _NOT_OF_THE_RESULT},
            "config": (self.args.shards / "config.json").read_text(),
            "layout": asdict(self.layout),
            "shards": [(stat.st_size, stat.st_mtime_ns) for stat in shards],
            "data": self.train_set.digest(),
            "torch": torch.__version__,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _write(self, eval_loss: float | None) -> None:
        """Write the adapter once every rank has found it sound."""
        fault = self.ranks.first_message(self.adapter.fault())
        if fault is not None:
            raise StageFailed(fault)
        self.adapter.save(self.args.output)
        self.ranks.barrier()
        if self.ranks.rank == 0:
            self.adapter.save_config(self.args.output)
            write_layout(self.args.output, self.layout)
            epochs = self.record.steps / self.plan.steps_per_epoch
            content = {**asdict(self.record), "eval_loss_end": eval_loss, "epochs": epochs}
            (self.args.output / "training.json").write_text(json.dumps(content, indent=2) + "\n")
        self.checkpoints.remove()
        self._log(f"trained {self.record.steps} steps: eval loss {self.record.eval_loss_start} -> {eval_loss}")

    def _report(self, norm: float, since: tuple[float, int]) -> tuple[float, int]:
        """Tell the metrics of the last step and the speed since the last report; returns the start of the next."""
        now, record = time.perf_counter(), self.record
        values = {
            "loss": record.loss,
            "learning_rate": self.schedule.learning_rate(record.steps - 1),
            "grad_norm": norm,
            "tokens_per_second": (record.tokens - since[1]) / (now - since[0]),
        }
        if self.ranks.rank == 0:
            events.metric(values, at=record.steps)
            events.progress(record.steps, self.plan.steps)
        return now, record.tokens

    def _log_plan(self) -> None:
        plan, adapter = self.plan, self.adapter
        parameters = adapter.replicated + (len(adapter.weights) - adapter.replicated) * self.ranks.size
        self._log(
            f"{plan.sequences} sequences, {plan.steps_per_epoch} steps an epoch, {plan.steps} steps in all, "
            f"{self.schedule.warmup_steps} of warm-up; {parameters} parameters to train, "
            f"{torch.get_num_threads()} threads a rank"
        )

    def _log(self, message: str) -> None:
        if self.ranks.rank == 0:
            events.log(message)
