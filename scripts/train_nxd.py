"""Fine-tune a sharded Llama with LoRA on Trainium, with neuronx-distributed (NxD) as it is on the AMI.

Reads the shards that convert_checkpoint.py wrote, the sequences that tokenize_dataset.py wrote and the modelling
code that fetch_nxd_model.py fetched; needs no network. Writes what train_torch.py writes: the sharded adapter
(lora_adapter/), layout.json and training.json. From the same seed it takes the same data in the same order and
starts from the same lora_A. Started again on an output folder with checkpoints of the same training, it continues.

Packed examples do not see each other: NxD's own attention is causal over the whole sequence, here a mask keeps it
within an example. So --pack and --no-pack of tokenize_dataset.py train the same, packed faster.

    torchrun --nproc-per-node 32 scripts/train_nxd.py --shards shards --data tokens --model-code modelling \\
        --output adapter --dtype bf16 --sequence-parallel --selective-checkpointing

More processes than the shards' tp_size are copies of the model that share each step's batch: a step takes
batch-size x accumulate x copies sequences. On several nodes start it on each, with torchrun's --nnodes, --node-rank
and --master-addr, or the environment variables PET_NODE_RANK and PET_MASTER_ADDR; all need the same file system.

Under neuron_parallel_compile (compile_nxd.py) it goes through a few steps, so that their programs are compiled,
and writes nothing.
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

ROOT_PORT = 48620  # of the Neuron runtime's collectives; the address is that of the first node


def run(args: argparse.Namespace) -> None:
    """Check what can be checked alone, then train."""
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
    execution.add_argument(
        "--selective-checkpointing",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="as --gradient-checkpointing, of attention and activation alone",
    )
    execution.add_argument(
        "--sequence-parallel",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="cut activations between the layers over the ranks",
    )
    execution.add_argument(
        "--zero1", action=argparse.BooleanOptionalAction, default=False, help="cut the optimizer's state over copies"
    )
    return parser


def check(args: argparse.Namespace) -> None:
    """BadInput for flags, files and an environment that cannot train together."""
    from common.data.token_dataset import TokenSet  # needs torch, which --help does not

    training_flags.check_ranks(args, copies=True)
    _check_model(args)
    if args.gradient_checkpointing and args.selective_checkpointing:
        raise BadInput("--gradient-checkpointing recomputes whole layers: leave --selective-checkpointing out")
    tp_size, seq_len = read_layout(args.shards).tp_size, TokenSet(args.data, "train").seq_len
    if args.sequence_parallel and seq_len % tp_size:
        raise BadInput(f"--sequence-parallel: the {tp_size} ranks do not divide the sequences of {seq_len} tokens")
    if importlib.util.find_spec("neuronx_distributed") is None:
        raise BadInput(
            f"{sys.executable}: has no package neuronx_distributed: use the Python of the AMI's training environment, "
            "such as /opt/aws_neuronx_venv_pytorch_2_8_nxd_training/bin/python"
        )


def _check_model(args: argparse.Namespace) -> None:
    if not (args.model_code / "modeling_llama_nxd.py").is_file():
        raise BadInput(f"--model-code {args.model_code}: no modeling_llama_nxd.py; make it with fetch_nxd_model.py")
    shape = read_shape(args.shards)
    if shape.head_dim * shape.num_attention_heads != shape.hidden_size:
        raise BadInput(
            f"{args.shards / 'config.json'}: head_dim {shape.head_dim} is not hidden_size / num_attention_heads, "
            "and NxD's Llama knows no other: train it with train_torch.py"
        )


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
