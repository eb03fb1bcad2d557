"""One training of the comparison in train.py, or its matrix multiplications alone, in a process of its own.

Prints tokens that are not padding, and the seconds and CPU seconds of the training steps without start-up.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SEQ_LEN, EXAMPLES_A_STEP = 512, 16
LEARNING_RATE, RANK, ALPHA, PROMPT_SHARE = 1e-3, 16, 32, 0.4
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IGNORED = -100
LABELLED = 1 - PROMPT_SHARE


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("trainer", choices=TRAINERS)
    flags.add_argument("--scratch", type=Path, required=True)
    flags.add_argument("--dtype", choices=("fp32", "bf16"), required=True)
    args = flags.parse_args()
    figures = TRAINERS[args.trainer](args.scratch, args.dtype)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(figures))


def train_ours(folder: Path, dtype: str) -> dict:
    """Every step takes as many packed sequences as hold EXAMPLES_A_STEP examples on average."""
    sys.path.insert(0, str(SCRIPTS))
    import train_torch
    from common.training.cpu.trainer import Trainer
    from common.training.parallel import Ranks

    steps = len(json.loads((folder / "train.json").read_text())) // EXAMPLES_A_STEP
    sequences = len(np.load(folder / "tokens/train.input_ids.npy", mmap_mode="r"))
    flags = ["--data", folder / "tokens", "--output", folder / "out", "--dtype", dtype]
    flags += ["--batch-size", round(sequences / steps), "--max-steps", steps, "--learning-rate", LEARNING_RATE]
    flags += ["--rank", RANK, "--alpha", ALPHA, "--schedule", "constant", "--warmup-ratio", 0]
    with Ranks.from_environment().join() as ranks:
        flags += ["--shards", folder / f"shards-{ranks.size}"]
        trainer = Trainer(train_torch.flags().parse_args([str(flag) for flag in flags]), ranks)
        ranks.barrier()
        started = time.process_time(), time.perf_counter()
        for step in range(steps):
            trainer.step(step, read=False)
        cpu, wall = time.process_time() - started[0], time.perf_counter() - started[1]
        return {"tokens": trainer.record.tokens, "cpu_seconds": cpu, "seconds": wall, "eval_loss": trainer.evaluate()}


def train_padded(folder: Path, dtype: str) -> dict:
    """The Trainer as its documentation shows it, with PEFT, each example padded to SEQ_LEN."""
    from transformers import default_data_collator

    return _transformers(folder, dtype, padded, default_data_collator)


def train_packed(folder: Path, dtype: str) -> dict:
    """The Trainer with the examples of a step in one sequence, which transformers' collator makes."""
    from transformers import DataCollatorWithFlattening

    return _transformers(folder, dtype, unpadded, DataCollatorWithFlattening())


def _transformers(folder: Path, dtype: str, rows_of: Callable, collator: Callable) -> dict:
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
    files = {split: json.loads((folder / f"{split}.json").read_text()) for split in ("train", "eval")}
    train, evaluation = (rows_of(examples) for examples in files.values())
    trainer = Trainer(
        get_peft_model(model, lora), settings, data_collator=collator, train_dataset=train, eval_dataset=evaluation
    )
    started = time.process_time(), time.perf_counter()
    trainer.train()
    cpu, wall = time.process_time() - started[0], time.perf_counter() - started[1]
    tokens = sum(map(len, files["train"]))
    return {"tokens": tokens, "cpu_seconds": cpu, "seconds": wall, "eval_loss": trainer.evaluate()["eval_loss"]}


def prompt_length(example: list[int]) -> int:
    return max(1, int(PROMPT_SHARE * len(example)))


def unpadded(examples: list[list[int]]) -> list[dict]:
    return [
        {"input_ids": example, "labels": [IGNORED] * prompt_length(example) + example[prompt_length(example) :]}
        for example in examples
    ]


def padded(examples: list[list[int]]) -> list[dict]:
    rows = []
    for row in unpadded(examples):
        length = len(row["input_ids"])
        padding = SEQ_LEN - length
        mask = [1] * length + [0] * padding
        ids, labels = row["input_ids"] + [0] * padding, row["labels"] + [IGNORED] * padding
        rows.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return rows


def multiply_matrices(folder: Path, dtype: str, steps: int = 4) -> dict:
    """Products of the frozen weights alone, forward and for the gradients of their inputs: no training is faster."""
    import torch

    config = json.loads((folder / "model" / "config.json").read_text())
    hidden, inner, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    layer = [(hidden, hidden + 2 * keys), (hidden, hidden), (hidden, 2 * inner), (inner, hidden)]
    tokens = 4 * SEQ_LEN
    shapes = [(tokens, *shape) for shape in layer * layers]
    shapes.append((int(LABELLED * tokens), hidden, config["vocab_size"]))
    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    operands = [
        tuple(torch.randn(shape, dtype=torch_dtype) for shape in ((rows, width), (width, out), (rows, out)))
        for rows, width, out in shapes
    ]
    started = time.process_time(), time.perf_counter()
    for _ in range(steps):
        for inputs, weight, gradient in operands:
            torch.mm(inputs, weight)
            torch.mm(gradient, weight.T)
    cpu, wall = time.process_time() - started[0], time.perf_counter() - started[1]
    return {"tokens": tokens * steps, "cpu_seconds": cpu, "seconds": wall}


TRAINERS = {"ours": train_ours, "padded": train_padded, "packed": train_packed, "matrices": multiply_matrices}


if __name__ == "__main__":
    main()
