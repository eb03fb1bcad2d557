"""LoRA adapters on a transformers model, where each row of a batch uses its own adapter or the base model.

Equivalent to PEFT's mixed batches, but only needs torch: the environments of a Deep Learning AMI have no PEFT.

    model = AdaptedModel(causal_lm)
    model.add("sql", Path("adapter"))
    logits = model(adapters=["sql", BASE], columns=1, input_ids=input_ids, attention_mask=mask)
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from common.formats import peft_folder
from common.formats.peft_folder import BASE
from common.program import BadInput

_WORTH_THREADS = 2**28  # multiplications of a forward pass, e.g. of 100 tokens by a model of 2.7 M parameters
Rows = dict[str, Any]  # adapter → indices of its rows in the batch


class AdaptedModel:
    """A causal language model whose linear layers add the adapter of each row."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._rows: Rows = {}  # of the current forward pass; shared by all layers
        self._names = {BASE}
        self._columns = _parameter(model, "logits_to_keep", "num_logits_to_keep")  # the latter before 4.49
        self._cache = _parameter(model, "cache", "past_key_values")  # the latter before 5.23
        self._parameters = sum(parameter.numel() for parameter in model.parameters())

    def add(self, name: str, folder: Path) -> None:
        """Load an adapter that `peft_folder.check_adapter` has passed."""
        config = peft_folder.read_config(folder / peft_folder.CONFIG)
        tensors = load_file(folder / peft_folder.WEIGHTS)
        for key, lora_a in tensors.items():
            if key.endswith(peft_folder.LORA_A):
                module = key.removeprefix(peft_folder.PREFIX).removesuffix(peft_folder.LORA_A)
                lora_b = tensors[f"{peft_folder.PREFIX}{module}{peft_folder.LORA_B}"]
                self._lora_layer(module).add(name, lora_a, lora_b, config.scale)
        self._names.add(name)

    def __call__(self, adapters: list[str], columns: int, cache: Any = None, **inputs: Any) -> torch.Tensor:
        """The logits of the last `columns` positions; row i is computed with adapters[i]. Fills the `cache`."""
        unknown = set(adapters) - self._names
        if unknown:
            raise KeyError(f"no adapter {min(unknown)}")
        self._rows.clear()
        self._rows.update(_rows(adapters))
        options = {self._columns: columns, self._cache: cache, "use_cache": cache is not None}
        with _one_thread_if(self._parameters * inputs["input_ids"].numel() < _WORTH_THREADS):
            return self.model(**inputs, **options).logits[:, -columns:]

    def _lora_layer(self, module: str) -> LoraLinear:
        """The linear layer of that name, wrapped for adapters. Raises BadInput if it is not linear."""
        parent_name, _, name = module.rpartition(".")
        parent = self.model.get_submodule(parent_name)
        layer = getattr(parent, name)
        if isinstance(layer, nn.Linear):
            layer = LoraLinear(layer, self._rows)
            setattr(parent, name, layer)
        if not isinstance(layer, LoraLinear):
            raise BadInput(f"target_modules: {module} is a {type(layer).__name__}; only linear layers are supported")
        return layer


class LoraLinear(nn.Module):
    """A linear layer that adds scale * B(A(x)) to each adapter's rows."""

    def __init__(self, base: nn.Linear, rows: Rows) -> None:
        super().__init__()
        self.base = base
        self._rows = rows
        self._adapters: dict[str, _Lora] = {}

    def add(self, name: str, lora_a: torch.Tensor, lora_b: torch.Tensor, scale: float) -> None:
        """Add an adapter with lora_a (rank, in features) and lora_b (out features, rank)."""
        dtype = self.base.weight.dtype
        self._adapters[name] = _Lora(lora_a.to(dtype), lora_b.to(dtype), scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output for x (rows, ..., in features), with the adapters' updates."""
        output = self.base(x)
        for name, rows in self._rows.items():
            if name in self._adapters:
                lora_a, lora_b, scale = self._adapters[name]
                output[rows] += functional.linear(functional.linear(x[rows], lora_a), lora_b) * scale
        return output


class _Lora(NamedTuple):
    lora_a: torch.Tensor  # (rank, in features)
    lora_b: torch.Tensor  # (out features, rank)
    scale: float


@contextmanager
def _one_thread_if(is_little: bool) -> Iterator[None]:
    """Compute on one thread where to wake the others, which sleep between products, costs more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if is_little else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _parameter(model: Any, *names: str) -> str:
    """The parameter name that the installed transformers knows: it silently ignores unknown ones."""
    known = inspect.signature(model.forward).parameters
    return next(name for name in names if name in known)


def _rows(adapters: list[str]) -> Rows:
    names = set(adapters) - {BASE}
    if names == set(adapters) and len(names) == 1:
        return {adapters[0]: slice(None)}  # avoids copying rows
    return {name: torch.tensor([row for row, other in enumerate(adapters) if other == name]) for name in names}
