"""Answers of base and adapter to held-out questions, beside transformers' generate, one by one and in batches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from measure import ROOT, RUNNER, Case, Comparison, Figures, command, newest_run, way
from train import FAIR, busy

from runner.execute.process import _threads

TOKENS = 48
WITH_GENERATE = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
model_path, adapter, questions, examples, batch, tokens = *sys.argv[1:4], *map(int, sys.argv[4:7])
tokenizer = AutoTokenizer.from_pretrained(model_path, padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32), adapter)
prompts = [json.loads(line)["prompt"] for line in open(questions)][:examples]
def answer():
    for start in range(0, len(prompts), batch):
        inputs = tokenizer(prompts[start:start + batch], return_tensors="pt", padding=True, return_token_type_ids=False)
        model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
with torch.no_grad():
    answer()
    with model.disable_adapter():
        answer()
"""


def cases(scratch: Path, python: Path, short: bool) -> Iterator[Case]:
    """The artifacts are those of a short training of the quickstart."""
    examples = 4 if short else 200
    quick = ["quickstart", "serve=none", "evaluate=none", "tp_size=1", f"train.max_steps={2 if short else 60}"]
    command([*RUNNER, "run", *quick, f"paths.store={scratch}/store", f"paths.runs={scratch}/evaluated"])
    artifacts = newest_run(scratch / "evaluated") / "artifacts"
    model, adapter, tokens = artifacts / "fetch", artifacts / "export" / "adapter", artifacts / "tokenize"

    def ours() -> Figures:
        flags = ["--model", model, "--adapter", adapter, "--tokens", tokens, "--output", scratch / "evaluation"]
        program = [sys.executable, ROOT / "scripts" / "evaluate.py", *flags]
        return command([*program, "--examples", examples, "--max-new-tokens", TOKENS], env=_threads(1))

    def beside_a_busy_process() -> Figures:
        with busy():
            return ours()

    def generate(batch: int) -> list[object]:
        data = [model, adapter, tokens / "eval.jsonl"]
        return [python, "-c", WITH_GENERATE, *data, examples, batch, TOKENS]

    answers = f"{examples} x 2 answers: seconds"
    yield Case(
        "evaluation",
        {
            "ours": ours,
            "generate, one by one": way(generate(1)),
            "generate, batches of 32": way(generate(32)),
            "ours, busy": beside_a_busy_process,
        },
        [
            Comparison(answers, "ours", "generate, one by one", 0.2),
            Comparison(answers, "ours", "generate, batches of 32", 0.67),
            Comparison("evaluation beside a busy process: seconds", "ours, busy", "ours", 1 / (0.8 * FAIR)),
        ],
    )
