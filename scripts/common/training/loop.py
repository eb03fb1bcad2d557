"""What trainings have in common, whatever computes them: the loop, metrics, checkpoints and the result. Needs torch."""

from __future__ import annotations

import argparse
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from common import events
from common.data.token_dataset import TokenSet
from common.formats.peft_folder import LoraConfig
from common.program import BadInput, StageFailed
from common.shards.layout import read_layout, read_shape, shard_name, write_layout
from common.training.checkpoint import Checkpoints, settings_digest
from common.training.lora import Adapter
from common.training.optimizer import Plan, Schedule
from common.training.parallel import Ranks

_PATHS = ("shards", "data", "output", "model_code")  # flags whose content counts, not their value
T = TypeVar("T")


@dataclass
class Record:
    """What has been done so far; it goes into every checkpoint and in the end into training.json."""

    steps: int = 0
    loss: float = math.nan
    eval_loss_start: float | None = None
    tokens: int = 0
    label_tokens: int = 0
    seconds: float = 0.0


def build_on_all_ranks(ranks: Ranks, build: Callable[[], T]) -> T:
    """The result of `build` on this rank. A BadInput on one rank is raised on all of them."""
    result, problem = None, None
    try:
        result = build()
    except BadInput as error:
        problem = str(error)
    problem = ranks.first_message(problem)
    if result is None or problem is not None:
        raise BadInput(str(problem))
    return result


class Training(ABC):
    """One rank of one training. `copies` ranks with the same slice of the model share the batch, this is the `copy`-th.

    `adapter` holds this rank's initial parameters and, after `read_adapter`, the trained ones.
    """

    def __init__(self, args: argparse.Namespace, ranks: Ranks, tp_rank: int, copies: int = 1, copy: int = 0) -> None:
        self.args, self.ranks, self.copies, self.copy = args, ranks, copies, copy
        self.shape, self.layout = read_shape(args.shards), read_layout(args.shards)
        self.train_set, self.eval_set = TokenSet(args.data, "train"), TokenSet(args.data, "eval")
        self.train_set.check(self.shape.vocab_size)
        if len(self.eval_set):
            self.eval_set.check(self.shape.vocab_size)
        lora = LoraConfig(args.rank, args.alpha, args.dropout, use_rslora=args.rslora, targets=tuple(args.targets))
        self.adapter = Adapter(self.shape, self.layout, tp_rank, lora, args.seed)
        micro_steps = args.accumulate * copies
        self.plan = Plan(len(self.train_set), args.batch_size, micro_steps, args.epochs, args.max_steps, args.seed)
        self.schedule = Schedule(args.schedule, args.learning_rate, args.warmup_ratio, self.plan.steps)
        self.checkpoints = Checkpoints(args.output, ranks, self._settings())
        self.record = Record()

    @abstractmethod
    def step(self, step: int, read: bool) -> tuple[float, float] | None:
        """One optimizer step, counting from 0, and its tokens added to the record.

        Returns the loss and the norm of the gradient before clipping. None where `read` is false and reading
        them would wait for the device.
        """

    @abstractmethod
    def evaluate(self) -> float | None:
        """The mean loss over the labelled tokens of the evaluation split, None when there is none."""

    @abstractmethod
    def read_adapter(self) -> None:
        """Put the trained parameters into `adapter`."""

    @abstractmethod
    def write_adapter(self) -> None:
        """The other way round: train on from what is in `adapter`."""

    @abstractmethod
    def optimizer_state(self) -> dict[str, Any]:
        """What `restore_optimizer` needs to go on from here, on the CPU."""

    @abstractmethod
    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Go on from what `optimizer_state` returned."""

    def eval_sequences(self) -> list[np.ndarray]:
        """The evaluation split in micro-batches, always in the same order."""
        plan = Plan(len(self.eval_set), self.args.batch_size, 1, 1, 0, seed=0)
        return [plan.batches(step)[0] for step in range(plan.steps)]

    def run(self) -> None:
        """Train to the last step and write the adapter."""
        self._log_plan()
        self._resume()
        if self.record.eval_loss_start is None:
            self.record.eval_loss_start = self.evaluate()
        started = (time.perf_counter(), self.record.tokens)
        for step in range(self.record.steps, self.plan.steps):
            done = step + 1
            report = done % self.args.log_every == 0 or done == self.plan.steps
            keep = self.args.checkpoint_every > 0 and done % self.args.checkpoint_every == 0
            norm = self._advance(step, read=report or keep)
            if report:
                started = self._report(norm, started)
            if keep:
                self.checkpoints.save(done, self._state())
        self._write(self.evaluate())

    def _advance(self, step: int, read: bool) -> float:
        """Do one step; returns the norm of its gradient where that was read. StageFailed when the training diverged."""
        started = time.perf_counter()
        measured = self.step(step, read)
        self.record.steps = step + 1
        self.record.seconds += time.perf_counter() - started
        if measured is None:
            return math.nan
        self.record.loss, norm = measured
        if not all(map(math.isfinite, measured)):
            raise StageFailed(
                f"step {step + 1}: the loss is {self.record.loss} and the gradient norm {norm}: "
                "try a lower --learning-rate, or --dtype fp32"
            )
        return norm

    def _resume(self) -> None:
        state = self.checkpoints.latest()
        if state is None:
            return
        self.record = Record(**state["record"])
        self.adapter.weights.copy_(state["weights"])
        self.write_adapter()
        self.restore_optimizer(state["optimizer"])
        self._log(f"continuing from step {self.record.steps}")

    def _state(self) -> dict[str, Any]:
        self.read_adapter()
        return {
            "record": asdict(self.record),
            "weights": self.adapter.weights,
            "optimizer": self.optimizer_state(),
        }

    def _settings(self) -> str:
        """A digest of all that decides the result: a checkpoint is continued only where it is the same."""
        shards = [(self.args.shards / "model" / shard_name(rank)).stat() for rank in range(self.layout.tp_size)]
        content = {
            "config": (self.args.shards / "config.json").read_text(encoding="utf-8"),
            "layout": asdict(self.layout),
            "copies": self.copies,
            "shards": [(stat.st_size, stat.st_mtime_ns) for stat in shards],
            "data": self.train_set.digest(),
            "torch": torch.__version__,
        }
        return settings_digest(self.args, _PATHS, content)

    def _write(self, eval_loss: float | None) -> None:
        """Write the adapter once every rank has found it sound."""
        self.read_adapter()
        fault = self.ranks.first_message(self.adapter.fault())
        if fault is not None:
            raise StageFailed(fault)
        if self.copy == 0:
            self.adapter.save(self.args.output)
        self.ranks.barrier()
        if self.ranks.rank == 0:
            self.adapter.save_config(self.args.output)
            write_layout(self.args.output, self.layout)
            epochs = self.record.steps / self.plan.steps_per_epoch
            content = {**asdict(self.record), "eval_loss_end": eval_loss, "epochs": epochs}
            (self.args.output / "training.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
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
        parameters = adapter.replicated + (len(adapter.weights) - adapter.replicated) * self.layout.tp_size
        self._log(
            f"{plan.sequences} sequences, {plan.steps_per_epoch} steps an epoch, {plan.steps} steps in all, "
            f"{self.schedule.warmup_steps} of warm-up; {parameters} parameters to train, "
            f"{torch.get_num_threads()} threads a rank"
        )

    def _log(self, message: str) -> None:
        if self.ranks.rank == 0:
            events.log(message)
