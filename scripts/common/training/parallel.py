"""Tensor-parallel ranks on gloo, and the two collectives a tensor-parallel layer needs as autograd functions.

The pair is Megatron-LM's f and g (Shoeybi et al. 2019, section 3): what enters a column-parallel layer is
copied forward and summed backward, what leaves a row-parallel layer is summed forward and copied backward.

    RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT    set by torchrun; without them there is one rank
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from common.program import BadInput, StageFailed


@dataclass(frozen=True)
class Ranks:
    """The ranks that share one model. Alone (size 1) there is no process group and a collective does nothing.

    `group` is where they meet; None: torch's default group.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @classmethod
    def from_environment(cls) -> Ranks:
        """Rank and world size as torchrun sets them; joins no process group yet."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    def join(self) -> None:
        """Meet the other ranks."""
        if self.size > 1:
            dist.init_process_group("gloo", rank=self.rank, world_size=self.size)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the process group in step with the other ranks.

        BadInput and StageFailed are raised on every rank. Any other error is this rank's alone: the others never come
        to the barrier, so it is not waited for.
        """
        if self.size > 1 and (kind is None or issubclass(kind, (BadInput, StageFailed))):
            dist.barrier(self.group)
            dist.destroy_process_group()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier(self.group)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` summed over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        """The elementwise maximum of `tensor` over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return tensor

    def first_message(self, message: str | None) -> str | None:
        """The message of the lowest rank that has one: so all ranks end together, for the same reason."""
        if self.size == 1:
            return message
        messages: list[str | None] = [None] * self.size
        dist.all_gather_object(messages, message, group=self.group)
        return next((text for text in messages if text is not None), None)

    def scatter(self, hidden: torch.Tensor) -> torch.Tensor:
        """`hidden` into a column-parallel layer: its gradient is the sum of the ranks' shares."""
        return hidden if self.size == 1 else _SumBackward.apply(hidden)

    def gather(self, partial: torch.Tensor) -> torch.Tensor:
        """The sum of the ranks' `partial` outputs of a row-parallel layer."""
        return partial if self.size == 1 else _SumForward.apply(partial)


class _SumBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden):
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient


class _SumForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, partial):
        ctx.mark_dirty(partial)
        dist.all_reduce(partial)
        return partial

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def use_fair_share_of_cores() -> None:
    """As many threads as this rank's share of the cores: ranks × threads beyond the cores halve the speed.

    OMP_NUM_THREADS goes first, as everywhere in torch; torchrun sets it to 1 where nobody did.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
