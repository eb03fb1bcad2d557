"""The LoRA adapter of a tensor-parallel Llama: one flat fp32 buffer of parameters, and its file format.

A parameter is either replicated (every rank has all of it; its gradient is summed over the ranks) or sharded (a rank
has a slice, with its complete gradient). As they are one flat buffer, with the replicated ones first, a step needs one
all-reduce for the gradients and one update of the optimizer.

As in neuronx-distributed (NxD), q, k and v share one lora_A, and so do gate and up:

    module               lora_A                              lora_B
    self_attn.qkv_proj   (rank, hidden) replicated           q: rows of this rank; k, v: all heads, replicated
    self_attn.o_proj     columns of this rank's query heads  (hidden, rank) replicated
    mlp.gate_up_proj     (rank, hidden) replicated           gate, up: rows of this rank
    mlp.down_proj        columns of this rank                (hidden, rank) replicated

In NxD a rank has the k and v rows of its own heads, and gradients are summed over the ranks that share a head. Here
every rank has all rows and selects its own, which gives the same sum for any order of the copies.

An adapter that PEFT trained has a lora_A of its own for each projection, and training continues with them: they are
stacked, (projections x rank, features), in the order of the targeted projections, and lora_B @ lora_A is computed with
a block-diagonal lora_B.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from common.formats.peft_folder import LoraConfig
from common.shards.layout import PROJECTIONS, ModelShape, ShardLayout, projection_segments, shard_name
from common.training.initial_adapter import InitialAdapter

MODULES = tuple(dict.fromkeys(projection.module for projection in PROJECTIONS.values()))
_KEY_VALUE = ("self_attn.k_proj", "self_attn.v_proj")
Views = dict[tuple[int, str, str], torch.Tensor]  # keys: layer, module, and lora_A or the projection of a lora_B


@dataclass(frozen=True)
class Parameter:
    """The size of a parameter on one rank, and whether it is replicated on all ranks."""

    size: tuple[int, int]
    replicated: bool


@dataclass(frozen=True)
class ModuleLora:
    """The adapter of one fused layer: lora_A, and lora_B of each targeted projection."""

    lora_a: torch.Tensor  # (rank, in features of this rank), or that of each targeted projection one below the other
    parts: dict[str, torch.Tensor]
    widths: dict[str, int]  # out features on this rank of every projection in the layer
    key_value_rows: slice  # this rank's rows of all K/V heads

    def lora_b(self) -> torch.Tensor:
        """(out features of this rank, rows of lora_a): all projections in order, with zeros for those not targeted."""
        parts = [self._part(name) for name in self.widths]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if self._shares_lora_a else self._block_diagonal(parts)

    def sharing(self, parameter: str) -> list[str]:
        """The projections whose rows are in NxD's tensor lora_B.`parameter`, in order; gate and up share one."""
        return [name for name in self.widths if PROJECTIONS[name].parameter == parameter]

    def parameters(self) -> list[str]:
        """The names, in NxD, of the lora_B tensors with a targeted projection."""
        return list(dict.fromkeys(PROJECTIONS[name].parameter for name in self.parts))

    def tensors(self) -> dict[str, torch.Tensor]:
        """lora_A and lora_B under NxD's names, with zero rows for projections that are not targeted."""
        lora_b = {
            f"lora_B.{parameter}": torch.cat([self._part(name) for name in self.sharing(parameter)])
            for parameter in self.parameters()
        }
        return {"lora_A.weight": self.lora_a, **lora_b}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `tensors`. Rows of other ranks are left unchanged."""
        self.lora_a.data.copy_(tensors["lora_A.weight"])
        for parameter in self.parameters():
            names = self.sharing(parameter)
            rows = tensors[f"lora_B.{parameter}"].split([self.widths[name] for name in names])
            for name, own in zip(names, rows, strict=True):
                if name in _KEY_VALUE and name in self.parts:
                    self.parts[name].data[self.key_value_rows] = own
                elif name in self.parts:
                    self.parts[name].data.copy_(own)

    @property
    def _rank(self) -> int:
        return next(iter(self.parts.values())).shape[1]

    @property
    def _shares_lora_a(self) -> bool:
        return len(self.lora_a) == self._rank

    def _block_diagonal(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Each part in the columns of its own lora_A."""
        columns = {name: index * self._rank for index, name in enumerate(self.parts)}
        left = [columns.get(name, 0) for name in self.widths]
        right = [len(self.lora_a) - self._rank - start for start in left]
        return torch.cat([functional.pad(part, space) for part, *space in zip(parts, left, right, strict=True)])

    def _part(self, name: str) -> torch.Tensor:
        if name not in self.parts:
            return self.lora_a.new_zeros(self.widths[name], self._rank)
        return self.parts[name][self.key_value_rows] if name in _KEY_VALUE else self.parts[name]


class Adapter:
    """All trainable parameters of one rank: flat `weights` and `gradient`, and the modules' views of them.

    They start from `initial`, or else from a lora_A that is drawn with `seed` and a lora_B of zeros. `replicated` is
    the number of elements, at the start, that all ranks share.
    """

    def __init__(
        self, shape: ModelShape, layout: ShardLayout, rank: int, config: LoraConfig, seed: int,
        initial: InitialAdapter | None = None,
    ) -> None:  # fmt: skip
        self.config, self._layout, self._shape, self._rank = config, layout, shape, rank
        shares_lora_a = initial is None or initial.shares_lora_a
        specs = {
            (layer, module, name): spec
            for layer in range(shape.num_hidden_layers)
            for module in MODULES
            for name, spec in _parameters(shape, layout, config, module, shares_lora_a).items()
        }
        order = sorted(specs, key=lambda place: not specs[place].replicated)
        self._sizes = {place: specs[place].size for place in order}
        self.replicated = sum(math.prod(spec.size) for spec in specs.values() if spec.replicated)
        total = sum(math.prod(size) for size in self._sizes.values())
        self.weights, self.gradient = torch.zeros(total), torch.zeros(total)
        self._views = self._leaves()
        if initial is None:
            self._draw_lora_a(seed)
        else:
            self._start_from(initial)

    @property
    def anchor(self) -> torch.Tensor:
        """Any parameter: an operation that takes it as an input requires a gradient."""
        return next(iter(self._views.values()))

    def module(self, layer: int, module: str, views: Views | None = None) -> ModuleLora | None:
        """The adapter of one layer's `module` (of MODULES); None if nothing in it is targeted.

        It uses `weights`, or the `views` of another tensor.
        """
        names, views = targeted(self.config, module), views or self._views
        if not names:
            return None
        return ModuleLora(
            views[layer, module, "lora_A"],
            {name: views[layer, module, name] for name in names},
            {name: _width(self._shape, self._layout, name) for name in projections(module)},
            _key_value_rows(self._shape, self._layout, self._rank),
        )

    def views(self, flat: torch.Tensor) -> Views:
        """Views of the parameters in `flat`, a tensor like `weights` on any device, which takes their gradients."""
        pieces = flat.split([math.prod(size) for size in self._sizes.values()])
        return {place: piece.view(size) for (place, size), piece in zip(self._sizes.items(), pieces, strict=True)}

    def fault(self) -> str | None:
        """A message if a trained parameter of this rank is not finite or still zero; None if all are fine."""
        for (layer, module, name), view in self._views.items():
            if not torch.isfinite(view).all():
                return f"layer {layer} {module}: {name} of the adapter has infinite or NaN values"
            if not view.any():
                return f"layer {layer} {module}: {name} of the adapter is all zero: nothing was learned there"
        return None

    def modules(self) -> dict[str, ModuleLora]:
        """The adapter of every targeted layer, by NxD's name of the layer."""
        return {
            f"model.layers.{layer}.{module}": lora
            for layer in range(self._shape.num_hidden_layers)
            for module in MODULES
            if (lora := self.module(layer, module))
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies of this rank's tensors under NxD's names."""
        return {
            f"{module}.{name}": tensor.detach().clone()
            for module, lora in self.modules().items()
            for name, tensor in lora.tensors().items()
        }

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `tensors`."""
        for module, lora in self.modules().items():
            own = {name: tensors[f"{module}.{name}"] for name in lora.tensors()}
            lora.load(own)

    def save(self, folder: Path) -> None:
        """Write this rank's file of `folder`/lora_adapter as NxD does with merge_sharded_lora=False."""
        target = folder / "lora_adapter" / "lora" / "model"
        target.mkdir(parents=True, exist_ok=True)
        torch.save(self.tensors(), target / shard_name(self._rank))

    def save_config(self, folder: Path) -> None:
        """Write the files of `folder`/lora_adapter that all ranks share: the configuration and NxD's markers."""
        content = {
            "lora_rank": self.config.rank,
            "lora_alpha": self.config.alpha,
            "lora_dropout": self.config.dropout,
            "use_rslora": self.config.use_rslora,
            "target_modules": [module.partition(".")[2] for module in MODULES if targeted(self.config, module)],
            "bias": "none",
        }
        text = json.dumps(content, indent=2) + "\n"
        (folder / "lora_adapter" / "adapter_config.json").write_text(text, encoding="utf-8")
        for marker in ("checkpoint", "done"):
            (folder / "lora_adapter" / "lora" / marker).write_text("1", encoding="utf-8")

    def _leaves(self) -> Views:
        """Leaf tensors whose values and gradients are views of the flat buffers."""
        leaves = {place: view.detach().requires_grad_() for place, view in self.views(self.weights).items()}
        for place, gradient in self.views(self.gradient).items():
            leaves[place].grad = gradient
        return leaves

    def _draw_lora_a(self, seed: int) -> None:
        """Initialize lora_A Kaiming-uniform with a = sqrt(5), PEFT's and NxD's default: ±1 / sqrt(in features).

        The full tensors are drawn and then sharded, so that every tp_size starts from the same adapter. lora_B stays
        zero.
        """
        generator = torch.Generator().manual_seed(seed)
        for (_, module, name), view in sorted(self._views.items()):
            if name == "lora_A":
                projection = projections(module)[0]
                in_features = self._shape.projection(projection)[1]
                full = torch.empty(self.config.rank, in_features).uniform_(-1, 1, generator=generator)
                view.data.copy_(self._own_columns(projection, full) / math.sqrt(in_features))

    def _start_from(self, initial: InitialAdapter) -> None:
        for (layer, module, name), view in self._views.items():
            if name == "lora_A":
                names = targeted(self.config, module)
                own = names[:1] if initial.shares_lora_a else names
                view.data.copy_(torch.cat([self._own_columns(one, initial.lora_a(layer, one)) for one in own]))
            else:
                full = initial.lora_b(layer, name)
                view.data.copy_(full if len(view) == len(full) else full[self._own(name)])

    def _own_columns(self, projection: str, lora_a: torch.Tensor) -> torch.Tensor:
        """This rank's columns of a full lora_A."""
        return lora_a[:, self._own(projection)] if PROJECTIONS[projection].axis == 1 else lora_a

    def _own(self, projection: str) -> torch.Tensor:
        return _own_indices(self._shape, self._layout, projection, self._rank)


def projections(module: str) -> list[str]:
    """The keys of PROJECTIONS that are stored in `module`, in the order of their rows."""
    return [name for name, projection in PROJECTIONS.items() if projection.module == module]


def targeted(config: LoraConfig, module: str) -> list[str]:
    """The members of `projections(module)` that `config` targets."""
    return [name for name in projections(module) if name.partition(".")[2] in config.targets]


def _parameters(
    shape: ModelShape, layout: ShardLayout, config: LoraConfig, module: str, shares_lora_a: bool
) -> dict[str, Parameter]:
    """lora_A and each lora_B of one layer's `module`; empty if nothing in it is targeted."""
    parameters, names = {}, targeted(config, module)
    for name in names:
        out_features, in_features = shape.projection(name)
        if PROJECTIONS[name].axis == 1:
            parameters["lora_A"] = Parameter((config.rank, in_features // layout.tp_size), replicated=False)
            parameters[name] = Parameter((out_features, config.rank), replicated=True)
        else:
            stacked = 1 if shares_lora_a else len(names)
            parameters["lora_A"] = Parameter((stacked * config.rank, in_features), replicated=True)
            all_heads = name in _KEY_VALUE
            rows = out_features if all_heads else out_features // layout.tp_size
            parameters[name] = Parameter((rows, config.rank), replicated=all_heads)
    return parameters


def _width(shape: ModelShape, layout: ShardLayout, name: str) -> int:
    """The out features of a projection on one rank."""
    return len(_own_indices(shape, layout, name, 0)) if PROJECTIONS[name].axis == 0 else shape.projection(name)[0]


def _key_value_rows(shape: ModelShape, layout: ShardLayout, rank: int) -> slice:
    """The rows of `rank` among those of all K/V heads: contiguous, as it has one head or several distinct ones."""
    segments = projection_segments(shape, layout, _KEY_VALUE[0])
    [own] = [segment for segment in segments if segment.rank == rank]
    return slice(own.start, own.start + own.length)


def _own_indices(shape: ModelShape, layout: ShardLayout, name: str, rank: int) -> torch.Tensor:
    """The rows (columns of a row-parallel layer) of a full projection that `rank` has, in its order."""
    segments = (segment for segment in projection_segments(shape, layout, name) if segment.rank == rank)
    return torch.from_numpy(np.concatenate([np.arange(s.start, s.start + s.length) for s in segments]))
