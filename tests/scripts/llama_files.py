"""Random Llamas of any shape as Hugging Face folders, written without the code under test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from common.shards.layout import LM_HEAD, ModelShape

TINY = ModelShape(
    vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=2, tie_word_embeddings=False,
)  # fmt: skip


def random_state(shape: ModelShape, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Weights by name; RandomState's numbers are the same in every version of NumPy."""
    random = np.random.RandomState(0)
    state = {
        name: torch.from_numpy(random.standard_normal(size) * 0.3 + (len(size) == 1)).to(dtype)
        for name, size in shape.tensors().items()
    }
    if shape.tie_word_embeddings:
        del state[LM_HEAD]
    return state


def write_model(folder: Path, shape: ModelShape, state: dict[str, torch.Tensor], files: int = 1) -> Path:
    """config.json and the weights, spread over `files` files."""
    folder.mkdir(parents=True)
    config = {name: getattr(shape, name) for name in shape.__dataclass_fields__}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    if files == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    file_of = {name: f"model-{number % files + 1:05d}.safetensors" for number, name in enumerate(state)}
    for file in set(file_of.values()):
        save_file({name: state[name] for name in state if file_of[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": file_of}))
    return folder


def read_model(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, by safetensors' own reader."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equal in type, shape and every bit."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    bits = torch.int32 if left.element_size() == 4 else torch.int16
    return torch.equal(left.contiguous().view(bits), right.contiguous().view(bits))
