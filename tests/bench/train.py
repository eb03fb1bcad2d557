"""Useful tokens a CPU-second of train_torch.py beside transformers' Trainer with PEFT, on the same examples.

Makes a random Llama and examples of lognormal length (median 120, clipped at 512, 40 % of each a prompt without
loss). train_torch.py gets them packed, as tokenize_dataset.py packs; the Trainer gets them padded to 512. Both
see the same number of examples an optimizer step for the same steps. The runs take turns, each in a process of
its own; prints one JSON line a run and the ratio of medians. A useful token is one that is not padding; CPU
seconds are those of the training steps of all threads, without start-up. Final losses must agree within 5 %.

Ratios of one run can be compared; seconds depend on the machine and on what else it does.

Example: OMP_WAIT_POLICY=PASSIVE python tests/bench/train.py --scratch /tmp --rounds 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from common.data.packing import IGNORED, pack  # noqa: E402

SEQ_LEN, EXAMPLES_A_STEP, EXAMPLES_FOR_EVALUATION = 512, 16, 64
LEARNING_RATE, RANK, ALPHA, PROMPT_SHARE = 1e-3, 16, 32, 0.4
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SIZES = {
    "quickstart": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 704},
    "large": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1408},
}
COMMON = {"vocab_size": 1536, "num_key_value_heads": 4, "max_position_embeddings": SEQ_LEN, "tie_word_embeddings": True}


def main() -> None:
    args = flags().parse_args()
    if args.trainer:
        train = train_ours if args.trainer == "ours" else train_transformers
        print(json.dumps(train(args.scratch, args.dtype)))
        return
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        make_files(Path(folder), args.size, args.steps)
        runs = [run(name, Path(folder), args.dtype) for _ in range(args.rounds) for name in ("ours", "transformers")]
    report(runs)


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="where to make the files")
    parser.add_argument("--size", choices=SIZES, default="quickstart")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps a run")
    parser.add_argument("--trainer", choices=("ours", "transformers"), help="be one run over the files in --scratch")
    return parser


def run(name: str, folder: Path, dtype: str) -> dict:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--scratch", folder, "--dtype", dtype, "--trainer", name]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result = {"trainer": name, **json.loads(said.splitlines()[-1])}
    print(json.dumps(result), flush=True)
    return result


def report(runs: list[dict]) -> None:
    speeds, losses = {}, {}
    for name in ("ours", "transformers"):
        own = [run for run in runs if run["trainer"] == name]
        speeds[name] = statistics.median(run["tokens"] / run["cpu_seconds"] for run in own)
        losses[name] = own[0]["eval_loss"]
        print(f"{name:13} {speeds[name]:7.0f} useful tokens a CPU-second, final loss {losses[name]:.3f}")
    print(f"ratio {speeds['ours'] / speeds['transformers']:.2f}")
    if abs(losses["ours"] / losses["transformers"] - 1) > 0.05:
        sys.exit("the final losses differ by more than 5 %: the two do not train the same")


def make_files(folder: Path, size: str, steps: int) -> None:
    """A model, its shard, and the same examples packed for ours and one by one for transformers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**COMMON, **SIZES[size], initializer_range=0.05)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    convert = [sys.executable, SCRIPTS / "convert_checkpoint.py", "--input", folder / "model", "--output"]
    layout = ["--tp-size", "1", "--layout", "trn2"]
    subprocess.run([*convert, folder / "shards", *layout], check=True, stderr=subprocess.DEVNULL)
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


def prompt_length(example: np.ndarray) -> int:
    return max(1, int(PROMPT_SHARE * len(example)))


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


def train_ours(folder: Path, dtype: str) -> dict:
    """Every step takes as many packed sequences as hold EXAMPLES_A_STEP examples on average."""
    import train_torch
    from common.training.cpu.trainer import Trainer
    from common.training.parallel import Ranks

    steps = len(json.loads((folder / "train.json").read_text())) // EXAMPLES_A_STEP
    sequences = len(np.load(folder / "tokens/train.input_ids.npy", mmap_mode="r"))
    flags = ["--shards", folder / "shards", "--data", folder / "tokens", "--output", folder / "out", "--dtype", dtype]
    flags += ["--batch-size", round(sequences / steps), "--max-steps", steps, "--learning-rate", LEARNING_RATE]
    flags += ["--rank", RANK, "--alpha", ALPHA, "--schedule", "constant", "--warmup-ratio", 0]
    trainer = Trainer(train_torch.flags().parse_args([str(flag) for flag in flags]), Ranks())
    started = time.process_time(), time.perf_counter()
    for step in range(steps):
        trainer.step(step, read=False)
    cpu, wall = time.process_time() - started[0], time.perf_counter() - started[1]
    return {"tokens": trainer.record.tokens, "cpu_seconds": cpu, "seconds": wall, "eval_loss": trainer.evaluate()}


def train_transformers(folder: Path, dtype: str) -> dict:
    """The Trainer as its documentation shows it, with PEFT, each example padded to SEQ_LEN."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM, Trainer, TrainingArguments

    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model = LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch_dtype)
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS))
    settings = TrainingArguments(
        folder / "trainer", num_train_epochs=1, per_device_train_batch_size=EXAMPLES_A_STEP, max_grad_norm=1.0,
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", save_strategy="no", logging_strategy="no",
        report_to=[], disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    train, evaluation = (padded(json.loads((folder / f"{split}.json").read_text())) for split in ("train", "eval"))
    trainer = Trainer(get_peft_model(model, lora), settings, train_dataset=train, eval_dataset=evaluation)
    started = time.process_time(), time.perf_counter()
    trainer.train()
    cpu, wall = time.process_time() - started[0], time.perf_counter() - started[1]
    tokens = sum(sum(row["attention_mask"]) for row in train)
    return {"tokens": tokens, "cpu_seconds": cpu, "seconds": wall, "eval_loss": trainer.evaluate()["eval_loss"]}


def padded(examples: list[list[int]]) -> list[dict]:
    rows = []
    for example in examples:
        padding, prompt = SEQ_LEN - len(example), prompt_length(np.array(example))
        labels = [IGNORED] * prompt + example[prompt:] + [IGNORED] * padding
        mask = [1] * len(example) + [0] * padding
        rows.append({"input_ids": example + [0] * padding, "attention_mask": mask, "labels": labels})
    return rows


if __name__ == "__main__":
    main()
