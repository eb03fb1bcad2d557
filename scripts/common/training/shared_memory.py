"""Reductions over the ranks of one machine through memory that they share: gloo's sockets take ten times as long.

Each rank writes its values into a slot of its own, tells the others by a byte in a pipe, waits for theirs, and reads
all slots. There are two sets of slots, used in turns: a rank that tells of its next values has read the previous ones.

The memory and the pipes have no names: rank 0 makes them, and the others open them in /proc. So nothing is left
behind, however the ranks end.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

_SLOT = 1 << 20  # bytes; a longer tensor is reduced piece by piece


class _Made(NamedTuple):
    """What rank 0 has made: its process id, and the descriptors there."""

    process: int
    memory: int
    pipes: dict[tuple[int, int], tuple[int, int]]  # by sender and receiver: the ends to read and to write

    def reopen(self, descriptor: int, flags: int) -> int:
        return os.open(f"/proc/{self.process}/fd/{descriptor}", flags)


def share(rank: int, size: int) -> SharedMemory | None:
    """Memory of all ranks; None if they are on several machines, or where the system does not allow it."""
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) < size or not hasattr(os, "memfd_create"):
        return None
    with ExitStack() as until_opened:
        made = shared = None
        with suppress(OSError):
            made = _make(size, until_opened) if rank == 0 else None
        made = _gathered(made, size)[0]
        with suppress(OSError):
            shared = SharedMemory(rank, size, made) if made else None
        return shared if all(_gathered(shared is not None, size)) else None


def _gathered(value: Any, size: int) -> list[Any]:
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


def _make(size: int, until_opened: ExitStack) -> _Made:
    memory = os.memfd_create("ranks")
    until_opened.callback(os.close, memory)
    os.ftruncate(memory, 2 * size * _SLOT)
    pairs = [(sender, receiver) for sender in range(size) for receiver in range(size) if sender != receiver]
    pipes = {pair: os.pipe() for pair in pairs}
    for end in (end for ends in pipes.values() for end in ends):
        until_opened.callback(os.close, end)
    return _Made(os.getpid(), memory, pipes)


class SharedMemory:
    """The slots of `size` ranks, and the pipes that `rank` reads and writes."""

    def __init__(self, rank: int, size: int, made: _Made) -> None:
        self._rank, self._turn = rank, 0
        others = [other for other in range(size) if other != rank]
        self._from = [made.reopen(made.pipes[other, rank][0], os.O_RDONLY) for other in others]
        self._to = [made.reopen(made.pipes[rank, other][1], os.O_WRONLY) for other in others]
        memory = made.reopen(made.memory, os.O_RDWR)
        slots = mmap.mmap(memory, 2 * size * _SLOT)
        os.close(memory)
        self._slots = torch.frombuffer(slots, dtype=torch.uint8).view(2, size, _SLOT)

    def reduce(self, tensor: torch.Tensor, combine: Callable[..., Any]) -> None:
        """Combine a contiguous tensor over the ranks in place, in their order, so that all get the same bits.

        `combine` is torch.add or torch.maximum. Raises ConnectionError if another rank has ended.
        """
        for piece in tensor.view(-1).split(_SLOT // tensor.element_size()):
            self._turn ^= 1
            slots = self._slots[self._turn].view(tensor.dtype)[:, : len(piece)]
            slots[self._rank].copy_(piece)
            self._wait_for_others()
            combine(slots[0], slots[1], out=piece)
            for slot in slots[2:]:
                combine(piece, slot, out=piece)

    def _wait_for_others(self) -> None:
        for pipe in self._to:
            os.write(pipe, b"\0")
        for pipe in self._from:
            if not os.read(pipe, 1):
                raise ConnectionError("another rank has ended")
