"""The flags that all trainers share, and their checks that need no torch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from common import program
from common.formats.dtypes import DTYPES
from common.program import BadInput
from common.shards.layout import TARGETS, read_layout, shard_name


def add_to(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add all flags for training from shards; returns the group "execution", to which a trainer adds its own."""
    parser.add_argument("--shards", type=program.existing_folder, required=True, help="folder of convert_checkpoint.py")
    parser.add_argument(
        "--init-adapter", type=program.existing_folder, help="PEFT folder of an adapter to continue; default: a new one"
    )
    add_data_and_output(parser)
    return add_settings(parser)


def add_data_and_output(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the tokens and the output folder."""
    parser.add_argument("--data", type=program.existing_folder, required=True, help="folder of tokenize_dataset.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for the adapter, and checkpoints meanwhile")


def add_settings(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add all flags except files and folders; returns the group "execution"."""
    _add_schedule(parser.add_argument_group("schedule"))
    _add_evaluation(parser.add_argument_group("evaluation"))
    _add_lora(parser.add_argument_group("LoRA"))
    execution = parser.add_argument_group("execution")
    _add_execution(execution)
    return execution


def check_evaluation(args: argparse.Namespace) -> None:
    """Raise BadInput if flags are set that have no effect without --eval-every."""
    if (args.keep == "best" or args.early_stopping_patience) and not args.eval_every:
        raise BadInput("--keep best and --early-stopping-patience need --eval-every, such as --eval-every 50")


def check_ranks(args: argparse.Namespace, copies: bool = False) -> None:
    """Raise BadInput unless the world size is the tp_size of --shards or, with `copies`, a multiple of it."""
    tp_size, world_size = read_layout(args.shards).tp_size, int(os.environ.get("WORLD_SIZE", "1"))
    if world_size % tp_size if copies else world_size != tp_size:
        raise BadInput(
            f"--shards {args.shards} has tp_size {tp_size}, but this run has {world_size} processes: "
            f"start it with torchrun --nproc-per-node {tp_size}{' or a multiple' if copies else ''}"
        )
    for path in (args.shards / "model" / shard_name(rank) for rank in range(tp_size)):
        if not path.is_file():
            raise BadInput(f"--shards: {path} is missing; convert the checkpoint again")


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--epochs", type=program.at_least(1), default=1, help="passes over the data")
    group.add_argument("--max-steps", type=program.at_least(0), default=0, help="number of steps; 0: use --epochs")
    group.add_argument("--batch-size", type=program.at_least(1), default=4, help="sequences per micro-batch")
    group.add_argument("--accumulate", type=program.at_least(1), default=1, help="micro-batches per optimizer step")
    group.add_argument("--learning-rate", type=program.at_least(0, float), default=2e-4, help="peak, after warm-up")
    group.add_argument("--warmup-ratio", type=_fraction, default=0.03, help="fraction of all steps")
    group.add_argument("--schedule", choices=("linear", "cosine", "constant"), default="linear", help="after warm-up")
    group.add_argument("--weight-decay", type=program.at_least(0, float), default=0.0, help="weight decay of AdamW")
    group.add_argument("--max-grad-norm", type=program.at_least(0, float), default=1.0, help="clip to this; 0: never")


def _add_evaluation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--eval-every",
        type=program.at_least(0),
        default=0,
        help="steps between evaluations; 0: only before the first and after the last step",
    )
    group.add_argument("--keep", choices=("last", "best"), default="last", help="best: of the lowest held-out loss")
    group.add_argument(
        "--early-stopping-patience",
        type=program.at_least(0),
        default=0,
        help="stop after this many evaluations without gain; 0: never",
    )
    group.add_argument(
        "--early-stopping-threshold",
        type=program.at_least(0, float),
        default=0.0,
        help="a gain is a fall of the held-out loss by more than this",
    )


def _add_lora(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--rank", type=program.at_least(1), default=16, help="rank r")
    group.add_argument("--alpha", type=program.at_least(0, float), default=32, help="the scale is alpha / rank")
    group.add_argument("--dropout", type=_fraction, default=0.0, help="dropout rate of lora_A's input")
    group.add_argument(
        "--rslora", action=argparse.BooleanOptionalAction, default=False, help="use the scale alpha / sqrt(rank)"
    )
    group.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="adapted projections")


def _add_execution(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--dtype", choices=tuple(DTYPES), default="fp32", help="data type of weights and activations")
    group.add_argument(
        "--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=False, help="less memory, slower"
    )
    group.add_argument(
        "--checkpoint-every",
        type=program.at_least(0),
        default=0,
        help="steps between checkpoints; 0: only when interrupted",
    )
    group.add_argument("--seed", type=program.at_least(0), default=0, help="seed of lora_A, data order and dropout")
    group.add_argument("--log-every", type=program.at_least(1), default=1, help="steps between metrics")


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value
