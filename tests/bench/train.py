"""Useful tokens a CPU-second of train_torch.py, beside transformers' Trainer with PEFT and beside matrix products.

And two tensor-parallel ranks beside one rank on the same cores.

The model is a random Llama; the examples have lognormal lengths (median 120, clipped at 512; 40 % of each is a prompt
without loss). train_torch.py gets them packed, as tokenize_dataset.py packs. All see the same number of examples an
optimizer step, and the final losses must agree. A useful token is one that is not padding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from measure import ROOT, Case, Comparison, Figures, Way
from train_worker import EXAMPLES_A_STEP, SEQ_LEN, prompt_length

from runner.execute.process import _threads

SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

from common.data.packing import IGNORED, pack  # noqa: E402

EXAMPLES_FOR_EVALUATION = 64
CORES = len(os.sched_getaffinity(0))
FAIR = CORES / (CORES + 1)  # the share of a process with a thread a core beside one busy process
SIZES = {
    "quickstart": {
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "intermediate_size": 704,
        "num_key_value_heads": 4,
    },
    "smollm": {
        "hidden_size": 576,
        "num_hidden_layers": 10,
        "num_attention_heads": 9,
        "intermediate_size": 1536,
        "num_key_value_heads": 3,
    },
}
STEPS = {"quickstart": 12, "smollm": 4}
COMMON = {"vocab_size": 1536, "max_position_embeddings": SEQ_LEN, "tie_word_embeddings": True}


def cases(scratch: Path, python: Path, short: bool) -> Iterator[Case]:
    """Each data type at the quickstart's size, and fp32 with the widths of SmolLM2-135M."""
    for size, dtype in (
        [("quickstart", "fp32")] if short else [("quickstart", "fp32"), ("quickstart", "bf16"), ("smollm", "fp32")]
    ):
        folder = scratch / f"training-{size}-{dtype}"
        folder.mkdir()
        make_files(folder, size, 2 if short else STEPS[size])
        yield _case(folder, python, size, dtype)


def _case(folder: Path, python: Path, size: str, dtype: str) -> Case:
    def way(name: str, by: str | Path = sys.executable) -> Way:
        return lambda: _train(name, by, folder, dtype)

    def beside_a_busy_process() -> Figures:
        with busy():
            return _train("ours", sys.executable, folder, dtype)

    def compared(what: str, peer: str, goal: float, figure: str = "tokens_a_cpu_second") -> Comparison:
        return Comparison(f"training {size}, {dtype}: {what}", "ours", peer, goal, figure, at_least=True)

    ways = {
        "ours": way("ours"),
        "Trainer, padded": way("padded", python),
        "Trainer, packed": way("packed", python),
        "matrix products": way("matrices"),
        "ours, busy": beside_a_busy_process,
    }
    busy_share = Comparison(
        f"training {size}, {dtype}: tokens a second beside a busy process",
        "ours, busy", "ours", 0.8 * FAIR, "tokens_a_second", at_least=True,
    )  # fmt: skip
    loss = Comparison(f"training {size}, {dtype}: final loss", "ours", "Trainer, padded", 1.05, "eval_loss")
    tokens = "tokens a CPU-second"
    goals = (("Trainer, padded", 4.0), ("Trainer, packed", 2.0), ("matrix products", 0.6))
    comparisons = [*(compared(tokens, *goal) for goal in goals), busy_share, loss]
    if 2 in _tp_sizes(size):
        ways["two ranks"] = lambda: _train("ours", sys.executable, folder, dtype, ranks=2)
        name = f"training {size}, {dtype}: tokens a second of two ranks"
        comparisons.append(Comparison(name, "two ranks", "ours", 0.8, "tokens_a_second", at_least=True))
    return Case(f"training {size} {dtype}", ways, comparisons)


def _tp_sizes(size: str) -> list[int]:
    """The numbers of ranks, of those measured, that divide the heads."""
    return [ranks for ranks in (1, 2) if SIZES[size]["num_key_value_heads"] % ranks == 0]


def _train(name: str, python: str | Path, folder: Path, dtype: str, ranks: int = 1) -> Figures:
    """One training in a process of its own, or by torchrun, with the threads that the runner gives a step."""
    flags = ["--scratch", folder, "--dtype", dtype]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    program = [python, *(torchrun if ranks > 1 else []), Path(__file__).with_name("train_worker.py"), name, *flags]
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"} if ranks > 1 else {}
    env = {**_threads(ranks), **waiting, **os.environ}
    output = subprocess.run(program, env=env, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(output.stdout.splitlines()[-1])
    cpu, wall = figures["tokens"] / figures["cpu_seconds"], figures["tokens"] / figures["seconds"]
    return {**figures, "tokens_a_cpu_second": cpu, "tokens_a_second": wall}


@contextmanager
def busy() -> Iterator[None]:
    """Within this context, another process keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def make_files(folder: Path, size: str, steps: int) -> None:
    """A model, its shard, and the same examples packed for ours and one by one for transformers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**COMMON, **SIZES[size], initializer_range=0.05)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    convert = [sys.executable, SCRIPTS / "convert_checkpoint.py", "--input", folder / "model", "--output"]
    for tp_size in _tp_sizes(size):
        layout = ["--tp-size", str(tp_size), "--layout", "trn2"]
        subprocess.run([*convert, folder / f"shards-{tp_size}", *layout], check=True, stderr=subprocess.DEVNULL)
    (folder / "tokens").mkdir()
    generator = np.random.default_rng(0)
    for split, count in (("train", steps * EXAMPLES_A_STEP), ("eval", EXAMPLES_FOR_EVALUATION)):
        examples = [make_example(generator, length) for length in example_lengths(generator, count)]
        (folder / f"{split}.json").write_text(json.dumps([example.tolist() for example in examples]))
        save_packed(folder / "tokens", split, examples)


def example_lengths(generator: np.random.Generator, count: int) -> list[int]:
    return np.clip(generator.lognormal(np.log(120), 0.6, count), 8, SEQ_LEN).astype(int).tolist()


def make_example(generator: np.random.Generator, length: int) -> np.ndarray:
    """Tokens with something to learn: mostly one of a few, else any."""
    common = generator.zipf(1.5, length) % COMMON["vocab_size"]
    return np.where(generator.random(length) < 0.9, common, generator.integers(0, COMMON["vocab_size"], length))


def save_packed(folder: Path, split: str, examples: list[np.ndarray]) -> None:
    sequences = pack([len(example) for example in examples], SEQ_LEN)
    ids, segments = np.zeros((2, len(sequences), SEQ_LEN), np.int32)
    labels = np.full_like(ids, IGNORED)
    for row, members in enumerate(sequences):
        start = 0
        for number, example in enumerate((examples[index] for index in members), start=1):
            stop = start + len(example)
            ids[row, start:stop], segments[row, start:stop] = example, number
            labels[row, start + prompt_length(example) : stop] = example[prompt_length(example) :]
            start = stop
    for name, array in (("input_ids", ids), ("labels", labels), ("segment_ids", segments)):
        np.save(folder / f"{split}.{name}.npy", array)
