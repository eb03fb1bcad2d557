"""Peak memory of train_torch.py beside what runner/plan/checks/memory.py expects of it, at a few settings.

Makes random Llamas and full sequences of one example each. Every setting trains two steps in a process of its
own; its peak resident memory, less that of a training of a model of almost no size, is compared with
the estimate. Prints a line a setting; ends with 1 where they differ by more than the factor of --within.

Example: python tests/bench/memory.py --scratch /tmp
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from runner.compose.schema import Architecture, Dataset, Lora, Recipe, Train  # noqa: E402
from runner.plan.checks import memory  # noqa: E402

SIZES = {
    "none": Architecture(32, 64, 1, 2, 2, 64, 2048),  # its training takes what the program and its kernels do
    "tiny": Architecture(256, 704, 6, 8, 4, 1536, 2048),
    "smollm": Architecture(576, 1536, 10, 9, 3, 49152, 2048),  # the widths of SmolLM2-135M, a third of its layers
}
SETTINGS = [  # size, batch_size, seq_len, gradient_checkpointing, dtype, rank
    ("tiny", 4, 256, False, "fp32", 16),
    ("tiny", 16, 256, False, "fp32", 16),
    ("tiny", 4, 1024, False, "fp32", 16),
    ("tiny", 16, 512, True, "fp32", 16),
    ("smollm", 2, 512, False, "fp32", 16),
    ("smollm", 4, 512, False, "fp32", 256),
    ("smollm", 4, 512, True, "fp32", 16),
    ("tiny", 4, 256, False, "bf16", 16),
]
STEPS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="where to make the files")
    parser.add_argument("--within", type=float, default=1.5, help="factor that estimate and peak may differ by")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), metavar="N", help="only the first N")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        program = {dtype: trained(Path(folder), "none", 1, 32, False, dtype, 16) for dtype in ("fp32", "bf16")}
        print(f"a training of almost no size: {', '.join(f'{program[d] / 2**20:.0f} MiB in {d}' for d in program)}")
        factors = [compare(Path(folder), program, *setting) for setting in SETTINGS[: args.settings]]
    sys.exit(not all(1 / args.within <= factor <= args.within for factor in factors))


def compare(
    folder: Path, program: dict[str, int], size: str, batch: int, seq_len: int, again: bool, dtype: str, rank: int
) -> float:
    """Estimate over measured peak of one setting, without what the `program` takes."""
    measured = trained(folder, size, batch, seq_len, again, dtype, rank) - program[dtype]
    train = Train(batch_size=batch, gradient_checkpointing=again, dtype=dtype, lora=Lora(rank=rank))
    expected = memory.estimate(Recipe(dataset=Dataset(seq_len=seq_len), train=train), SIZES[size], 1).core
    print(
        f"{size:7} batch {batch:2} x {seq_len:4} {'checkpointing' if again else '':13} {dtype} rank {rank:3}: "
        f"measured {measured / 2**20:5.0f} MiB, expected {expected / 2**20:5.0f} MiB, ratio {expected / measured:.2f}",
        flush=True,
    )
    return expected / measured


def trained(folder: Path, size: str, batch: int, seq_len: int, again: bool, dtype: str, rank: int) -> int:
    """Peak resident memory of a training, bytes."""
    shards = make_shards(folder / f"{size}-{dtype}", SIZES[size], dtype)
    tokens = make_tokens(folder / f"tokens-{size}-{batch}-{seq_len}", SIZES[size].vocab_size, batch * STEPS, seq_len)
    flags = ["--shards", shards, "--data", tokens, "--output", folder / "out", "--batch-size", batch, "--rank", rank]
    flags += ["--dtype", dtype, "--gradient-checkpointing" if again else "--no-gradient-checkpointing"]
    return peak([sys.executable, ROOT / "scripts" / "train_torch.py", *flags])


def peak(command: list) -> int:
    """Peak resident memory of a command that must succeed, bytes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    process = subprocess.Popen([str(word) for word in command], env=environment, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * 1024


def make_shards(folder: Path, a: Architecture, dtype: str) -> Path:
    if not folder.is_dir():
        # Elsewhere: what is measured begins with the memory of this process, which does not import torch.
        process = multiprocessing.Process(target=make_model, args=(folder / "model", a, dtype))
        process.start()
        process.join()
        convert = [sys.executable, ROOT / "scripts" / "convert_checkpoint.py", "--input", folder / "model"]
        subprocess.run([*convert, "--output", folder / "shards", "--tp-size", "1", "--layout", "trn2"], check=True,
                       stderr=subprocess.DEVNULL)  # fmt: skip
    return folder / "shards"


def make_model(folder: Path, a: Architecture, dtype: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    config = {name: getattr(a, name) for name in (*names, "vocab_size", "max_position_embeddings")}
    model = LlamaForCausalLM(LlamaConfig(**config, tie_word_embeddings=True))
    model.to(torch.bfloat16 if dtype == "bf16" else torch.float32).save_pretrained(folder)


def make_tokens(folder: Path, vocabulary: int, sequences: int, seq_len: int) -> Path:
    """Sequences of one example without padding, all of it learnt; one sequence for evaluation."""
    folder.mkdir(exist_ok=True)
    for split, count in (("train", sequences), ("eval", 1)):
        ids = np.random.default_rng(0).integers(0, vocabulary, (count, seq_len), dtype=np.int32)
        for name, array in (("input_ids", ids), ("labels", ids), ("segment_ids", np.ones_like(ids))):
            np.save(folder / f"{split}.{name}.npy", array)
    return folder


if __name__ == "__main__":
    main()
