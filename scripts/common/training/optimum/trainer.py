"""The training of train_optimum.py: our data, order, schedule, checkpoints and events around NeuronSFTTrainer.

This module works around optimum-neuron 0.4, which cannot resume or evaluate, shuffles with a seed of its own, does
not seed the ranks, and trains the whole model if peft_config is None. Needs optimum-neuron[training] and the Neuron
SDK.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from dataclasses import asdict, astuple, dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch_xla.core.xla_model as xm
from neuronx_distributed.parallel_layers.layers import ColumnParallelLinear
from neuronx_distributed.parallel_layers.parallel_state import get_data_parallel_rank, get_tensor_model_parallel_rank
from neuronx_distributed.parallel_layers.utils import move_all_tensor_to_cpu
from optimum.neuron import NeuronSFTConfig, NeuronSFTTrainer
from optimum.neuron.models.training import NeuronModelForCausalLM
from optimum.neuron.models.training.checkpointing import consolidate_model_parallel_checkpoints_to_unified_checkpoint
from optimum.neuron.utils.misc import is_precompilation
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback, set_seed

from common import events
from common.data.token_dataset import TokenSet
from common.files import read_json, sampled_digest
from common.formats.dtypes import DTYPES
from common.program import StageFailed
from common.training.checkpoint import Checkpoints, settings_digest
from common.training.interruption import Interruption
from common.training.optimizer import Plan, Schedule
from common.training.optimum.data import Collator, Stream
from common.training.parallel import Ranks

_ATTENTION = {"masked": "eager", "flash": "flash_attention_2"}
_PATHS = ("model", "data", "output")  # flags whose value does not affect the result


@dataclass
class Record:
    """The progress of a training: part of every checkpoint and, in the end, of training.json."""

    steps: int = 0
    loss: float = math.nan
    tokens: int = 0
    label_tokens: int = 0
    seconds: float = 0.0


def train(args: argparse.Namespace) -> None:
    """Train with the flags of train_optimum.py and write the consolidated adapter."""
    data = TokenSet(args.data, "train")
    data.check(read_json(args.model / "config.json")["vocab_size"])
    _warn_about_flash(args, data)
    settings = training_arguments(args, data.seq_len)  # joins the ranks
    rank, size, _ = astuple(Ranks.from_environment())
    ranks = XlaRanks(rank, size, dist.new_group(backend="gloo") if size > 1 else None)
    copies = settings.trn_config.data_parallel_size
    plan = Plan(len(data), args.batch_size, args.accumulate * copies, args.epochs, args.max_steps, args.seed)
    training = Training(args, data, plan, ranks)
    training.run(settings)


def training_arguments(args: argparse.Namespace, seq_len: int) -> NeuronSFTConfig:
    """The configuration of NeuronSFTTrainer for packed, ordered data; schedule and checkpoints are ours.

    Sequence parallelism is off: each rank sees only some of the tokens, and the library (0.4.5) does not sum the
    gradients of a replicated lora_A or lora_B over the ranks. ZeRO-1 keeps float32 copies of bf16 LoRA weights.
    """
    bf16 = args.dtype == "bf16"
    return NeuronSFTConfig(
        output_dir=str(args.output / "library"),
        per_device_train_batch_size=args.batch_size,
        gradient_accumulation_steps=args.accumulate,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        num_train_epochs=1,
        bf16=bf16,
        zero_1=bf16,
        optimizer_save_master_weights_in_ckpt=bf16,
        gradient_checkpointing=args.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": True},
        tensor_parallel_size=args.tp_size,
        disable_sequence_parallel=True,
        recompute_causal_mask=args.attention != "masked",
        use_xser=False,
        max_length=seq_len,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        label_names=["labels"],
        logging_steps=args.log_every,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        skip_cache_push=True,
        seed=args.seed,
    )


class Training:
    """A training on one rank."""

    def __init__(self, args: argparse.Namespace, data: TokenSet, plan: Plan, ranks: XlaRanks) -> None:
        self.args, self.data, self.plan, self.ranks = args, data, plan, ranks
        self.schedule = Schedule(args.schedule, args.learning_rate, args.warmup_ratio, plan.steps)
        self.checkpoints = Checkpoints(args.output, ranks, self._settings())
        self.interruption = Interruption(ranks)
        self.record = Record()

    def run(self, settings: NeuronSFTConfig) -> None:
        """Train from the newest checkpoint, or from the start, to the last step, and write the adapter."""
        state = self.checkpoints.latest()
        if state:
            self.record = Record(**state["record"])
            self.log(f"resuming from step {self.record.steps}")
        set_seed(self.args.seed)  # the same on every rank: replicated LoRA weights must start equal
        dtype = getattr(torch, DTYPES[self.args.dtype].torch)
        trainer = self._build_trainer(settings, dtype, state)
        parameters = lora_parameters(trainer.model)
        sum_gradients_in(dtype, trainer.model)
        draw_lora_a(parameters, self.args.seed, get_tensor_model_parallel_rank(), self.args.tp_size)
        self._log_plan(parameters)
        # For dropout: the ranks of one copy of the model must draw the same masks, different copies must not.
        xm.set_rng_state(self.args.seed + 1000 * self.record.steps + get_data_parallel_rank())
        with self.interruption:
            trainer.train()
        if is_precompilation():
            self.log("compiled; no adapter is written under neuron_parallel_compile")
            return
        self._write(trainer)

    def _build_trainer(self, settings: NeuronSFTConfig, dtype: torch.dtype, state: dict[str, Any] | None) -> _Trainer:
        """The library's trainer for the steps that are left, which restores the optimizer from `state`."""
        trainer = _Trainer(
            model=NeuronModelForCausalLM.from_pretrained(
                str(self.args.model),
                settings.trn_config,
                dtype=dtype,
                attn_implementation=_ATTENTION[self.args.attention],
                local_files_only=True,
            ),
            args=settings,
            data_collator=Collator(self.args.attention == "masked", dtype),
            train_dataset=Stream(self.data, self.plan, self.record.steps),
            processing_class=AutoTokenizer.from_pretrained(str(self.args.model), local_files_only=True),
            peft_config=lora_config(self.args),
            callbacks=[_Reporter(self, state)],
        )
        trainer.schedule, trainer.first_step = self.schedule, self.record.steps
        trainer.copies = settings.trn_config.data_parallel_size
        return trainer

    def _write(self, trainer: _Trainer) -> None:
        """Save the shards, consolidate them into OUTPUT/adapter on rank 0, and remove temporary files."""
        sharded = self.args.output / "library" / "trained"
        trainer.save_model(str(sharded))
        self.ranks.barrier()
        if self.ranks.rank == 0:
            adapter = self.args.output / "adapter"
            consolidate_model_parallel_checkpoints_to_unified_checkpoint(sharded, adapter)
            shutil.copyfile(sharded / "adapter_default" / "adapter_config.json", adapter / "adapter_config.json")
            content = {**asdict(self.record), "epochs": self.record.steps / self.plan.steps_per_epoch}
            (self.args.output / "training.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            shutil.rmtree(self.args.output / "library")
        self.checkpoints.remove()
        self.ranks.barrier()
        self.log(f"trained {self.record.steps} steps: loss {self.record.loss:.4f}")

    def _settings(self) -> str:
        """A digest of everything that affects the result: training only resumes from checkpoints with the same one."""
        weights = sorted(self.args.model.glob("*.safetensors"))
        content = {
            "config": (self.args.model / "config.json").read_text(encoding="utf-8"),
            "weights": [(path.name, sampled_digest(path)) for path in weights],
            "data": self.data.digest(),
            "ranks": self.ranks.size,
        }
        return settings_digest(self.args, _PATHS, content)

    def _log_plan(self, parameters: dict[str, torch.nn.Parameter]) -> None:
        plan, copies = self.plan, self.ranks.size // self.args.tp_size
        count = sum(p.numel() * (self.args.tp_size if _is_sharded(p) else 1) for p in parameters.values())
        self.log(
            f"{plan.sequences} sequences, {plan.steps_per_epoch} steps per epoch, {plan.steps} steps in total, "
            f"{self.schedule.warmup_steps} of warm-up; {count} trainable parameters, {copies} copies of the model"
        )

    def log(self, message: str) -> None:
        """Log a message once, on rank 0."""
        if self.ranks.rank == 0:
            events.log(message)


def lora_config(args: argparse.Namespace) -> LoraConfig:
    """The adapter's configuration for PEFT."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        use_rslora=args.rslora,
        target_modules=list(args.targets),
        bias="none",
    )


def lora_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """All trainable parameters. Raises StageFailed if there are none, or any that are not LoRA."""
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    others = [name for name in trainable if ".lora_" not in name]
    if not trainable or others:
        raise StageFailed(f"the library would train {others[0] if others else 'nothing'} instead of the adapter")
    return trainable


def sum_gradients_in(dtype: torch.dtype, model: torch.nn.Module) -> None:
    """Make column-parallel layers sum the gradients of their inputs over the ranks in `dtype`, that of the weights.

    neuronx-distributed (up to 0.18) sums a copy in reduce_dtype, float32 by default, but passes on the unsummed
    original: with bf16 weights and no sequence parallelism every gradient is wrong, more so in lower layers. Its layer
    for q, k and v passes on the sum, so it keeps the more precise float32.
    """
    for module in model.modules():
        if isinstance(module, ColumnParallelLinear):
            module.reduce_dtype = dtype


def draw_lora_a(parameters: dict[str, torch.nn.Parameter], seed: int, tp_rank: int, tp_size: int) -> None:
    """Initialize lora_A Kaiming-uniform with a = sqrt(5), PEFT's default: ±1 / sqrt(in features). lora_B stays zero.

    The full tensors are drawn, in train_torch.py's order, and then sharded, so that every tp_size starts from the same
    adapter. The library draws a row-parallel lora_A per rank: equal on all ranks, and sqrt(tp_size) times too large.
    """
    generator = torch.Generator().manual_seed(seed)
    for _, _, parameter in sorted(
        (*_layer_and_module(name), p) for name, p in parameters.items() if ".lora_A." in name
    ):
        rank, columns = parameter.shape
        full = torch.empty(rank, columns * (tp_size if _is_sharded(parameter) else 1))
        full.uniform_(-1, 1, generator=generator)
        own = full[:, tp_rank * columns : (tp_rank + 1) * columns] if _is_sharded(parameter) else full
        parameter.data.copy_(own / math.sqrt(full.shape[1]))


def _layer_and_module(name: str) -> tuple[int, str]:
    """Layer and module of "base_model.model.model.layers.3.mlp.down_proj.lora_A.default.weight"."""
    layer, _, module = name.partition(".layers.")[2].partition(".lora_")[0].partition(".")
    return int(layer), module


def _is_sharded(parameter: torch.nn.Parameter) -> bool:
    return getattr(parameter, "tensor_model_parallel", False)


class XlaRanks(Ranks):
    """All ranks of the training, through torch_xla: its process group does not support CPU tensors.

    `group` is one of the hosts, for their numbers.
    """

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            xm.rendezvous("train_optimum.barrier")

    def first_message(self, message: str | None) -> str | None:
        """The message of the lowest rank that has one."""
        if self.size == 1:
            return message
        messages = xm.mesh_reduce("train_optimum.first_message", message, list)
        return next((text for text in messages if text is not None), None)


class _Trainer(NeuronSFTTrainer):
    """NeuronSFTTrainer with our data order, token weights and learning rate."""

    schedule: Schedule
    first_step: int
    copies: int

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[Any, float]:
        """The micro-batches of a step, and the divisor of their summed loss before the mean over the copies.

        The library divides by the labelled tokens of its own copy: tokens of a copy with more of them would count less.
        """
        samples, _ = super().get_batch_samples(*args, **kwargs)
        return samples, self.train_dataset.tokens(self.first_step + self.state.global_step)[1] / self.copies

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of the whole training; `num_training_steps` only counts the remaining steps."""
        shape = Schedule(self.schedule.kind, 1.0, self.schedule.warmup_ratio, self.schedule.steps)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda done: shape.learning_rate(self.first_step + done)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler


class _Reporter(TrainerCallback):
    """Reports progress and metrics, saves checkpoints, and restores one."""

    def __init__(self, training: Training, state: dict[str, Any] | None) -> None:
        self.training, self.state = training, state
        self.stream = Stream(training.data, training.plan, 0)
        self.started = (0.0, 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Restore weights and optimizer from the checkpoint: both exist on the device now."""
        if self.state:
            with torch.no_grad():
                for name, parameter in lora_parameters(model).items():
                    parameter.copy_(self.state["weights"][name].to(parameter.device))
            kwargs["optimizer"].load_state_dict(self.state["optimizer"])
            self.state = None
        # The library's scheduler refers to the optimizer that ZeRO-1 wraps. If that has other parameter groups
        # (loaded ones, or copies made by newer versions of torch), it would not receive the learning rate.
        kwargs["lr_scheduler"].optimizer = kwargs["optimizer"].optimizer
        self.started = (time.perf_counter(), self.training.record.tokens)
        self.begun = time.perf_counter() - self.training.record.seconds

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Update the record, report progress, and save a checkpoint if one is due or a signal asks for one."""
        training, record = self.training, self.training.record
        tokens, label_tokens = self.stream.tokens(record.steps)
        record.steps, record.tokens = record.steps + 1, record.tokens + tokens
        record.label_tokens, record.seconds = record.label_tokens + label_tokens, time.perf_counter() - self.begun
        if training.ranks.rank == 0:
            events.progress(record.steps, training.plan.steps)
        if record.steps == training.plan.steps or is_precompilation():
            return
        every, interrupted = training.args.checkpoint_every, training.interruption.requested()
        if interrupted or every and record.steps % every == 0:
            weights = {name: parameter.detach() for name, parameter in lora_parameters(model).items()}
            content = {"weights": weights, "optimizer": kwargs["optimizer"].state_dict()}
            training.checkpoints.save(record.steps, {"record": asdict(record), **move_all_tensor_to_cpu(content)})
        if interrupted:
            training.interruption.leave(record.steps, training.plan.steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Report metrics since the last report. Raises StageFailed, on every rank, if the training diverged."""
        if "loss" not in logs:
            return
        training, record = self.training, self.training.record
        now, record.loss = time.perf_counter(), logs["loss"]
        if not math.isfinite(record.loss):
            raise StageFailed(f"step {record.steps}: the loss is {record.loss}: try a lower --learning-rate")
        values = {
            "loss": record.loss,
            "learning_rate": training.schedule.learning_rate(record.steps - 1),
            "tokens_per_second": (record.tokens - self.started[1]) / (now - self.started[0]),
        }
        if "grad_norm" in logs:
            values["grad_norm"] = logs["grad_norm"]
        self.started = (now, record.tokens)
        if training.ranks.rank == 0:
            events.metric(values, at=record.steps)


def _warn_about_flash(args: argparse.Namespace, data: TokenSet) -> None:
    if args.attention == "flash" and data.segment_ids.max() > 1 and Ranks.from_environment().rank == 0:
        events.log("--attention flash: packed examples attend to earlier ones in the same sequence", "warning")
