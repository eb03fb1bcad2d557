"""Runs a program that needs neuronx_distributed (NxD) on a CPU, with the real NxD.

    NXD_CPU_MODE=1 NXD_STUB_PLATFORM=trn2 PYTHONPATH=neuronx-distributed/src python on_cpu.py train_nxd.py FLAGS

NxD imports torch_xla, torch_neuronx and the compilers wherever it runs, but under NXD_CPU_MODE its collectives are
gloo's. So those packages need to be there in name: any attribute of them is a class that does nothing. What
train_nxd.py comes through is filled in below. NXD_STUB_PLATFORM says which accelerator is asked for: trn1 or trn2.

As on the device, `module.to("xla")` makes new parameters, and what was noted on the old ones is gone; and a
tensor has no strides, so that every view of it is possible.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import runpy
import sys
import types
from pathlib import Path

import torch
import torch.distributed as dist
import torch.utils.checkpoint

PACKAGES = ("torch_xla", "torch_neuronx", "libneuronxla", "neuronxcc", "nki", "nkilib")


class Anything(type):
    """The type of a class whose every attribute is another such class; it also takes part in annotations."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), INSTANCE)

    def __getitem__(cls, item):
        return cls

    def __or__(cls, other):
        return cls

    __ror__ = __or__

    def __iter__(cls):
        return iter(())


INSTANCE = {
    "__init__": lambda self, *args, **named: None,
    "__call__": lambda self, function=None, *args, **named: function,  # as a decorator
    "__getattr__": lambda self, name: getattr(type(self), name),
}
NOTHING = Anything("Nothing", (), INSTANCE)


class Package(types.ModuleType):
    """A package in which every name is found."""

    __path__: list[str] = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}") or getattr(NOTHING, name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `packages` and all that is below them."""

    def __init__(self, packages):
        self._packages = packages

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self._packages:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Package(spec.name)

    def exec_module(self, module):
        for name, value in FILLED.get(module.__name__, {}).items():
            setattr(module, name, value)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def rendezvous(tag, *args, **named):
    dist.barrier()


def _group(groups):
    """The process group of this rank among `groups`, given as lists of ranks; made by all ranks together."""
    if not isinstance(groups, list):
        return groups
    key = str(groups)
    if key not in _GROUPS:
        made = [dist.new_group(ranks) for ranks in groups]
        _GROUPS[key] = next(group for group, ranks in zip(made, groups, strict=True) if rank() in ranks)
    return _GROUPS[key]


_GROUPS: dict[str, dist.ProcessGroup] = {}


def all_reduce(kind, inputs, scale=1.0, groups=None, **named):
    for tensor in [inputs] if isinstance(inputs, torch.Tensor) else inputs:
        dist.all_reduce(tensor, group=_group(groups))
    return inputs


def all_gather(value, dim=0, groups=None, **named):
    parts = [torch.empty_like(value) for _ in range(dist.get_world_size(_group(groups)))]
    dist.all_gather(parts, value.detach().contiguous(), group=_group(groups))
    return torch.cat(parts, dim)


def reduce_scatter(kind, input, scale, scatter_dim, shard_count, groups=None, output=None, **named):
    total = all_reduce(kind, input.detach().clone(memory_format=torch.contiguous_format), groups=groups)
    own = total.chunk(shard_count, scatter_dim)[dist.get_rank(_group(groups))]
    return own.contiguous() if output is None else output.copy_(own)


class Zero1(torch.optim.Optimizer):
    """ZeRO-1 as torch_xla has it: a wrapped optimizer over this copy's rows of every parameter."""

    def __init__(self, params, optimizer_class, sharding_groups, grad_clipping, **named):
        kept = {"values": named["values"]}
        super().__init__(params, kept)
        assert not grad_clipping
        group = next(group for group in sharding_groups if rank() in group)
        self._copies, self._copy, self._group = len(group), group.index(rank()), _group(sharding_groups)
        self._optimizer_class, self._kept = optimizer_class, kept
        self.init_zero()

    def init_zero(self):
        self._slices = [self._slice(p.data).clone().requires_grad_() for p in self.param_groups[0]["params"]]
        self.base_optimizer = self._optimizer_class(self._slices, **self._kept)

    @torch.no_grad()
    def step(self, closure=None):
        parameters = self.param_groups[0]["params"]
        self.base_optimizer.param_groups[0]["values"] = self.param_groups[0]["values"]
        for own, parameter in zip(self._slices, parameters, strict=True):
            gradient = parameter.grad.clone()
            dist.all_reduce(gradient, group=self._group)
            own.grad = self._slice(gradient / self._copies).clone()
        self.base_optimizer.step()
        for own, parameter in zip(self._slices, parameters, strict=True):
            rows = [torch.empty_like(own) for _ in range(self._copies)]
            dist.all_gather(rows, own.detach(), group=self._group)
            parameter.data.copy_(torch.cat(rows)[: len(parameter)])

    def state_dict(self):
        return {**super().state_dict(), "base_state": self.base_optimizer.state_dict()["state"]}

    def load_state_dict(self, state):
        base = state.pop("base_state")
        super().load_state_dict(state)
        self.init_zero()
        self.base_optimizer.load_state_dict({**self.base_optimizer.state_dict(), "state": base})

    def _slice(self, tensor):
        rows = -(-len(tensor) // self._copies)
        padded = torch.nn.functional.pad(tensor, [0, 0] * (tensor.dim() - 1) + [0, rows * self._copies - len(tensor)])
        return padded.chunk(self._copies)[self._copy]


FILLED = {
    "torch_xla": {"__version__": "2.8.0"},
    "torch_xla.core.xla_model": {
        "xla_device": lambda *args: torch.device("cpu"),
        "mark_step": lambda *args, **named: None,
        "is_master_ordinal": lambda local=True: rank() == 0,
        "get_ordinal": lambda *args: rank(),
        "rendezvous": rendezvous,
        "all_reduce": all_reduce, "all_gather": all_gather, "reduce_scatter": reduce_scatter,
        "set_rng_state": lambda *args: None,
        "REDUCE_SUM": "sum", "REDUCE_MAX": "max", "REDUCE_MIN": "min",
    },
    "torch_xla.runtime": {
        "local_ordinal": rank, "global_ordinal": rank, "world_size": lambda: dist.get_world_size(),
    },
    "torch_xla.core.xla_env_vars": {"HOST_WORLD_SIZE": "HOST_WORLD_SIZE"},
    "torch_xla.utils.checkpoint": {"checkpoint": torch.utils.checkpoint.checkpoint},
    "torch_xla.distributed.zero_redundancy_optimizer": {"ZeroRedundancyOptimizer": Zero1},
    "torch_neuronx.utils": {"get_platform_target": lambda: os.environ["NXD_STUB_PLATFORM"]},
    "torch_neuronx.utils.utils": {"get_platform_target": lambda: os.environ["NXD_STUB_PLATFORM"]},
}  # fmt: skip


def _on_cpu(create):
    def made(*args, device=None, **named):
        return create(*args, device="cpu" if device == "xla" else device, **named)

    return made


def _view(self, *shape, _view=torch.Tensor.view):
    return _view(self, *shape) if isinstance(shape[0], torch.dtype) else self.reshape(*shape)


def _moved(self, *args, _to=torch.nn.Module.to, **named):
    if args != ("xla",):
        return _to(self, *args, **named)
    for module in self.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(parameter.detach(), parameter.requires_grad))
    return self


def stand_in(packages):
    """Stand in for these packages, and for what libtorchneuron registers."""
    sys.meta_path.insert(0, Finder(packages))
    torch.classes.__dict__["neuron"] = NOTHING


if __name__ == "__main__":
    stand_in(PACKAGES)
    torch.nn.Module.to = _moved
    torch.Tensor.view = _view
    for _name in ("ones", "zeros", "empty", "rand"):
        setattr(torch, _name, _on_cpu(getattr(torch, _name)))
    os.environ.setdefault("HOST_WORLD_SIZE", "1")
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
