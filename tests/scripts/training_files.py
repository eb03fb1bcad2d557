"""Random Llamas, their shards and packed tokens: what the trainer's tests read. Also launches its ranks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

import convert_checkpoint

PROGRAM = Path(convert_checkpoint.__file__).with_name("train_torch.py")
VOCAB_SIZE = 128
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
SETTINGS = {  # what the config.json of each model family says beside the sizes
    "llama": {},
    "mistral": {"sliding_window": 512},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": False},
    "granite": {
        "attention_multiplier": 0.4, "embedding_multiplier": 3.0, "residual_multiplier": 0.3, "logits_scaling": 2.5,
    },
}  # fmt: skip


def make_model(folder: Path, **changes) -> Path:
    """Save a random Llama: grouped-query attention, heads wider than hidden_size / heads, llama3 positions.

    `changes` to its config may name another model_type.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = {
        "vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
        "rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False, "initializer_range": 0.1, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{"model_type": "llama", **config, **changes}))
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.uniform_(0.5, 1.5)
        elif "bias" in name:
            weight.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


def make_shards(model: Path, folder: Path, tp_size: int = 1, kv_size_multiplier: int = 1, layout: str = "trn2") -> Path:
    """Convert `model` with the real converter."""
    flags = ["--input", model, "--output", folder, "--tp-size", tp_size, "--layout", layout]
    flags += ["--kv-size-multiplier", kv_size_multiplier]
    convert_checkpoint.run(convert_checkpoint.flags().parse_args([str(flag) for flag in flags]))
    return folder


def make_tokens(
    folder: Path, sequences: int = 10, seq_len: int = 96, longest: int = 60, vocab_size: int = VOCAB_SIZE
) -> Path:
    """Random packed sequences: examples of 5 to `longest` tokens, the first third a prompt, some padding at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for split, count in (("train", sequences), ("eval", 3)):
        ids = generator.integers(0, vocab_size, (count, seq_len), dtype=np.int32)
        labels, segments = np.full_like(ids, -100), np.zeros_like(ids)
        for row in range(count):
            for number, (start, stop) in enumerate(_examples(generator, seq_len, longest), start=1):
                segments[row, start:stop] = number
                answer = start + max(1, (stop - start) // 3)
                labels[row, answer:stop] = ids[row, answer:stop]
        for name, array in (("input_ids", ids), ("labels", labels), ("segment_ids", segments)):
            np.save(folder / f"{split}.{name}.npy", array)
    return folder


def _examples(generator: np.random.Generator, seq_len: int, longest: int) -> list[tuple[int, int]]:
    found, start = [], 0
    while start < seq_len - 5:
        stop = min(start + int(generator.integers(5, longest + 1)), seq_len)
        found.append((start, stop))
        start = stop
    return found


def train_command(shards: Path, data: Path, output: Path, *flags: object) -> list[str]:
    """The flags of train_torch.py."""
    return ["--shards", str(shards), "--data", str(data), "--output", str(output), *map(str, flags)]


def start_ranks(tp_size: int, flags: list[str], script: Path = PROGRAM) -> list[subprocess.Popen[str]]:
    """Start `script` once a rank with torchrun's environment (torchrun itself takes as long as the ranks)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "PYTHONPATH": str(PROGRAM.parent), "OMP_WAIT_POLICY": "PASSIVE", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "WORLD_SIZE": str(tp_size), "LOCAL_WORLD_SIZE": str(tp_size),
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, script, *flags],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(tp_size)
    ]  # fmt: skip


def finish(ranks: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Wait for all; their exit statuses and everything they wrote on stderr."""
    said = "".join(rank.communicate(timeout=300)[1] for rank in ranks)
    return [rank.returncode for rank in ranks], said
