"""Fine-tune a sharded Llama with LoRA in plain PyTorch, tensor-parallel, on CPUs or NeuronCores.

Reads the shards of convert_checkpoint.py (one per rank) and the packed sequences of tokenize_dataset.py.
Writes the sharded adapter in neuronx-distributed's format (lora_adapter/), layout.json and training.json.
Restarted on an output folder with checkpoints of the same training, it resumes and reaches the same result.

    torchrun --nproc-per-node 2 scripts/train_torch.py --shards shards --data tokens --output adapter --epochs 3

With shards of tp_size 1, plain `python scripts/train_torch.py ...` works too. --device neuron needs the native
PyTorch of Neuron 2.33 or later (package torch-neuronx 2.14) and trains on one NeuronCore per process.
"""

from __future__ import annotations

import argparse
import sys

from common import program
from common.training import flags as training_flags


def run(args: argparse.Namespace) -> None:
    """Check the ranks and shards, which needs no torch, then train."""
    with program.report_from_rank_0():
        training_flags.check_ranks(args)
        training_flags.check_evaluation(args)
        if args.device == "neuron":
            from common.training.neuron.trainer import train
        else:
            from common.training.cpu.trainer import train
        train(args)


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    execution = training_flags.add_to(parser)
    execution.add_argument("--device", choices=("cpu", "neuron"), default="cpu", help="device to train on")
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
