"""Fine-tune a sharded Llama with LoRA on Trainium, with the neuronx-distributed (NxD) that comes with the AMI.

Reads the shards of convert_checkpoint.py, the sequences of tokenize_dataset.py and the modelling code of
fetch_nxd_model.py; needs no network. Writes the same files as train_torch.py: the sharded adapter (lora_adapter/),
layout.json and training.json. The same seed gives the same order of data and the same initial lora_A as there.
Restarted on an output folder with checkpoints of the same training, it resumes.

Packed examples do not attend to each other: NxD's own attention is causal over the whole sequence, here it is masked
to stay within an example. So --pack and --no-pack of tokenize_dataset.py give the same training; packed is faster.

    torchrun --nproc-per-node 32 scripts/train_nxd.py --shards shards --data tokens --model-code modelling \\
        --output adapter --dtype bf16 --sequence-parallel --selective-checkpointing

With a multiple of the shards' tp_size processes, the model is replicated and each step's batch is split: a step
consumes batch-size x accumulate x copies sequences. On several nodes, start it on each with torchrun's --nnodes,
--node-rank and --master-addr, or with the environment variables PET_NODE_RANK and PET_MASTER_ADDR. The nodes need a
shared file system.

Under neuron_parallel_compile (compile_nxd.py) it runs a few steps, so that their programs are compiled, and writes
nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys

from common import program
from common.program import BadInput
from common.shards.layout import read_layout, read_shape
from common.training import flags as training_flags

ROOT_PORT = 48620  # of the Neuron runtime's collectives, on the first node


def run(args: argparse.Namespace) -> None:
    """Check everything that a single rank can check, then train."""
    with program.report_from_rank_0():
        check(args)
        host = os.environ.get("MASTER_ADDR", "localhost")
        os.environ.setdefault("NEURON_RT_ROOT_COMM_ID", f"{host}:{ROOT_PORT}")
        program.make_compile_cache_absolute()
        from common.training.nxd.trainer import train

        train(args)


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    execution = training_flags.add_to(parser)
    parser.add_argument(
        "--model-code", type=program.existing_folder, required=True, help="folder of fetch_nxd_model.py"
    )
    switches = {
        "--selective-checkpointing": "recompute only attention and activation functions in the backward pass",
        "--sequence-parallel": "split the activations between layers over the tensor-parallel ranks",
        "--zero1": "split the optimizer state over the copies of the model",
    }
    for name, text in switches.items():
        execution.add_argument(name, action=argparse.BooleanOptionalAction, default=False, help=text)
    return parser


def check(args: argparse.Namespace) -> None:
    """Raise BadInput for incompatible flags or files, or an environment without NxD."""
    from common.data.token_dataset import TokenSet  # needs torch, which --help does not

    training_flags.check_ranks(args, copies=True)
    training_flags.check_evaluation(args)
    _check_model(args)
    if args.gradient_checkpointing and args.selective_checkpointing:
        raise BadInput("--gradient-checkpointing recomputes whole layers: omit --selective-checkpointing")
    tp_size, seq_len = read_layout(args.shards).tp_size, TokenSet(args.data, "train").seq_len
    if args.sequence_parallel and seq_len % tp_size:
        raise BadInput(f"--sequence-parallel: the {tp_size} ranks do not divide the sequence length {seq_len}")
    if importlib.util.find_spec("neuronx_distributed") is None:
        raise BadInput(
            f"{sys.executable}: neuronx_distributed is not installed: use the Python of the AMI's training "
            "environment, such as /opt/aws_neuronx_venv_pytorch_2_8_nxd_training/bin/python"
        )


def _check_model(args: argparse.Namespace) -> None:
    if not (args.model_code / "modeling_llama_nxd.py").is_file():
        raise BadInput(f"--model-code {args.model_code}: no modeling_llama_nxd.py; run fetch_nxd_model.py first")
    shape = read_shape(args.shards)
    if shape.head_dim * shape.num_attention_heads != shape.hidden_size:
        raise BadInput(
            f"{args.shards / 'config.json'}: head_dim {shape.head_dim} is not hidden_size / num_attention_heads, "
            "as NxD's Llama requires: train it with train_torch.py"
        )


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
