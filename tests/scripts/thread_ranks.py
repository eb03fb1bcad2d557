"""Tensor-parallel ranks as threads of one process: the collectives of torch.distributed that the trainer uses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed as dist

from common.training.parallel import Ranks

T = TypeVar("T")


class _Collectives:
    """Each thread leaves its value, waits for the others and reads all; on CPUs, backward runs in the same thread."""

    def __init__(self, size: int) -> None:
        self._values: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=60)
        self._own = threading.local()

    def run(self, rank: int, program: Callable[[Ranks], T]) -> T:
        self._own.rank = rank
        try:
            return program(Ranks(rank, len(self._values)))
        except BaseException:
            self._barrier.abort()
            raise

    def gathered(self, value: Any) -> list[Any]:
        self._values[self._own.rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values

    def all_reduce(self, tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None) -> None:
        stacked = torch.stack(self.gathered(tensor.clone()))
        tensor.copy_(stacked.amax(0) if op == dist.ReduceOp.MAX else stacked.sum(0))

    def all_gather_object(self, values: list[Any], value: Any, group: Any = None) -> None:
        values[:] = self.gathered(value)

    def barrier(self, group: Any = None) -> None:
        self._barrier.wait()


def run_on_ranks(size: int, program: Callable[[Ranks], T], monkeypatch: pytest.MonkeyPatch) -> list[T]:
    """The results of `program` on `size` ranks, in their order."""
    collectives = _Collectives(size)
    for name in ("all_reduce", "all_gather_object", "barrier"):
        monkeypatch.setattr(dist, name, getattr(collectives, name))
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: collectives.run(rank, program), range(size)))
