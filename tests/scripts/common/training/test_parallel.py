from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from common.program import BadInput  # noqa: E402
from common.training import parallel  # noqa: E402
from common.training.parallel import Ranks  # noqa: E402


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of torch.distributed when a process group is left."""
    made: list[str] = []
    monkeypatch.setattr(parallel.dist, "barrier", lambda group: made.append("barrier"))
    monkeypatch.setattr(parallel.dist, "destroy_process_group", lambda: made.append("destroy"))
    return made


def test_the_group_is_left_after_success_and_after_an_error_of_all_ranks(calls: list[str]) -> None:
    with Ranks(0, 2):
        pass
    with pytest.raises(BadInput), Ranks(0, 2):
        raise BadInput("no data")
    assert calls == ["barrier", "destroy"] * 2


def test_an_error_of_one_rank_does_not_wait_for_the_others(calls: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), Ranks(0, 2):
        raise ZeroDivisionError
    assert calls == []


def test_a_single_rank_has_no_group(calls: list[str]) -> None:
    with Ranks() as ranks:
        assert ranks.first_message("broken") == "broken"
        assert ranks.sum(torch.ones(2)).tolist() == [1, 1]
    assert calls == []
