"""The random model, shards and tokens of the comparison with neuronx_distributed: the same numbers everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from common.shards.layout import ModelShape
from tests.scripts.llama_files import write_model
from tests.scripts.training_files import make_shards, make_tokens

SHAPE = ModelShape(
    vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=8,
    num_key_value_heads=2, head_dim=4, tie_word_embeddings=False,
)  # fmt: skip
FLAGS = [
    "--batch-size", "3", "--accumulate", "2", "--epochs", "3", "--learning-rate", "0.01", "--rank", "4", "--seed", "7",
    "--warmup-ratio", "0",
]  # fmt: skip
CUTS = [(1, 1, "trn2"), (2, 1, "trn1"), (2, 1, "trn2"), (4, 2, "trn1"), (4, 2, "trn2")]


def make_inputs(work: Path, shape: ModelShape = SHAPE) -> None:
    """Write work/model, work/tokens, and the shards as work/tp1, work/tp2_trn1 and so on."""
    random = np.random.RandomState(0)  # its numbers are the same in every version of NumPy
    state = {
        name: torch.from_numpy(random.standard_normal(size) * 0.2 + (len(size) == 1)).float()
        for name, size in shape.tensors().items()
    }
    write_model(work / "model", shape, state)
    for tp_size, copies, layout in CUTS:
        name = f"tp{tp_size}_{layout}" if tp_size > 1 else "tp1"
        make_shards(work / "model", work / name, tp_size, copies, layout)
    make_tokens(work / "tokens", sequences=10, seq_len=64, longest=40)
