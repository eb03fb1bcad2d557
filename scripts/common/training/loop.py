"""The training loop of all devices: steps, metrics, checkpoints and the result. Needs torch."""

from __future__ import annotations

import argparse
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from common import events
from common.data.token_dataset import TokenSet
from common.formats import model_config, torch_file
from common.formats.peft_folder import LoraConfig
from common.program import BadInput, StageFailed
from common.shards.layout import read_layout, read_shape, shard_name, write_layout
from common.training import early_stopping, initial_adapter
from common.training.checkpoint import Checkpoints, settings_digest
from common.training.interruption import Interruption
from common.training.lora import Adapter
from common.training.optimizer import Plan, Schedule
from common.training.parallel import Ranks

_PATHS = ("shards", "data", "output", "model_code", "init_adapter")  # flags whose value does not affect the result
T = TypeVar("T")


@dataclass
class Record:
    """The progress of a training: part of every checkpoint and, in the end, of training.json."""

    steps: int = 0
    loss: float = math.nan
    eval_loss_start: float | None = None
    tokens: int = 0
    label_tokens: int = 0
    seconds: float = 0.0
    evaluations: list[list[float]] = field(default_factory=list)  # [step, loss], without the one before the first step


def build_on_all_ranks(ranks: Ranks, build: Callable[[], T]) -> T:
    """The result of `build` on this rank. A BadInput on any rank is raised on all of them."""
    result, message = None, None
    try:
        result = build()
    except BadInput as error:
        message = str(error)
    message = ranks.first_message(message)
    if result is None or message is not None:
        raise BadInput(str(message))
    return result


class Training(ABC):
    """A training on one rank, which is in data-parallel copy `copy` of `copies` copies of the model.

    `adapter` contains this rank's initial parameters and, after `read_adapter`, the trained ones.
    """

    def __init__(self, args: argparse.Namespace, ranks: Ranks, tp_rank: int, copies: int = 1, copy: int = 0) -> None:
        self.args, self.ranks, self.copies, self.copy = args, ranks, copies, copy
        self.shape, self.layout = read_shape(args.shards), read_layout(args.shards)
        self.train_set, self.eval_set = TokenSet(args.data, "train"), TokenSet(args.data, "eval")
        self.train_set.check(self.shape.vocab_size)
        self._check_window()
        if len(self.eval_set):
            self.eval_set.check(self.shape.vocab_size)
        elif args.eval_every:
            raise BadInput(f"--eval-every: {args.data} has no sequences for evaluation")
        lora = LoraConfig(args.rank, args.alpha, args.dropout, use_rslora=args.rslora, targets=tuple(args.targets))
        self.initial = initial_adapter.read(args, self.shape)
        self.adapter = Adapter(self.shape, self.layout, tp_rank, lora, args.seed, self.initial)
        micro_steps = args.accumulate * copies
        self.plan = Plan(len(self.train_set), args.batch_size, micro_steps, args.epochs, args.max_steps, args.seed)
        self.schedule = Schedule(args.schedule, args.learning_rate, args.warmup_ratio, self.plan.steps)
        self.checkpoints = Checkpoints(args.output, ranks, self._settings())
        self.interruption = Interruption(ranks)
        self.record, self._saved_step = Record(), 0
        self._best_weights: torch.Tensor | None = None

    @abstractmethod
    def step(self, step: int, read: bool) -> tuple[float, float] | None:
        """Do optimizer step `step` (from 0) and add its tokens to the record.

        Returns the loss and the norm of the gradient before clipping, or None if `read` is false and reading them
        would wait for the device.
        """

    @abstractmethod
    def evaluate(self) -> float | None:
        """The mean loss over the labelled tokens of the evaluation split; None if the split is empty.

        Calls `heed_interruption` before each micro-batch.
        """

    @abstractmethod
    def read_adapter(self) -> None:
        """Copy the trained parameters from the device to `adapter`."""

    @abstractmethod
    def write_adapter(self) -> None:
        """Copy the parameters from `adapter` to the device, to train from them."""

    @abstractmethod
    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state on the CPU, for `restore_optimizer`."""

    @abstractmethod
    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Resume from a state that `optimizer_state` returned."""

    def eval_sequences(self) -> list[np.ndarray]:
        """Sequence numbers of the evaluation split in micro-batches, always in the same order."""
        plan = Plan(len(self.eval_set), self.args.batch_size, 1, 1, 0, seed=0)
        return [plan.batches(step)[0] for step in range(plan.steps)]

    def run(self) -> None:
        """Train from the newest checkpoint, or from the start, to the last step and write the adapter.

        Raises Interrupted, with a checkpoint of the last step that was done, if a signal asks any rank to end.
        """
        self._log_plan()
        self._resume()
        with self.interruption:
            self._train()
        self._write()

    def heed_interruption(self) -> None:
        """Save a checkpoint and raise Interrupted if a rank was signalled; to be called on all ranks."""
        if self.interruption.requested():
            self._save()
            self.interruption.leave(self.record.steps, self.plan.steps)

    def _train(self) -> None:
        """Do the steps that are left, and the evaluations that are due."""
        if self.record.eval_loss_start is None:
            self.record.eval_loss_start = self.evaluate()
        self._reported = (time.perf_counter(), self.record.tokens)
        while True:
            if self._evaluation_is_due():
                self._evaluate()
            if self.record.steps == self.plan.steps or self._stops_early():
                return
            self._next_step()

    def _next_step(self) -> None:
        done = self.record.steps + 1
        report = done % self.args.log_every == 0 or done == self.plan.steps
        keep = self.args.checkpoint_every > 0 and done % self.args.checkpoint_every == 0
        norm = self._advance(done - 1, read=report or keep)
        if report:
            self._report(norm)
        if keep:
            self._save()
        self.heed_interruption()

    def _evaluation_is_due(self) -> bool:
        """Every `eval_every` steps and after the last one, unless that was done before an interruption."""
        steps, every, done = self.record.steps, self.args.eval_every, self.record.evaluations
        due = steps == self.plan.steps or every > 0 and steps > 0 and steps % every == 0
        return due and len(self.eval_set) > 0 and (not done or done[-1][0] < steps)

    def _evaluate(self) -> None:
        """Measure the loss on the evaluation split, and remember the adapter if it is the best to keep."""
        started, step = time.perf_counter(), self.record.steps
        loss = self.evaluate()
        assert loss is not None
        self.record.evaluations.append([step, loss])
        is_best = early_stopping.best(self.record.evaluations)[0] == step
        if self.args.keep == "best" and is_best:
            self.read_adapter()
            self._best_weights = self.adapter.weights.detach().clone()
        if self.ranks.rank == 0:
            events.metric({"eval_loss": loss}, at=step)
        if self.args.eval_every:
            self._log(f"step {step}: held-out loss {loss:.4f}{', the lowest so far' if is_best else ''}")
        self._reported = (self._reported[0] + time.perf_counter() - started, self._reported[1])

    def _stops_early(self) -> bool:
        patience, threshold = self.args.early_stopping_patience, self.args.early_stopping_threshold
        if not 0 < patience <= early_stopping.without_gain(self.record.evaluations, threshold):
            return False
        self._log(
            f"stopping early after step {self.record.steps} of {self.plan.steps}: in {patience} evaluation(s) the "
            f"held-out loss did not fall by more than {threshold:g}"
        )
        return True

    def _save(self) -> None:
        """Save a checkpoint, unless there is one of this step."""
        if self.record.steps > self._saved_step:
            self.checkpoints.save(self.record.steps, self._state())
            self._saved_step = self.record.steps

    def _advance(self, step: int, read: bool) -> float:
        """Do one step; returns the norm of its gradient, NaN if not read. Raises StageFailed if training diverged."""
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
        self._saved_step = self.record.steps
        self._best_weights = state["best_weights"]
        self.adapter.weights.copy_(state["weights"])
        self.write_adapter()
        self.restore_optimizer(state["optimizer"])
        self._log(f"resuming from step {self.record.steps}")

    def _state(self) -> dict[str, Any]:
        self.read_adapter()
        return {
            "record": asdict(self.record),
            "weights": self.adapter.weights,
            "best_weights": self._best_weights,
            "optimizer": self.optimizer_state(),
        }

    def _check_window(self) -> None:
        """Raise BadInput if sequences are longer than the model's attention window: attention here has none."""
        window, length = model_config.attention_window(model_config.read(self.args.shards)), self.train_set.seq_len
        if window is not None and length > window:
            raise BadInput(
                f"{self.args.shards / 'config.json'}: sliding_window {window} is shorter than the {length} tokens of a "
                f"sequence in {self.args.data}: tokenize with sequences of at most {window}"
            )

    def _settings(self) -> str:
        """A digest of everything that affects the result: training only resumes from checkpoints with the same one."""
        shards = [self.args.shards / "model" / shard_name(rank) for rank in range(self.layout.tp_size)]
        content = {
            "config": (self.args.shards / "config.json").read_text(encoding="utf-8"),
            "layout": asdict(self.layout),
            "copies": self.copies,
            "shards": [torch_file.checksums(path) for path in shards],
            "data": self.train_set.digest(),
            "initial": self.initial and self.initial.digest(),
            "torch": torch.__version__,
        }
        return settings_digest(self.args, _PATHS, content)

    def _write(self) -> None:
        """Write the adapter to keep. Raises StageFailed on all ranks if one of them finds a fault in it."""
        if self._best_weights is None:
            self.read_adapter()
        else:
            self.adapter.weights.copy_(self._best_weights)
        fault = self.ranks.first_message(self.adapter.fault())
        if fault is not None:
            raise StageFailed(fault)
        if self.copy == 0:
            self.adapter.save(self.args.output)
        self.ranks.barrier()
        if self.ranks.rank == 0:
            self.adapter.save_config(self.args.output)
            write_layout(self.args.output, self.layout)
            content = {**asdict(self.record), **self._outcome()}
            (self.args.output / "training.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        self.checkpoints.remove()
        self._log(f"trained {self.record.steps} steps{self._in_words()}")

    def _in_words(self) -> str:
        """The held-out loss before and after the training; empty if it was not measured."""
        before, after = self.record.eval_loss_start, self._outcome()["eval_loss_end"]
        if before is None or after is None:
            return ""
        kept = self._outcome().get("best_step")
        suffix = "" if kept is None else f" at step {kept}, whose adapter is kept"
        return f": eval loss {before:.4g} -> {after:.4g}{suffix}"

    def _outcome(self) -> dict[str, float | None]:
        """What training.json says beside the record; `eval_loss_end` is the loss of the adapter that is written."""
        epochs, evaluations = self.record.steps / self.plan.steps_per_epoch, self.record.evaluations
        if self._best_weights is not None:
            step, loss = early_stopping.best(evaluations)
            return {"eval_loss_end": loss, "epochs": epochs, "best_step": int(step)}
        return {"eval_loss_end": evaluations[-1][1] if evaluations else None, "epochs": epochs}

    def _report(self, norm: float) -> None:
        """Report the last step's metrics, and the speed since the last report without evaluations."""
        now, record, since = time.perf_counter(), self.record, self._reported
        self._reported = (now, record.tokens)
        values = {
            "loss": record.loss,
            "learning_rate": self.schedule.learning_rate(record.steps - 1),
            "grad_norm": norm,
            "tokens_per_second": (record.tokens - since[1]) / (now - since[0]),
        }
        if self.ranks.rank == 0:
            events.metric(values, at=record.steps)
            events.progress(record.steps, self.plan.steps)

    def _log_plan(self) -> None:
        plan, adapter = self.plan, self.adapter
        parameters = adapter.replicated + (len(adapter.weights) - adapter.replicated) * self.layout.tp_size
        threads = torch.get_num_threads()
        self._log(
            f"{plan.sequences} sequences, {plan.steps_per_epoch} steps per epoch, {plan.steps} steps in total, "
            f"{self.schedule.warmup_steps} of warm-up; {parameters} trainable parameters, "
            f"{threads} thread{'s' * (threads > 1)} per rank"
        )

    def _log(self, message: str) -> None:
        if self.ranks.rank == 0:
            events.log(message)
