"""A PEFT folder checked against its base model from file headers, before anything heavy is loaded. NumPy.

Servers accept an adapter whose names match nothing and then answer with the base model; this is where that is caught.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from common.files import read_json
from common.program import BadInput
from common.safetensors_file import SafetensorsFile, open_model

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, LORA_A, LORA_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
# What changes the arithmetic of a LoRA and neither shows in the tensors' names nor is computed here.
_REFUSED = ("alpha_pattern", "fan_in_fan_out", "layer_replication", "rank_pattern", "use_dora")

Shape = tuple[int, ...]


class LoraSettings(NamedTuple):
    """What an adapter_config.json says: rank, the factor of B(A(x)), and the last names of the adapted modules."""

    rank: int
    scale: float
    target_modules: set[str]


def check_adapter(adapter: Path, model: Path) -> None:
    """Make sure that the LoRA in `adapter` has exactly the tensors that its config and the base `model` ask for.

    Raises:
        BadInput: a file is missing or damaged, a name, rank or shape does not fit, or every lora_B is zero.
    """
    rank, _, target_modules = read_config(adapter / CONFIG)
    weights = SafetensorsFile(adapter / WEIGHTS)
    base = {name: tensor.spec.shape for name, tensor in open_model(model).items()}
    expected = _expected_shapes(base, rank, target_modules)
    _check_names(set(weights.specs), set(expected), weights.path)
    for name, shape in expected.items():
        if weights.specs[name].shape != shape:
            found = weights.specs[name].shape
            raise BadInput(f"{weights.path}: {name} has shape {found}; rank {rank} and the base model need {shape}")
    if not any(weights.bits(name).any() for name in expected if name.endswith(LORA_B)):
        raise BadInput(f"{weights.path}: every lora_B is zero, so the adapter changes nothing; was it trained?")


def read_config(path: Path) -> LoraSettings:
    """Raises BadInput for what is not a LoRA of PEFT, or one whose arithmetic is not known here."""
    config = read_json(path)
    if "lora_rank" in config:
        raise BadInput(f"{path}: a sharded adapter of NxD; export_adapter.py gathers it into one that can be served")
    rank, alpha, target_modules = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    numbers = isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)
    if config.get("peft_type") != "LORA" or not numbers or not isinstance(target_modules, list):
        raise BadInput(f"{path}: not a LoRA config of PEFT (peft_type, r, lora_alpha, target_modules)")
    for key in _REFUSED:
        if config.get(key):
            raise BadInput(f"{path}: {key} is not supported; train the adapter without it, or merge it into the model")
    return LoraSettings(rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), set(target_modules))


def _expected_shapes(base: dict[str, Shape], rank: int, target_modules: set[str]) -> dict[str, Shape]:
    """Names and shapes of a LoRA over all base modules whose last name part is in `target_modules`."""
    shapes = {}
    for name, shape in base.items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in target_modules and len(shape) == 2:
            shapes[f"{PREFIX}{module}{LORA_A}"] = (rank, shape[1])
            shapes[f"{PREFIX}{module}{LORA_B}"] = (shape[0], rank)
    return shapes


def _check_names(found: set[str], expected: set[str], path: Path) -> None:
    if found - expected:
        raise BadInput(f"{path}: {min(found - expected)} fits no target module of the base model")
    if expected - found or not found:
        raise BadInput(f"{path}: {min(expected - found, default='every LoRA tensor')} is missing")
