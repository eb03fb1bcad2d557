"""Fine-tune with LoRA on Trainium through Hugging Face's optimum-neuron: tensor-parallel and data-parallel.

Reads the model folder as it is (the library shards it, so no conversion is needed) and the packed sequences of
tokenize_dataset.py, so the trained prompt is the one that is evaluated and served. Writes OUTPUT/adapter, the
consolidated adapter as a PEFT folder, and training.json. Restarted on an output folder with checkpoints of the same
training, it resumes from the newest.

    torchrun --nproc-per-node 32 scripts/train_optimum.py --model llama/ --data tokens/ --tp-size 8 \\
        --output trained/ --batch-size 8 --max-steps 250 --learning-rate 1e-5 --rank 8 --alpha 64 --rslora

32 processes with --tp-size 8 are 4 data-parallel copies of the model. Needs an environment with
optimum-neuron[training] 0.4 and the Neuron SDK. Under neuron_parallel_compile it compiles and writes no adapter.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from common import program
from common.formats import model_config
from common.program import BadInput
from common.training import flags as training_flags

DEFAULT_THETA = 10000.0  # if config.json has no rope_theta
LIBRARY = "optimum-neuron[training]==0.4.5"
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # in the library each has one layer and one lora_A


def run(args: argparse.Namespace) -> None:
    """Check everything that needs no library, then train."""
    with program.report_from_rank_0():
        check(args, int(os.environ.get("WORLD_SIZE", "1")))
        program.make_compile_cache_absolute()
        from common.training.optimum.trainer import train

        train(args)


def check(args: argparse.Namespace, world_size: int) -> None:
    """Raise BadInput for settings that the library would reject, or silently misread, minutes later."""
    if args.eval_every:
        raise BadInput("--eval-every: optimum-neuron 0.4 cannot evaluate while it trains; leave it out")
    training_flags.check_evaluation(args)
    path = args.model / "config.json"
    config = model_config.read(args.model, trainer="optimum")
    _check_rope(path, config)
    if world_size % args.tp_size:
        raise BadInput(
            f"--tp-size {args.tp_size} does not divide the {world_size} processes of this run: "
            f"start it with torchrun --nproc-per-node {args.tp_size} or a multiple"
        )
    for key in ("num_attention_heads", "intermediate_size", "vocab_size"):
        if config.get(key, 0) % args.tp_size:
            raise BadInput(f"--tp-size {args.tp_size} does not divide {key} {config[key]} of {path}")
    _check_targets(args, config.get("num_key_value_heads", args.tp_size))
    if importlib.util.find_spec("optimum") is None or importlib.util.find_spec("optimum.neuron") is None:
        raise BadInput(
            f"{sys.executable}: has no optimum-neuron: pip install '{LIBRARY}', or set sdk.python to one that has it"
        )


def _check_rope(path: Path, config: dict[str, Any]) -> None:
    """Raise BadInput if only rope_parameters holds the rotary settings: transformers 4 would ignore them silently."""
    rope = config.get("rope_parameters") or {}
    theta, scaled = rope.get("rope_theta", DEFAULT_THETA), rope.get("rope_type", "default") != "default"
    if rope and (theta != config.get("rope_theta", DEFAULT_THETA) or scaled and not config.get("rope_scaling")):
        raise BadInput(
            f"{path}: optimum-neuron 0.4 does not read rope_parameters: add rope_theta {theta}"
            + (" and rope_scaling with its other values" if scaled else "")
        )


def _check_targets(args: argparse.Namespace, key_value_heads: int) -> None:
    """Fused layers must be targeted together; q, k and v are fused if K/V heads are replicated."""
    for names in FUSED if key_value_heads % args.tp_size else FUSED[1:]:
        missing = [name for name in names if name not in args.targets]
        if missing and len(missing) < len(names):
            raise BadInput(f"--targets: {', '.join(names)} are one fused layer: add {', '.join(missing)}, or drop all")


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    parser.add_argument("--model", type=program.existing_folder, required=True, help="Hugging Face model folder")
    training_flags.add_data_and_output(parser)
    execution = training_flags.add_settings(parser)
    execution.add_argument("--tp-size", type=program.at_least(1), default=8, help="tensor-parallel ranks per copy")
    execution.add_argument(
        "--attention", choices=("masked", "flash"), default="masked",
        help="masked: packed examples do not attend to each other; flash: kernel with less memory, but they do",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
