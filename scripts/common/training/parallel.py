"""Tensor-parallel ranks on gloo, and the two collectives of a tensor-parallel layer as autograd functions.

They are f and g of Megatron-LM (Shoeybi et al. 2019, section 3): the input of a column-parallel layer is copied in
the forward pass and its gradient is summed; the output of a row-parallel layer is summed and its gradient is copied.

    RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT    set by torchrun; without them there is one rank
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from common.program import BadInput, Interrupted, StageFailed
from common.training.shared_memory import SharedMemory, share


@dataclass(frozen=True)
class Ranks:
    """The ranks that share one model. With one rank there is no process group and collectives do nothing.

    `group` is their process group; None: torch's default group. `memory` is what ranks on one machine may share.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    memory: SharedMemory | None = None

    @classmethod
    def from_environment(cls) -> Ranks:
        """Rank and world size as set by torchrun; does not join a process group."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    def join(self) -> Ranks:
        """Join the process group, waiting for the other ranks; returns the ranks as members."""
        if self.size == 1:
            return self
        dist.init_process_group("gloo", rank=self.rank, world_size=self.size)
        return replace(self, memory=share(self.rank, self.size))

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the process group together with the other ranks.

        BadInput, StageFailed and Interrupted are raised on every rank. Any other error is raised on this rank only:
        the others never reach the barrier, so do not wait for them.
        """
        if self.size > 1 and (kind is None or issubclass(kind, (BadInput, StageFailed, Interrupted))):
            dist.barrier(self.group)
            dist.destroy_process_group()

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(self.group)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a contiguous `tensor` over the ranks, in place."""
        if self.memory:
            self.memory.reduce(tensor, torch.add)
        elif self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        """Take the elementwise maximum of a contiguous `tensor` over the ranks, in place."""
        if self.memory:
            self.memory.reduce(tensor, torch.maximum)
        elif self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank."""
        return bool(self.max(torch.tensor(int(flag))))

    def first_message(self, message: str | None) -> str | None:
        """The message of the lowest rank that has one, so that all ranks fail together for the same reason."""
        if self.size == 1:
            return message
        messages: list[str | None] = [None] * self.size
        dist.all_gather_object(messages, message, group=self.group)
        return next((text for text in messages if text is not None), None)

    def scatter(self, hidden: torch.Tensor) -> torch.Tensor:
        """The input of a column-parallel layer: its gradient is summed over the ranks."""
        return hidden if self.size == 1 else _SumBackward.apply(hidden, self)

    def gather(self, partial: torch.Tensor) -> torch.Tensor:
        """The output of a row-parallel layer: the sum of the ranks' `partial` outputs."""
        return partial if self.size == 1 else _SumForward.apply(partial, self)


class _SumBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: torch.Tensor, ranks: Ranks):
        ctx.ranks = ranks
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return ctx.ranks.sum(gradient.contiguous()), None


class _SumForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, partial: torch.Tensor, ranks: Ranks):
        ctx.mark_dirty(partial)
        return ranks.sum(partial)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return gradient, None


def use_fair_share_of_cores() -> None:
    """Limit torch's threads to this rank's share of the cores: more threads than cores halve the speed.

    OMP_NUM_THREADS takes precedence, as usual in torch; torchrun sets it to 1 if it is not set.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
