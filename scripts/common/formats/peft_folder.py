"""A PEFT folder checked against its base model from file headers, before anything heavy is loaded. NumPy.

Servers accept an adapter whose names match nothing and then answer with the base model; this is where that is caught.

peft_folder.json has the settings of adapter_config.json that would make an adapter more than scale * B @ A on every
layer: for each its `plain` values, besides null and empty ones, and the reason why others are not supported. The runner
reads the same file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import read_json
from common.formats.safetensors_file import SafetensorsFile, open_model
from common.program import BadInput

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, LORA_A, LORA_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
BASE = "__base__"  # names "no adapter" wherever an adapter is named

SETTINGS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LoraConfig:
    """The settings of an adapter, with one rank and scale for all modules, as PEFT and NxD write them."""

    rank: int
    alpha: float
    dropout: float
    use_rslora: bool
    targets: tuple[str, ...]  # target_modules: last name parts such as q_proj; of NxD a Projection.module

    @property
    def scale(self) -> float:
        """The factor of B @ A: alpha / r (LoRA, arXiv 2106.09685) or alpha / sqrt(r) (rsLoRA, arXiv 2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


def check_adapter(adapter: Path, model: Path) -> None:
    """Make sure that the LoRA in `adapter` has exactly the tensors that its config and the base `model` ask for.

    Raises:
        BadInput: a file is missing or damaged, a name, rank or shape does not fit, or every lora_B is zero.
    """
    weights = open_weights(adapter, {name: tensor.spec.shape for name, tensor in open_model(model).items()})
    if not any(weights.bits(name).any() for name in weights.specs if name.endswith(LORA_B)):
        raise BadInput(f"{weights.path}: every lora_B is zero, so the adapter changes nothing; was it trained?")


def open_weights(adapter: Path, base: Mapping[str, Shape]) -> SafetensorsFile:
    """The file with exactly the tensors that the config of `adapter` asks for; `base` has the model's shapes by name.

    Raises BadInput if the folder is damaged, or a name, rank or shape does not fit.
    """
    config = read_config(adapter / CONFIG)
    weights = SafetensorsFile(adapter / WEIGHTS)
    expected = _expected_shapes(base, config.rank, set(config.targets))
    _check_names(set(weights.specs), set(expected), weights.path)
    for name, shape in expected.items():
        if weights.specs[name].shape != shape:
            found = weights.specs[name].shape
            raise BadInput(
                f"{weights.path}: {name} has shape {found}; rank {config.rank} and the base model need {shape}"
            )
    return weights


def read_config(path: Path) -> LoraConfig:
    """The LoraConfig in PEFT's adapter_config.json; BadInput for what would make it more than scale * B @ A."""
    content = read_json(path)
    if "lora_rank" in content:
        raise BadInput(f"{path}: a sharded adapter of NxD; export_adapter.py gathers it into one that can be served")
    targets = content.get("target_modules")
    if content.get("peft_type") != "LORA" or not isinstance(targets, list) or not targets:
        raise BadInput(f"{path}: not a LoRA config of PEFT (peft_type, r, target_modules)")
    for key, setting in SETTINGS.items():
        if content.get(key) and content[key] not in setting["plain"]:
            raise BadInput(f"{path}: {key} {content[key]!r} is not supported: {setting['reason']}")
    rank, alpha = number(path, content, "r"), number(path, content, "lora_alpha")
    if rank != int(rank) or rank < 1:
        raise BadInput(f"{path}: r {rank} is not a whole number from 1")
    dropout = number(path, {"lora_dropout": 0.0, **content}, "lora_dropout")
    return LoraConfig(int(rank), alpha, dropout, bool(content.get("use_rslora")), tuple(sorted(targets)))


def number(path: Path, content: dict[str, Any], key: str) -> float:
    """A finite number in a JSON object; BadInput when there is none."""
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadInput(f"{path}: {key} {value!r} is not a number")
    return value


def _expected_shapes(base: Mapping[str, Shape], rank: int, target_modules: set[str]) -> dict[str, Shape]:
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
