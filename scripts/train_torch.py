"""Fine-tune a sharded Llama with LoRA in plain PyTorch, tensor-parallel: on CPU ranks, or on NeuronCores.

Reads the shards that convert_checkpoint.py wrote (one a rank) and the packed sequences that tokenize_dataset.py
wrote. Writes the sharded adapter as neuronx-distributed saves it (lora_adapter/), layout.json and training.json.
Started again on an output folder with checkpoints of the same training, it continues to the same result.

    torchrun --nproc-per-node 2 scripts/train_torch.py --shards shards --data tokens --output adapter --epochs 3

With shards of tp_size 1 plain `python scripts/train_torch.py ...` does as well. --device neuron needs the native
PyTorch of Neuron 2.33 or later (package torch-neuronx 2.14), and trains on one NeuronCore a process.
"""

from __future__ import annotations

import argparse
import sys

from common import program
from common.training import flags as training_flags


def run(args: argparse.Namespace) -> None:
    """Check what can be checked without torch, then train."""
    with program.report_from_rank_0():
        training_flags.check_ranks(args)
        if args.device == "neuron":
            from common.training.neuron.trainer import train
        else:
            from common.training.cpu.trainer import train
        train(args)


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    execution = training_flags.add_to(parser)
    execution.add_argument("--device", choices=("cpu", "neuron"), default="cpu", help="what to compute on")
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
