"""The adapter that a training continues: a PEFT folder. Needs torch."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from common.formats import peft_folder
from common.formats.dtypes import to_float32
from common.formats.peft_folder import LoraConfig
from common.formats.safetensors_file import SafetensorsFile
from common.program import BadInput
from common.shards.layout import PROJECTIONS, ModelShape


@dataclass(frozen=True)
class InitialAdapter:
    """The tensors of a PEFT folder by layer and projection (of PROJECTIONS), float32."""

    weights: SafetensorsFile

    def lora_a(self, layer: int, projection: str) -> torch.Tensor:
        """(rank, in features)."""
        return self._floats(layer, projection, peft_folder.LORA_A)

    def lora_b(self, layer: int, projection: str) -> torch.Tensor:
        """(out features, rank)."""
        return self._floats(layer, projection, peft_folder.LORA_B)

    @cached_property
    def shares_lora_a(self) -> bool:
        """Whether q, k and v have the same lora_A in every layer, and so do gate and up, as in NxD."""
        first: dict[str, np.ndarray] = {}
        for name in sorted(self.weights.specs):
            layer, _, projection = name.removesuffix(peft_folder.LORA_A).partition(".layers.")[2].partition(".")
            if projection in PROJECTIONS:
                bits = self.weights.bits(name)
                if not np.array_equal(first.setdefault(f"{layer}.{PROJECTIONS[projection].module}", bits), bits):
                    return False
        return True

    def digest(self) -> str:
        """A digest of the tensors' values."""
        return hashlib.sha256(self.weights.map).hexdigest()

    def _floats(self, layer: int, projection: str, part: str) -> torch.Tensor:
        name = f"{peft_folder.PREFIX}model.layers.{layer}.{projection}{part}"
        return torch.tensor(to_float32(self.weights.bits(name), self.weights.specs[name].dtype))


def read(args: argparse.Namespace, shape: ModelShape) -> InitialAdapter | None:
    """The adapter in the folder --init-adapter, None without one.

    Raises BadInput if it does not fit the model, or has other settings than the flags.
    """
    folder = args.init_adapter
    if folder is None:
        return None
    config = peft_folder.read_config(folder / peft_folder.CONFIG)
    for flag, given, wanted in _settings(args, config):
        if given != wanted:
            path = folder / peft_folder.CONFIG
            raise BadInput(f"--{flag} {given}: the adapter to continue has {wanted} ({path}): use the same")
    return InitialAdapter(peft_folder.open_weights(folder, shape.tensors()))


def _settings(args: argparse.Namespace, config: LoraConfig) -> list[tuple[str, object, object]]:
    """(flag, its value, the adapter's) of all that cannot change while training continues."""
    return [
        ("rank", args.rank, config.rank),
        ("alpha", float(args.alpha), float(config.alpha)),
        ("rslora", args.rslora, config.use_rslora),
        ("targets", " ".join(sorted(args.targets)), " ".join(sorted(config.targets))),
    ]
