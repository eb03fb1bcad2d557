"""Reductions through memory that ranks share. Threads of one process open it as other processes do."""

from __future__ import annotations

import operator
from functools import reduce

import pytest

torch = pytest.importorskip("torch")

from common.training import shared_memory  # noqa: E402
from common.training.parallel import Ranks  # noqa: E402
from common.training.shared_memory import SharedMemory, share  # noqa: E402
from tests.scripts.thread_ranks import run_on_ranks  # noqa: E402

pytestmark = pytest.mark.skipif(not hasattr(shared_memory.os, "memfd_create"), reason="only Linux has memfd_create")


@pytest.fixture(autouse=True)
def one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(shared_memory, "_SLOT", 64)


def shared(ranks: Ranks) -> SharedMemory:
    memory = share(ranks.rank, ranks.size)
    assert memory
    return memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_all_ranks_get_the_sum_in_their_order_however_long_it_is(monkeypatch, dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 8, 100, 0, 16, 33]
    values = [[(torch.rand(n, generator=generator) * 100).to(dtype) for _ in range(3)] for n in lengths]

    def program(ranks: Ranks) -> list[torch.Tensor]:
        memory, own = shared(ranks), [value[ranks.rank].clone() for value in values]
        for tensor in own:
            memory.reduce(tensor, torch.add)
        return own

    for sums in run_on_ranks(3, program, monkeypatch):
        assert [one.tolist() for one in sums] == [reduce(operator.add, value).tolist() for value in values]


def test_all_ranks_get_the_maximum_of_a_number_and_of_a_matrix(monkeypatch) -> None:
    def program(ranks: Ranks) -> tuple[bool, list[list[int]]]:
        members = Ranks(ranks.rank, ranks.size, memory=shared(ranks))
        return members.any(ranks.rank == 1), members.max(torch.tensor([[ranks.rank], [-ranks.rank]])).tolist()

    assert run_on_ranks(3, program, monkeypatch) == [(True, [[2], [0]])] * 3


def test_a_rank_that_has_ended_is_an_error_for_the_others(monkeypatch) -> None:
    def program(ranks: Ranks) -> None:
        memory = shared(ranks)
        if ranks.rank == 2:
            for pipe in (*memory._from, *memory._to):
                shared_memory.os.close(pipe)
            return
        with pytest.raises(ConnectionError):
            memory.reduce(torch.ones(2), torch.add)

    run_on_ranks(3, program, monkeypatch)


def test_ranks_on_several_machines_or_that_may_not_share_use_sockets(monkeypatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    for refused in ("open", "memfd_create"):
        with monkeypatch.context() as patched:
            patched.setattr(shared_memory.os, refused, refuse)
            assert run_on_ranks(3, lambda ranks: share(ranks.rank, ranks.size), monkeypatch) == [None] * 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert run_on_ranks(3, lambda ranks: share(ranks.rank, ranks.size), monkeypatch) == [None] * 3
