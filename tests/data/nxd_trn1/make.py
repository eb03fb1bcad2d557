"""Make reference.json: the SHA-256 of every tensor that neuronx-distributed's own converter writes, trn1 layout.

The models are random and are made again by the test from the same seed, so only the checksums are kept. Needed is a
checkout of neuronx-distributed 0.18 that imports on this machine, and a program around its CheckpointConverterBase
that takes: HF_FOLDER OUTPUT TP_SIZE KV_SIZE_MULTIPLIER QKV_LINEAR LAYOUT. Run from the root of this project:

    PYTHONPATH=.:scripts python tests/data/nxd_trn1/make.py NXD_PYTHON NXD_CONVERT.PY
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from common.shards.layout import ModelShape
from tests.scripts.llama_files import TINY, random_state, write_model

# (query heads, K/V heads, kv_size_multiplier); the trn1 layout takes one rank a copy. Upstream derives head_dim.
CASES = {
    "copies": (8, 2, 2),
    "more-copies": (12, 3, 4),
    "one-query-head-a-rank": (8, 2, 4),
    "no-copies": (8, 4, 1),
    "no-groups": (4, 4, 1),
}


def case_shape(heads: int, key_value_heads: int, copies: int) -> ModelShape:
    ranks = key_value_heads * copies
    sizes = {"hidden_size": heads * TINY.head_dim, "intermediate_size": ranks * 2, "vocab_size": ranks * 2}
    return replace(TINY, num_attention_heads=heads, num_key_value_heads=key_value_heads, num_hidden_layers=1, **sizes)


def checksums(folder: Path) -> dict[str, dict[str, str]]:
    """File name → tensor name → SHA-256 of shape and elements."""
    return {
        path.name: {name: checksum(tensor) for name, tensor in torch.load(path, weights_only=True).items()}
        for path in sorted(folder.glob("*.pt"))
    }


def checksum(tensor: torch.Tensor) -> str:
    bits = tensor.contiguous().view(torch.int16).numpy()
    return hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode() + bits.tobytes()).hexdigest()


def main(converter: list[str]) -> None:
    reference = {}
    for name, (heads, key_value_heads, copies) in CASES.items():
        shape = case_shape(heads, key_value_heads, copies)
        with tempfile.TemporaryDirectory() as folder:
            model = write_model(Path(folder) / "model", shape, random_state(shape, torch.bfloat16))
            flags = [model, f"{folder}/shards", key_value_heads * copies, copies, 1, "trn1"]
            subprocess.run([*converter, *map(str, flags)], check=True)
            reference[name] = checksums(Path(folder) / "shards" / "model")
    (Path(__file__).parent / "reference.json").write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
