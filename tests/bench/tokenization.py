"""Tokenizing and packing rows with lengths like Dolly's, beside datasets.map and a packing loop."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measure import ROOT, Case, Comparison, Figures, command

TEMPLATE = {"sections": ["{question}\n"], "separator": "", "response": "{answer}"}
SEQ_LEN = 512
WITH_DATASETS = """
import sys
from datasets import Dataset, load_dataset
from transformers import AutoTokenizer
rows, model, output, length = *sys.argv[1:4], int(sys.argv[4])
tokenizer = AutoTokenizer.from_pretrained(model)
def tokenize(batch):
    prompts = tokenizer([f"{question}\\n" for question in batch["question"]], add_special_tokens=False)["input_ids"]
    answers = tokenizer(list(batch["answer"]), add_special_tokens=False)["input_ids"]
    ids = [[*prompt, *answer, tokenizer.eos_token_id] for prompt, answer in zip(prompts, answers)]
    labels = [[-100] * len(prompt) + [*answer, tokenizer.eos_token_id] for prompt, answer in zip(prompts, answers)]
    return {"input_ids": ids, "labels": labels}
def pack(batch):
    ids, labels = sum(batch["input_ids"], []), sum(batch["labels"], [])
    starts = range(0, len(ids) - length + 1, length)
    return {"input_ids": [ids[at:at + length] for at in starts], "labels": [labels[at:at + length] for at in starts]}
data = load_dataset("json", data_files=rows, split="train", cache_dir=f"{output}/cache")
tokens = data.map(tokenize, batched=True, remove_columns=data.column_names)
tokens.map(pack, batched=True).save_to_disk(output)
"""


def cases(scratch: Path, python: Path, count: int) -> Iterator[Case]:
    """Random words of the tiny Llama's data."""
    folder = scratch / "tokenization"
    folder.mkdir()
    rows, few = folder / "rows.jsonl", folder / "few.jsonl"
    _make_rows(rows, count)
    _make_rows(few, count // 4)
    model = ROOT / "recipes" / "assets" / "tiny_llama"
    outputs = iter(range(10**6))

    def ours(source: Path) -> Figures:
        flags = ["--template", json.dumps(TEMPLATE), "--eval-rows", 10, "--seq-len", SEQ_LEN]
        program = [sys.executable, ROOT / "scripts" / "tokenize_dataset.py", "--model", model, "--input", source]
        return command([*program, *flags, "--output", folder / f"ours-{next(outputs)}"])

    def theirs() -> Figures:
        return command([python, "-c", WITH_DATASETS, rows, model, folder / f"datasets-{next(outputs)}", SEQ_LEN])

    yield Case(
        "tokenization",
        {"datasets.map": theirs, "ours": lambda: ours(rows), "ours, a quarter": lambda: ours(few)},
        [
            Comparison(f"tokenize and pack {count} rows: seconds", "ours", "datasets.map", 0.33),
            Comparison(f"memory of {count} rows", "ours", "ours, a quarter", 1.2, "peak_mb"),
        ],
    )


def _make_rows(path: Path, count: int) -> None:
    random = np.random.default_rng(0)
    words = ["select", "name", "food", "weight", "from", "rabbit", "where", "age", "is", "more", "than", "how", "many"]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            length = int(np.clip(random.lognormal(np.log(90), 0.7), 8, 350))
            text = random.choice(words, length).tolist()
            row = {"question": " ".join(text[: length // 3 + 1]), "answer": " ".join(text[length // 3 :])}
            file.write(json.dumps(row) + "\n")
